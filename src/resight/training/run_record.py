"""``run.json`` of a run folder: what a run was asked for, every attempt at it, and what these have taken together.

Whoever changes it reads it anew, so that ``launch`` and a training under way do not undo each other's changes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..config.loading import explain
from ..errors import ResightError, counted, nearest
from ..io import object_store as storage
from ..io.files import SMALL, parse_json, read_file
from ..io.object_store import Conflict, is_remote
from ..io.outputs import write_text
from ..io.progress import duration

FILE = "run.json"
LAUNCH = "launch"  # folder of a run: what a launch puts there before the first attempt
PUBLISHED = "pretrained.safetensors"  # in it: published weights, which a job without internet reads
HEARTBEAT = 60.0  # seconds between two notes of a training that is under way
_CONFLICTS = 10  # changes by others, one after the other, that a change of ours gives way to

_PART = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Amount = Annotated[float, Field(ge=0, le=1e12)]
Limit = Annotated[float, Field(gt=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Ended = Literal["done", "interrupted", "limit", "failed"]


@dataclass(frozen=True, config=_PART)
class Limits:
    """Of all attempts together: hours of training, US dollars. None: without limit."""

    hours: Limit | None = None
    usd: Limit | None = None


@dataclass(frozen=True, config=_PART)
class Job:
    """A job that was submitted: its name, and its id where the answer came through."""

    name: str
    time: AwareDatetime
    id: str | None = None


@dataclass(frozen=True, config=_PART)
class Launch:
    """How the run was launched in the cloud; ``config`` and ``start`` are names of files under ``launch/``."""

    stack: str
    region: str
    data: str
    config: str
    instance: str
    on_demand: bool = False
    devices: Count = 1
    start: str | None = None  # or a model's address
    limits: Limits = Limits()
    prices: dict[str, Amount] = Field(default_factory=dict)  # US dollars an hour on demand, by instance type
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, config=_PART)
class Attempt:
    """One process that trained."""

    started: AwareDatetime
    number: Count = 0
    job: str | None = None  # of AWS Batch
    instance_type: str | None = None
    usd_per_hour: Amount | None = None
    seconds: Amount = 0.0  # since its start, as far as they were noted; see :func:`with_attempt`
    from_step: Count = 0
    step: Count = 0  # the last that was noted
    lost_steps: Count = 0  # that the next attempt had to take again
    notice: AwareDatetime | None = None  # when the instance announced that it would be taken away
    ended: Ended | None = None  # None while it runs, and of one that was killed
    exit_code: int | None = None

    @property
    def usd(self) -> float | None:
        return None if self.usd_per_hour is None else self.usd_per_hour * self.seconds / 3600


@dataclass(frozen=True, config=_PART)
class RunRecord:
    """The content of ``run.json``; its totals are those of the attempts."""

    run: str
    format: Literal[1] = 1
    command: tuple[str, ...] = ()
    config_sha256: str | None = None
    image: str | None = None
    git_commit: str | None = None
    dataset: str | None = None
    launch: Launch | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def hours(self) -> float:
        return math.fsum(attempt.seconds for attempt in self.attempts) / 3600

    @property
    def usd(self) -> float | None:
        """Of the attempts whose price is known; None where there is none."""
        known = [attempt.usd for attempt in self.attempts if attempt.usd is not None]
        return math.fsum(known) if known else None

    @property
    def interruptions(self) -> int:
        """Attempts that were interrupted, or killed: the last one may still run."""
        killed = [attempt for attempt in self.attempts[:-1] if attempt.ended is None]
        return len(killed) + sum(attempt.ended == "interrupted" for attempt in self.attempts)

    @property
    def lost_steps(self) -> int:
        return sum(attempt.lost_steps for attempt in self.attempts)

    @property
    def limits(self) -> Limits:
        return self.launch.limits if self.launch else Limits()

    def summary(self) -> str:
        """Image, attempts, and what they have taken of the limits: lines for people."""
        commit = f", commit {self.git_commit}" if self.git_commit else ""
        lines = [f"image     {self.image}{commit}"] if self.image else []
        for one in self.attempts:
            how = one.ended or ("running, or killed" if one is self.attempts[-1] else "killed")
            code = "" if one.exit_code is None else f", exit code {one.exit_code}"
            steps = f"steps {one.from_step:,} to {one.step:,} in {duration(one.seconds)}"
            lines.append(f"attempt   {one.number}: {how}{code}, {steps} on {one.instance_type or 'an unknown machine'}")
        hours = "" if self.limits.hours is None else f" of {self.limits.hours:g}"
        usd = "" if self.limits.usd is None else f" of ${self.limits.usd:.2f}"
        lines.append(f"spent     {self.hours:.2f}{hours} h, ${self.usd or 0.0:.2f}{usd}")
        interrupted = counted(self.interruptions, "interruption")
        return "\n".join([*lines, f"lost      {counted(self.lost_steps, 'step')} by {interrupted}"])

    def text(self) -> str:
        """As it is written."""
        totals = {name: getattr(self, name) for name in _TOTALS}
        content = {"format": self.format} | _RECORD.dump_python(self, mode="json") | totals
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


_RECORD = TypeAdapter(RunRecord)
_TOTALS = ("hours", "usd", "interruptions", "lost_steps")


def price_of(record: RunRecord, instance_type: str | None) -> float | None:
    """US dollars an hour: the price of that instance type, else the dearest that was noted; None without any."""
    prices = record.launch.prices if record.launch else {}
    return prices.get(instance_type or "", max(prices.values(), default=None))


def seconds_left(record: RunRecord, usd_per_hour: float | None) -> float:
    """What the limits leave to one more attempt at that price; ``math.inf`` without limits. Raises ResightError:
    dollars are limited and there is no price."""
    left, limits = [math.inf], record.limits
    if limits.hours is not None:
        left.append((limits.hours - record.hours) * 3600)
    if limits.usd is not None:
        if usd_per_hour is None:
            message = "launch.limits.usd is set, and launch.prices names no price"
            fix = 'Note one: "prices": {"g5.xlarge": 1.006}, US dollars an hour.'
            raise ResightError(message, where=address_of(record.run), fix=fix)
        unspent = limits.usd - (record.usd or 0.0)
        if unspent <= 1e-9 * limits.usd:  # the sums of seconds and prices are rounded
            return 0.0
        left.append(unspent / usd_per_hour * 3600 if usd_per_hour else math.inf)
    return max(min(left), 0.0)


def with_attempt(record: RunRecord, attempt: Attempt) -> RunRecord:
    """The record with ``attempt``, in place of what it said of it before: the one that began at that time.

    A new one gets the next number, and what the last one lost is known by then: the steps after ``attempt.from_step``
    and, if it was killed, the time up to the heartbeat that did not come.
    """
    attempts = list(record.attempts)
    for index, known in enumerate(attempts):
        if known.started == attempt.started:
            attempts[index] = replace(attempt, number=known.number, lost_steps=known.lost_steps)
            return replace(record, attempts=tuple(attempts))
    if attempts:
        last = attempts[-1]
        passed = (attempt.started - last.started).total_seconds()
        more = 0.0 if last.ended else min(HEARTBEAT, max(passed - last.seconds, 0.0))
        lost = max(last.step - attempt.from_step, 0)
        attempts[-1] = replace(last, seconds=last.seconds + more, lost_steps=lost)
    return replace(record, attempts=(*attempts, replace(attempt, number=len(attempts) + 1)))


def command_line(argv: Sequence[str] = sys.argv) -> tuple[str, ...]:
    """The command that this process runs; by its name where it is Resight's own, wherever that is installed."""
    program = Path(argv[0] if argv else "").name
    words = ("resight" if program in ("resight", "resight.exe", "__main__.py") else program, *argv[1:])
    return tuple(map(as_text, words))


def as_text(name: str) -> str:
    """A name of the system's as text: what of it is no UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def git_commit() -> str | None:
    """The commit that was built into the image; else that of the working folder, if it is a checkout."""
    if built := os.environ.get("RESIGHT_GIT_COMMIT"):
        return as_text(built)
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def address_of(run: str | Path) -> str:
    """Where the ``run.json`` of a run lies."""
    return storage.join(run, FILE) if is_remote(run) else os.path.join(run, FILE)


def read_run_record(run: str | Path) -> tuple[RunRecord, str] | None:
    """The record of the run at a path or an address, and its ETag ("" of a file); None where there is none. Raises
    ResightError: it cannot be read, is damaged, or of another format."""
    address = address_of(run)
    if not is_remote(address):
        return (parse_run_record(read_file(address, SMALL), address), "") if os.path.lexists(address) else None
    found = storage.read_if_there(address)
    return (parse_run_record(found[0], address), found[1]) if found else None


def parse_run_record(text: str | bytes, where: str) -> RunRecord:
    """The record in ``text``. Raises ResightError as :func:`read_run_record`."""
    fix = "Correct it, or remove it: its attempts will no longer count, and --again will not find the run."
    try:
        tree = parse_json(text, where)
        if not isinstance(tree, dict):
            raise ResightError("is not a record of a run", where=where)
        if (written := tree.get("format")) != 1 or written is True:
            newer = "Use the version of Resight that wrote it." if isinstance(written, int) and written > 1 else ""
            raise ResightError(f"has format {written!r:.20}, this version reads 1", where=where, fix=newer)
        own = {key: value for key, value in tree.items() if key not in _TOTALS}
        return _RECORD.validate_json(json.dumps(own))
    except ResightError as error:
        raise ResightError(error.message, where=error.where, fix=error.fix or fix) from error
    except ValidationError as error:
        found = "; ".join(map(_explained, error.errors()[:10]))
        raise ResightError(found, where=where, fix=fix) from error
    except ValueError as error:  # half a surrogate pair
        raise ResightError(f"is not a record of a run: {error}", where=where, fix=fix) from error


def _explained(found: Any) -> str:
    if not found["loc"]:
        return f"is not a record of a run: {found['msg']}"
    if found["type"] != "unexpected_keyword_argument":
        return explain(found)
    known = [name for kind in (RunRecord, Launch, Limits, Job, Attempt) for name in kind.__dataclass_fields__]
    key = ".".join(map(str, found["loc"]))
    return f"unknown key '{key}'. {nearest(str(found['loc'][-1]), known)}".rstrip()


def write_run_record(run: str | Path, record: RunRecord, replacing: str) -> str:
    """Writes the record whole or not at all and returns its new ETag ("" of a file). Raises ResightError; Conflict
    where a store has not the ETag ``replacing`` ("": nothing) there."""
    address = address_of(run)
    if is_remote(address):
        return storage.write(address, record.text().encode(), replacing=replacing)
    write_text(address, record.text())
    return ""


def update_run_record(run: str | Path, change: Callable[[RunRecord | None], RunRecord]) -> RunRecord:
    """Writes what ``change`` makes of the record as it is, and returns it. Where somebody else writes meanwhile,
    ``change`` is called again, so it must say the same twice. Raises ResightError."""
    for remaining in reversed(range(_CONFLICTS)):
        before, etag = read_run_record(run) or (None, "")
        record = change(before)
        if record == before:
            break
        try:
            write_run_record(run, record, etag)
            break
        except Conflict:
            if not remaining:
                raise
    return record
