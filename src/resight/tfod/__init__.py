"""All that knows the TensorFlow Object Detection API: its checkpoints, its zoo, its configuration, its commands."""
