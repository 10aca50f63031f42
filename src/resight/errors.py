"""Errors that speak to the user: what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

MAX_LENGTH, MAX_LINES = 2_000, 200  # characters of a line, lines of a message
# What a terminal would obey and not show: control characters, changes of the writing direction; and what is no text.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# The exit codes.
DONE, BAD, USAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143

# What extras of the package install that is imported without a look whether it is there.
_EXTRAS = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "[onnx]") | dict.fromkeys(
    ("uvicorn", "h11", "prometheus_client", "python_multipart", "rapidjson"), "[serve]"
)

# How torch and the system tell, in a RuntimeError or an OSError, that the machine has not enough of something.
_OF_THE_WORKERS = (
    "dataloader worker (pid",  # killed, a bus error for want of shared memory, or gone
    "unable to open shared memory",
    "unable to allocate shared memory",
    "unable to write to file </torch_",
    "too many open files",
)
_OF_MEMORY = (
    "defaultcpuallocator",
    "cuda error: out of memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "cannot allocate memory",
)


class ResightError(Exception):
    """Something the user can fix: bad input, configuration or environment.

    Args:
        message: what is wrong, one sentence.
        where: file, line, key or byte offset it concerns, as far as known.
        fix: what to do about it.

    The command line prints it without a traceback and exits with ``exit_code``.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: object = "", fix: str = "") -> None:
        self.message, self.where, self.fix = shortened(message), shortened(str(where)), shortened(fix)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost when a loader worker sends the error to its parent.
        return partial(type(self), self.message, where=self.where, fix=self.fix), ()

    def __str__(self) -> str:
        text = f"{one_line(self.where)}: {self.message}" if self.where else self.message
        return escaped(redacted(f"{text}\n  {self.fix}" if self.fix else text))


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Raises ResightError: what is done in the block cannot read ``where``; the cause says why."""
    try:
        yield
    except (OSError, ValueError) as error:  # a path may hold what no path can
        raise ResightError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from error


@dataclass(frozen=True)
class Problem:
    """One finding about a data set: ``kind`` is a stable slug, ``where`` names file and line or record."""

    level: Literal["error", "warning"]
    kind: str
    where: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", shortened(self.message))


def shown(value: object, most: int = 60) -> str:
    """``repr(value)`` in at most ``most`` characters, for a message. It is cut before it is made: a value can be
    nested endlessly, or hold one object a million times."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    try:
        text = short.repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 10]} ..."


def escaped(text: str) -> str:
    """``text`` for a terminal: what would move its cursor, change its title or turn its lines round is written as JSON
    writes it, so that JSON stays what it is."""
    return _OBEYED.sub(lambda found: json.dumps(found[0])[1:-1], text)


def redacted(text: str) -> str:
    """``text`` without the passwords in its addresses, those of stores and proxies."""
    return re.sub(r"(:/+)(?:[^\s'\"/]*:[^\s'\"]*|[^\s'\"/@]+)@", r"\1***@", text)


def one_line(name: str) -> str:
    """``escaped`` for a name, which cannot begin a line of its own."""
    return escaped(name).replace("\n", "\\n")


def shortened(text: str) -> str:
    """``text`` for a message: a damaged file can hold names of megabytes, or a million of them."""
    if len(text) <= MAX_LENGTH:
        return text
    half = MAX_LENGTH // 2 - 4
    lines = [line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}" for line in text.split("\n")]
    if (more := len(lines) - MAX_LINES) > 0:
        lines[MAX_LINES - 1 :] = [f"and {more + 1:,} more lines"]
    return "\n".join(lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known name most like ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean '{match[0]}'?" if match else ""


def listed(items: Iterable[object], limit: int = 10) -> str:
    """``a, b, c and 4 more``: at most ``limit`` items in one line."""
    texts = [one_line(str(item)) for item in items]
    text = ", ".join(texts[:limit])
    return text if len(texts) <= limit else f"{text} and {len(texts) - limit} more"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 box``, ``2,000 boxes``; ``many`` is by default ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def exit_code_of(error: BaseException) -> int:
    """The exit code of a verb that ends with ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else USAGE
    known = hasattr(error, "format_message") or explained(error) is not None
    return getattr(error, "exit_code", USAGE) if known else BUG


def explained(error: BaseException) -> str | None:
    """The message for an error that is not our bug, else None; the option parser says its own."""
    if isinstance(error, ResightError):
        return str(error)
    if type(error).__name__ == "Abort":
        return "stopped"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("resight"):
        package = error.name.split(".")[0]
        return f"the package '{package}' is not installed\n  pip install 'resight{_EXTRAS.get(package, '')}'"
    if (shortage := _shortage(error)) or not isinstance(error, OSError) or not error.strerror:
        return shortage
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a GPU did not suffice."""
    said = str(error).lower()
    of_memory = isinstance(error, RuntimeError | OSError) and any(words in said for words in _OF_MEMORY)
    return of_memory or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _shortage(error: BaseException) -> str | None:
    """The message where the machine, or what the process may have of it, does not suffice; else None."""
    first = next(iter(str(error).splitlines()), "no more to be had")
    said = str(error).lower()
    # Before memory: "unable to open shared memory object ... Cannot allocate memory" is of the workers.
    if isinstance(error, RuntimeError | OSError) and any(words in said for words in _OF_THE_WORKERS):
        return (
            f"the data cannot be loaded any further: {first}\n"
            "  The processes that load it ran out of memory, shared memory or open files. Try --set data.workers=0,\n"
            "  a larger /dev/shm (--shm-size=2g for a container), a smaller --batch, a higher limit of open files."
        )
    if isinstance(error, OSError) and "af_unix path too long" in said:  # Linux takes 107 bytes
        return f"{first}: there are sockets in {tempfile.gettempdir()}\n  Set TMPDIR to a shorter one."
    if is_out_of_memory(error):
        return f"out of memory: {first}\n  Try a smaller --batch or --size, or leave more memory to this process."
    return None
