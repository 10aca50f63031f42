"""TFOD's checkpoints, read without TensorFlow."""
