"""Progress of long loops: a bar on a terminal, a plain log line every ten seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from ..errors import escaped
from .terminal import message_stream

log = logging.getLogger(__name__)

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


class JsonLines(logging.Formatter):
    """One JSON object a line; where a handler speaks it, progress never draws a bar."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        return escaped(json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False))


class Meter:
    """What a loop tells about itself; this one shows nothing."""

    def advance(self, amount: float = 1, note: str = "", left: float | None = None) -> None:
        """``amount`` more of the total is done; ``note`` is shown beside it, e.g. the loss.

        ``left`` is the seconds until the end where the loop knows better than by what it has advanced: then the share
        that is shown is one of the time.
        """


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
        yield Meter()
    elif _draws():
        with _bar(description, total) as bar:
            yield bar
    else:
        lines = _Lines(description, total)
        yield lines
        lines.finish()


def speaks_json() -> bool:
    """Whether messages are JSON lines."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger("resight").handlers)


def _draws() -> bool:
    return message_stream().isatty() and not speaks_json()


class _Time:
    """The share of a loop that is done and the seconds that are left, by what it has advanced or says itself."""

    def __init__(self, total: float | None) -> None:
        self.total, self.done, self.start = total, 0.0, time.monotonic()
        self._before, self._end = 0.0, None  # type: tuple[float, float | None]

    def advance(self, amount: float, left: float | None) -> None:
        self.done += amount
        if left is not None:
            if self._end is None and self.total:
                self._before = (self.done - amount) / self.total  # of a loop that goes on where another one stopped
            self._end = time.monotonic() + left

    @property
    def left(self) -> float:
        now = time.monotonic()
        if self._end is not None:
            return max(self._end - now, 0.0)
        return (now - self.start) * max((self.total or 0) - self.done, 0) / max(self.done, 1e-9)

    @property
    def share(self) -> float:
        if self._end is None:
            return self.done / self.total if self.total else 0.0
        passed, left = time.monotonic() - self.start, self.left
        return self._before + (1 - self._before) * (passed / (passed + left) if left else 1.0)


class _Lines(Meter):
    def __init__(self, description: str, total: float | None) -> None:
        self.description, self.total = description, total
        self.said, self.note = 0.0, ""
        self.time, self.by_time = _Time(total), False
        self.last = self.time.start

    def advance(self, amount: float = 1, note: str = "", left: float | None = None) -> None:
        self.time.advance(amount, left)
        self.by_time = self.by_time or left is not None
        self.note = note or self.note
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.say()

    def finish(self) -> None:
        if 0 < self.said < self.time.done:  # a loop that needed no line needs no last one
            self.say()

    def say(self) -> None:
        self.last, self.said = time.monotonic(), (done := self.time.done)
        elapsed = round(self.last - self.time.start, 1)
        fields: dict[str, object] = {"progress": self.description, "done": done, "elapsed": elapsed}
        digits = 0 if abs(done - round(done)) < 1e-6 else 1  # minutes are not whole
        text = f"{self.description}: {done:,.{digits}f}"
        if self.total:
            left, share = self.time.left, self.time.share
            fields |= {"total": self.total, "left": round(left, 1)}
            if self.by_time:  # and what is counted is in the note
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

    spent = _Time(total)

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            if not total or not spent.done:
                return Text("")
            if task.finished:
                return Text(clock(task.finished_time or 0.0))
            return Text(f"{clock(spent.left)} left")

    console = Console(stderr=message_stream() is sys.stderr)
    bar_width = 10 if console.width < 100 else 30
    room = console.width - len(description) - bar_width - len(" 100% 00:00:00 left  ")

    def fitting(note: str) -> str:
        """As many of its parts, the first ones, as there is room for."""
        parts = note.split(", ")
        while len(parts) > 1 and len(", ".join(parts)) > room:
            parts.pop()
        return ", ".join(parts)

    columns = [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=bar_width),
        TaskProgressColumn(show_speed=True),
        Left(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    ]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, note="")

        class Bar(Meter):
            def advance(self, amount: float = 1, note: str = "", left: float | None = None) -> None:
                spent.advance(amount, left)
                if note:
                    progress.update(task, note=fitting(note))
                progress.update(task, completed=spent.share * total if total else spent.done)

        yield Bar()


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
