"""Trained and exported models, ready to detect."""
