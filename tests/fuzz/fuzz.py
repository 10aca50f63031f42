"""Gives every parser damaged inputs: each must return or raise a ResightError, within 5 seconds of the
processor and 1 GB.

    python tests/fuzz/fuzz.py [--minutes M | --cases N] [--seed S] [--only WORDS] [--out DIR]

Cases follow from the seed, the name of the target and their number. An input that fails is kept in ``--out``.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from mutations import damaged
from targets import Target, all_targets

from resight.errors import ResightError

SECONDS, BYTES = 5.0, 1 << 30


class TooLong(BaseException):
    """A case takes longer than it may."""


@dataclass
class Tally:
    """What became of the cases of a target; ``failures`` are (number of the case, what was raised)."""

    name: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)


def fuzz(target: Target, folder: Path, seed: int, first: int, cases: int, until: float, out: Path | None) -> Tally:
    """Runs cases ``first`` and on, until there were ``cases`` or the clock says ``until``."""
    tally = Tally(target.name)
    home = Path(tempfile.mkdtemp(dir=folder))
    target.prepare(home)
    # At least once undamaged: it imports, and fills caches, on nobody's account.
    for data in target.seeds:
        target.run(data, home)
    before = [(number, signal.signal(number, _too_long)) for number in (signal.SIGPROF, signal.SIGALRM)]
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + BYTES, limit[1]))
    try:
        for number in range(first, first + cases):
            if time.monotonic() >= until:
                break
            data = damaged(target.seeds, random.Random(f"{seed} {target.name} {number}"))
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor, however many others want it
            signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)  # and what only waits does not wait for ever
            try:
                target.run(data, home)
            except ResightError as error:
                tally.refused += 1
                str(error)
            except (Exception, TooLong) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                told = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
                tally.failures.append((number, told))
                if out is not None:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{target.name.replace(' ', '_').replace('/', '_')}-{seed}-{number}").write_bytes(data)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            tally.cases += 1
            tally.seconds += time.process_time() - start
            tally.slowest = max(tally.slowest, time.process_time() - start)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        shutil.rmtree(home, ignore_errors=True)
    return tally


def quiet() -> None:
    """Findings are told by log and warning, tens of thousands of times."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _too_long(*_: int | FrameType | None) -> None:
    raise TooLong(f"takes more than {SECONDS:g} s")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _job(work: tuple[int, int, int, float, str]) -> list[Tally]:
    job, jobs, seed, minutes_or_cases, out = work
    quiet()
    with tempfile.TemporaryDirectory() as name:
        os.environ["RESIGHT_CACHE"] = name
        targets = [one for one in all_targets(Path(name)) if any(word in one.name for word in ONLY)]
        if minutes_or_cases < 0:  # so many cases of each target
            count = -(int(minutes_or_cases) // jobs)
            return [fuzz(one, Path(name), seed, job * count, count, float("inf"), Path(out)) for one in targets]
        share = minutes_or_cases * 60 / len(targets)
        first = job << 40
        return [fuzz(one, Path(name), seed, first, 1 << 40, time.monotonic() + share, Path(out)) for one in targets]


ONLY: tuple[str, ...] = ("",)


def main() -> int:
    global ONLY
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="in all; default 5")
    parser.add_argument("--cases", type=int, help="of each target, instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--only", nargs="*", default=[""], metavar="WORD", help="targets with one of these in their name"
    )
    parser.add_argument("--out", default="fuzz-failures", help="folder for the inputs that fail")
    given = parser.parse_args()
    ONLY = tuple(given.only)
    amount = -float(given.cases) if given.cases else given.minutes
    work = [(job, given.jobs, given.seed, amount, given.out) for job in range(given.jobs)]
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
        parts = pool.map(_job, work, chunksize=1)
    print(f"{'target':<24} {'cases':>8} {'refused':>8} {'slowest':>8} {'failed':>7}")
    failures = total = 0
    for tallies in zip(*parts, strict=True):
        cases, refused = sum(one.cases for one in tallies), sum(one.refused for one in tallies)
        failed = [failure for one in tallies for failure in one.failures]
        print(
            f"{tallies[0].name:<24} {cases:>8,} {refused:>8,} {max(t.slowest for t in tallies):>6.2f} s {len(failed):>7,}"
        )
        for number, told in failed[:10]:
            print(f"    case {number}: {told}")
        failures, total = failures + len(failed), total + cases
    print(f"{total:,} cases, {failures:,} failed" + (f"; the inputs are in {given.out}" if failures else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
