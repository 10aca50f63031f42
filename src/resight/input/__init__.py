"""Records to tensors: sampling, augmentation, batches."""
