"""The package's messages: on stderr, or where RESIGHT_LOG_STREAM says, for people or as JSON lines."""

from __future__ import annotations

import logging
import warnings
from typing import TextIO

from ..errors import escaped
from .progress import JsonLines
from .terminal import check_message_stream, fitted, message_stream

log = logging.getLogger("resight")


class _Messages(logging.StreamHandler[TextIO]):
    """Writes to what the stream is at that moment, so that lines go above a progress bar and not through it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return message_stream()


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = escaped(record.getMessage())
        leveled = text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
        return fitted(leveled, message_stream())


def listen(*, quiet: bool = False, debug: bool = False, as_json: bool = False) -> None:
    """Sends the package's messages to stderr, or where the environment says: all of them, or with ``quiet`` only
    warnings.

    Raises:
        ResightError: the environment names no stream.
    """
    check_message_stream()
    handler = _Messages()
    handler.setFormatter(JsonLines() if as_json else _Plain())
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    if not debug:
        warnings.filterwarnings("ignore")  # libraries' advice to programmers
