"""TFOD's ``pipeline.config``, translated to the configuration and back."""
