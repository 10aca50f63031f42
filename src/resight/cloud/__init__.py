"""Training on AWS Batch: one stack of resources, one job a run. boto3 is imported only where it is used."""
