"""Texts for a terminal of any width."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from typing import TextIO

WIDTH = 80  # of what is no terminal
LOG_STREAM = "RESIGHT_LOG_STREAM"  # of the environment: stdout, where a container's log is that; else stderr


def message_stream() -> TextIO:
    """Where messages and progress go: what ``sys.stderr``, or ``sys.stdout``, is at that moment."""
    return sys.stdout if os.environ.get(LOG_STREAM) == "stdout" else sys.stderr


def fitted(text: str, stream: TextIO | None) -> str:
    """``text``, its lines broken between words where ``stream`` is a terminal too narrow for them."""
    width = width_of(stream)
    return wrapped(text, width) if width else text


def width_of(stream: TextIO | None) -> int:
    """Columns of the terminal that ``stream`` is, 0 where it is none."""
    try:
        if stream is None or not stream.isatty():
            return 0
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError):
        return 0


def wrapped(text: str, width: int) -> str:
    """``text`` in lines of ``width``, broken between words: what follows stands under the words of its line. A command
    stays on one line, so that it can be copied."""
    lines = []
    for line in text.split("\n"):
        start = re.match(r"\s*(\S+\s\s+)?", line)
        hang = min(len(start[0]) if start and start[0] else 2, max(width // 3, 1))
        if len(line) <= width or width < 20 or re.match(r"\s*(Next: )?(resight|python|pip|tensorboard) ", line):
            lines.append(line)
        else:
            lines += textwrap.wrap(
                line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines)
