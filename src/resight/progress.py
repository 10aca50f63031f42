"""Progress of long loops: a bar on a terminal, a plain log line every ten seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from .errors import escaped

log = logging.getLogger(__name__)

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


class JsonLines(logging.Formatter):
    """One JSON object a line; where a handler speaks it, progress never draws a bar."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        return escaped(json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False))


class Meter(Protocol):
    """What a loop tells about itself."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """``amount`` more of the total is done; ``note`` is shown beside it, e.g. the loss."""


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items of ``iterable`` and shows how far it is.

    Args:
        iterable: anything to loop over.
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
        yield _Silent()
    elif _draws():
        with _bar(description, total) as bar:
            yield bar
    else:
        lines = _Lines(description, total)
        yield lines
        lines.finish()


def _draws() -> bool:
    handlers = logging.getLogger("resight").handlers
    return sys.stderr.isatty() and not any(isinstance(handler.formatter, JsonLines) for handler in handlers)


class _Silent:
    def advance(self, amount: float = 1, note: str = "") -> None:
        pass


class _Lines:
    def __init__(self, description: str, total: float | None) -> None:
        self.description, self.total = description, total
        self.done, self.said, self.note = 0.0, 0.0, ""
        self.start = self.last = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.say()

    def finish(self) -> None:
        if 0 < self.said < self.done:  # a loop that needed no line needs no last one
            self.say()

    def say(self) -> None:
        self.last, self.said = time.monotonic(), self.done
        elapsed = self.last - self.start
        fields: dict[str, object] = {"progress": self.description, "done": self.done, "elapsed": round(elapsed, 1)}
        digits = 0 if abs(self.done - round(self.done)) < 1e-6 else 1  # minutes are not whole
        text = f"{self.description}: {self.done:,.{digits}f}"
        if self.total:
            left = elapsed * max(self.total - self.done, 0) / max(self.done, 1e-9)
            fields |= {"total": self.total, "left": round(left, 1)}
            text += f" of {self.total:,.{digits}f} ({self.done / self.total:.0%}), {_clock(left)} left"
        if self.note:
            fields["note"] = self.note
            text += f", {self.note}"
        log.info("%s", text, extra={"fields": fields})


@contextmanager
def _bar(description: str, total: float | None) -> Iterator[Meter]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, note="")

        class Bar:
            def advance(self, amount: float = 1, note: str = "") -> None:
                if note:
                    progress.update(task, advance=amount, note=note)
                else:
                    progress.update(task, advance=amount)

        yield Bar()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
