"""Text files of other people: in UTF-8, with or without a mark, or in UTF-16."""

from __future__ import annotations

import codecs
import os

from .errors import ResightError, reading


def read_text(path: str | os.PathLike[str]) -> str:
    """A whole file, without its byte order mark.

    Raises:
        ResightError: it cannot be read or is no text; names the byte.
    """
    with reading(path), open(path, "rb") as file:
        data = file.read()
    return decode_text(data, path)


def decode_text(data: bytes, where: str | os.PathLike[str]) -> str:
    """The text of a file that is read from ``where``. Raises ResightError as ``read_text``."""
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        fix = "Save it as UTF-8 and try again."
        raise ResightError("is not UTF-8 text", where=f"{where}, byte {error.start}", fix=fix) from error


def encoding_of(start: bytes) -> str:
    """The encoding of a text that starts like this."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
