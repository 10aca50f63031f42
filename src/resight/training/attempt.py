"""One attempt at a run, watched from outside the loop: its entry in run.json, the limits, notices of interruption.

Nothing here takes time from a step: run.json is written, and the metadata service asked, in threads of their own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ResightError, counted, exit_code_of
from ..io.object_store import is_remote
from ..io.progress import duration
from .distributed import Distributed
from .instance_metadata import InstanceMetadata, Notice, find_service
from .run_record import (
    HEARTBEAT,
    Attempt,
    Ended,
    RunRecord,
    address_of,
    as_text,
    command_line,
    git_commit,
    price_of,
    read_run_record,
    seconds_left,
    update_run_record,
    with_attempt,
)
from .state import Control, TrainResult

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks at the clock
POLL = 5.0  # seconds between two questions for a notice
MARGIN = 20.0  # seconds before the announced end at which a training stops by itself
PATIENCE = 600.0  # seconds after a limit in which a training has to end: one that hangs goes on costing money


@contextmanager
def watching(run: Path | str, control: Control, distributed: Distributed) -> Iterator[Watch]:
    """Around a training: however it ends, run.json says so. Raises ResightError: that cannot be read."""
    watch = Watch(run, control)
    watch.over = distributed.from_main(watch.look)
    try:
        yield watch
    except BaseException as error:
        watch.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", exit_code_of(error))
        raise
    watch.end(watch.ended, watch.exit_code)


class Watch:
    """What happens to one attempt; in the first process of a training alone it does anything.

    ``clock`` gives seconds that grow steadily, ``now`` the time of day; ``leave`` ends the process at once.
    """

    def __init__(
        self,
        run: Path | str,
        control: Control,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.run, self.control, self.clock, self.now, self.leave = run, control, clock, now, leave
        self.over = ""  # which limit is reached, and what was used
        self.ended: Ended | None = None
        self.exit_code: int | None = None
        self._began, self._stop_at, self._allowed, self._leave_at = clock(), math.inf, math.inf, math.inf
        self._attempt = Attempt(now(), job=as_text(os.environ.get("AWS_BATCH_JOB_ID", "")) or None)
        self._record = RunRecord(as_text(str(run)))
        self._facts: dict[str, Any] = {}  # what is known, and goes into run.json
        self._service: InstanceMetadata | None = None
        self._notice: Notice | None = None
        self._noticed: datetime | None = None
        self._begun = False
        self._writing, self._wake, self._finished = threading.Lock(), threading.Event(), threading.Event()

    def look(self) -> str:
        """Which limit leaves nothing, if one does, before anything is loaded or locked. Raises ResightError."""
        self._service, kind = find_service(self.run) or (None, None)
        record, _ = read_run_record(self.run) or (self._record, "")
        self._attempt = replace(self._attempt, instance_type=kind, usd_per_hour=price_of(record, kind))
        facts = {"image": as_text(os.environ.get("RESIGHT_IMAGE", "")), "git_commit": git_commit()}
        self._facts = {name: value for name, value in facts.items() if value}
        self._understand(with_attempt(record, self._attempt))
        self._record = replace(self._record, attempts=self._record.attempts[:-1])  # it has not begun
        self.over = self._reached() if self._allowed <= 0 else ""
        return self.over

    def begin(self, from_step: int) -> None:
        """Notes the attempt, once the run is locked, and watches from now on. Raises ResightError."""
        self.control.step = from_step
        self._attempt = replace(self._attempt, from_step=from_step)
        self._begun = True
        self._write()
        for name, target in (("attempt", self._watch), ("run.json", self._note)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def describe(self, config: str, dataset: str) -> None:
        """What is trained: the text of config.toml, and the digest of the records."""
        digest = hashlib.sha256(config.encode()).hexdigest()
        self._facts = self._facts | {"config_sha256": digest, "dataset": dataset}
        self._wake.set()

    def result(self, result: TrainResult) -> TrainResult:
        """How the training ended; where a limit ended it, in other words."""
        if self.over and result.exit_code == 75:
            message = f"{self.over}; saved at step {result.steps:,}; {self._go_on()}"
            result = replace(result, exit_code=1, message=message)
        self.ended = "limit" if result.exit_code == 1 else "interrupted" if result.exit_code == 75 else "done"
        self.exit_code = result.exit_code
        return result

    def nothing_left(self) -> TrainResult:
        """The result of an attempt that the limits leave nothing."""
        return TrainResult(str(self.run), 1, f"{self.over}; nothing was trained; {self._go_on()}")

    def end(self, ended: Ended | None, exit_code: int | None) -> None:
        """Notes how the attempt ended. That it cannot be noted is no reason for another end."""
        self._finished.set()
        self._wake.set()
        self.ended, self.exit_code = ended, exit_code
        if self._begun:
            self._write_if_possible()

    def _understand(self, record: RunRecord) -> None:
        self._record = record
        others = tuple(one for one in record.attempts if one.started != self._attempt.started)
        self._allowed = seconds_left(replace(record, attempts=others), self._attempt.usd_per_hour)

    def _as_it_is(self) -> Attempt:
        return replace(
            self._attempt,
            seconds=math.ceil((self.clock() - self._began) * 1000) / 1000,  # so that nothing is left at a limit
            step=self.control.step,
            notice=self._noticed,
            ended=self.ended,
            exit_code=self.exit_code,
        )

    def _write(self) -> None:
        with self._writing:
            attempt = self._as_it_is()

            def described(before: RunRecord | None) -> RunRecord:
                record = before or RunRecord(as_text(str(self.run)))
                return with_attempt(replace(record, command=record.command or command_line(), **self._facts), attempt)

            self._understand(update_run_record(self.run, described))

    def _write_if_possible(self) -> None:
        try:
            self._write()
        except ResightError as error:
            log.warning("the record of the run cannot be kept at the moment: %s", error)

    def _note(self) -> None:
        while True:
            self._wake.wait(HEARTBEAT)
            self._wake.clear()
            if self._finished.is_set():
                return
            self._write_if_possible()

    def _watch(self) -> None:
        asked = -math.inf
        while not self._finished.wait(TICK):
            self._look_at_clock()
            if self._service and self.clock() - asked >= POLL:
                asked = self.clock()
                self._heed(self._service.notice())

    def _look_at_clock(self) -> None:
        now = self.clock()
        if not self.over and now - self._began >= self._allowed:
            self.over, self._leave_at = self._reached(), now + PATIENCE
            log.warning("%s; stopping after this step and saving", self.over)
            self.control.stop.set()
        if now >= self._leave_at:
            log.error("the training hangs: it has not stopped %s after its limit; ending it", duration(PATIENCE))
            self.end("limit", 1)
            self.leave(1)
        if now >= self._stop_at:
            self._stop_at = math.inf
            log.warning("stopping after this step and saving: the instance is about to be taken away")
            self.control.stop.set()

    def _heed(self, notice: Notice | None) -> None:
        """Saves and trains on; where the end is told in time, stops before it."""
        if not notice or notice == self._notice:
            return
        self._notice, seen = notice, self.now()
        ahead = (notice.end - seen).total_seconds() if notice.end else 0.0
        if ahead > 0:
            self._stop_at = min(self._stop_at, self.clock() + ahead - MARGIN)
        when = f" in {ahead:.0f} s" if ahead > 0 else ""
        log.warning("Spot interruption%s (%s): saving a checkpoint and continuing", when, notice.action)
        self._noticed = seen
        self.control.save.set()
        self._wake.set()

    def _reached(self) -> str:
        record = with_attempt(self._record, self._as_it_is()) if self._begun else self._record
        limits = record.limits
        shares = {f"{limits.hours:g} h": record.hours / limits.hours} if limits.hours else {}
        shares |= {f"${limits.usd:,.2f}": (record.usd or 0.0) / limits.usd} if limits.usd else {}
        limit = max(shares, key=lambda name: shares[name], default="the run")
        used = f"{record.hours:,.2f} h" + ("" if record.usd is None else f" and ${record.usd:,.2f}")
        return f"the limit of {limit} is reached, with {used} in {counted(len(record.attempts), 'attempt')}"

    def _go_on(self) -> str:
        if not is_remote(self.run):
            return f"raise launch.limits in {address_of(self.run)}, and train again"
        again = f"resight cloud launch --again {shlex.quote(self.run)} --max-hours N --max-cost USD"
        return f"continue with higher limits:\n  {again}"
