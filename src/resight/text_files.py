"""The former place of :mod:`resight.files`."""

from .files import decode_text, encoding_of, read_text

__all__ = ["decode_text", "encoding_of", "read_text"]
