"""The package's messages, and the progress of long loops: on stderr, or where RESIGHT_LOG_STREAM says.

Progress is a bar on a terminal, a plain log line every ten seconds elsewhere, nothing when quiet.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TextIO, TypeVar

from ..errors import ResightError, escaped
from .terminal import LOG_STREAM, fitted, message_stream

log = logging.getLogger(__name__)

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


class JsonLines(logging.Formatter):
    """One JSON object a line; where a handler speaks it, progress never draws a bar."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return escaped(json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False))


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = escaped(record.getMessage())
        if record.exc_info:
            text += "\n" + escaped(self.formatException(record.exc_info))
        leveled = text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
        return fitted(leveled, message_stream())


class _Messages(logging.StreamHandler[TextIO]):
    """Writes to what the stream is at that moment, so that lines go above a progress bar and not through it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return message_stream()


def listen(*, quiet: bool = False, debug: bool = False, as_json: bool = False) -> None:
    """Sends the package's messages to stderr, or where the environment says: all, or with ``quiet`` only warnings.
    Raises ResightError: the environment names no stream."""
    if (named := os.environ.get(LOG_STREAM)) and named not in ("stdout", "stderr"):
        raise ResightError(f"'{named}' is neither stdout nor stderr", where=LOG_STREAM, fix="stderr is the default.")
    handler, messages = _Messages(), logging.getLogger("resight")
    handler.setFormatter(JsonLines() if as_json else _Plain())
    messages.handlers, messages.propagate = [handler], False
    messages.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    if not debug:
        warnings.filterwarnings("ignore")  # libraries' advice to programmers


def speaks_json() -> bool:
    """Whether messages are JSON lines."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger("resight").handlers)


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items of ``iterable`` and shows how far it is.

    Args:
        description: what is being done, e.g. "writing train".
        total: number of items; by default ``len(iterable)`` where it has one.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with meter(description, total) as progress:
        for item in iterable:
            yield item
            progress.advance()


@contextmanager
def meter(description: str, total: float | None = None) -> Iterator[Meter]:
    """The same for a loop that counts in something else than items or has more to say (see :class:`Meter`)."""
    if not log.isEnabledFor(logging.INFO):
        yield Meter(description, total)
    elif message_stream().isatty() and not speaks_json():
        with _bar(description, total) as bar:
            yield bar
    else:
        lines = _Lines(description, total)
        yield lines
        if 0 < lines.said < lines.done:  # a loop that needed no line needs no last one
            lines.say()


class Meter:
    """What a loop tells about itself; this one shows nothing."""

    def __init__(self, description: str, total: float | None) -> None:
        self.description, self.total, self.note = description, total, ""
        self.done, self.start = 0.0, time.monotonic()
        self._before, self._end = 0.0, None  # type: tuple[float, float | None]

    def advance(self, amount: float = 1, note: str = "", left: float | None = None) -> None:
        """``amount`` more of the total is done; ``note`` is shown beside it, e.g. the loss.

        ``left`` is the seconds until the end where the loop knows better than by what it has advanced: then the share
        that is shown is one of the time.
        """
        self.done += amount
        self.note = note or self.note
        if left is not None:
            if self._end is None and self.total:
                self._before = (self.done - amount) / self.total  # of a loop that goes on where another one stopped
            self._end = time.monotonic() + left
        self.show()

    def show(self) -> None:
        pass

    @property
    def left(self) -> float:
        """Seconds until the end."""
        now = time.monotonic()
        if self._end is not None:
            return max(self._end - now, 0.0)
        return (now - self.start) * max((self.total or 0) - self.done, 0) / max(self.done, 1e-9)

    @property
    def share(self) -> float:
        """The share of the loop that is done."""
        if self._end is None:
            return self.done / self.total if self.total else 0.0
        passed, left = time.monotonic() - self.start, self.left
        return self._before + (1 - self._before) * (passed / (passed + left) if left else 1.0)


class _Lines(Meter):
    def __init__(self, description: str, total: float | None) -> None:
        super().__init__(description, total)
        self.last, self.said = self.start, 0.0

    def show(self) -> None:
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.say()

    def say(self) -> None:
        self.last, self.said = time.monotonic(), self.done
        elapsed = round(self.last - self.start, 1)
        fields: dict[str, object] = {"progress": self.description, "done": self.done, "elapsed": elapsed}
        digits = 0 if abs(self.done - round(self.done)) < 1e-6 else 1  # minutes are not whole
        text = f"{self.description}: {self.done:,.{digits}f}"
        if self.total:
            left, share = self.left, self.share
            fields |= {"total": self.total, "left": round(left, 1)}
            if self._end is not None:  # and what is counted is in the note
                text = f"{self.description}: {share:.0%}, {clock(left)} left"
            else:
                text += f" of {self.total:,.{digits}f} ({share:.0%}), {clock(left)} left"
        if self.note:
            fields["note"] = self.note
            text += f", {self.note}"
        log.info("%s", text, extra={"fields": fields})


@contextmanager
def _bar(description: str, total: float | None) -> Iterator[Meter]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    console = Console(stderr=message_stream() is sys.stderr)
    bar_width = 10 if console.width < 100 else 30
    room = console.width - len(description) - bar_width - len(" 100% 00:00:00 left  ")

    class Bar(Meter):
        def show(self) -> None:
            parts = self.note.split(", ")
            while len(parts) > 1 and len(", ".join(parts)) > room:  # as many, the first ones, as there is room for
                parts.pop()
            done = self.share * self.total if self.total else self.done
            progress.update(task, completed=done, note=", ".join(parts))

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            if not total or not bar.done:
                return Text("")
            return Text(clock(task.finished_time or 0.0) if task.finished else f"{clock(bar.left)} left")

    columns = [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=bar_width),
        TaskProgressColumn(show_speed=True),
        Left(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    ]
    bar = Bar(description, total)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, note="")
        yield bar


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``15 h 51 min``, ``2 d 3 h``: a time as people say it."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return " ".join([f"{minutes // 60} h", *([f"{minutes % 60} min"] if minutes % 60 else [])])
    return " ".join([f"{hours // 24} d", *([f"{hours % 24} h"] if hours % 24 else [])])


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
