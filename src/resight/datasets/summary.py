"""What a report on a data set says: tables, findings with examples; and the look at every image behind both."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from ..errors import Problem, one_line
from ..io.cores import core_count
from ..io.progress import track
from ..types import Annotation
from .exif import Decision, Habit, decide
from .file_search import did_you_mean
from .inspect import Inspection, inspect, judge

EXAMPLES = 3
HINTS = 20  # missing files for which the nearest is looked up: that lists a folder


def inspect_all(
    items: Sequence[Annotation],
    known: Sequence[str] = (),
    *,
    deep: bool,
    exif: str = "auto",
    habit: Habit | None = None,
) -> tuple[list[Inspection], Decision]:
    """``inspect`` of every item, in order, and in which frame the boxes of rotated images are.

    Where that has to be asked for, those images are left ``undecided``.
    """
    hints = HINTS
    # Decoding leaves the interpreter free, so threads use all cores; windows keep little in flight.
    rest = iter(track(items, "checking images"))
    found: list[Inspection] = []
    with ThreadPoolExecutor(min(16, core_count())) as pool:
        while window := list(islice(rest, 256)):
            results = pool.map(lambda item: inspect(item, known, deep=deep), window)
            for item, one in zip(window, results, strict=True):
                if hints and (missing := [problem for problem in one.problems if problem.kind == "missing_image"]):
                    hints -= 1
                    message = f"{missing[0].message}. {did_you_mean(str(item.image))}".removesuffix(". ")
                    one = replace(one, problems=(replace(missing[0], message=message),))
                found.append(one)
    undecided = {at: one.image for at, one in enumerate(found) if one.undecided and one.image}
    decision = decide([(items[at], image) for at, image in undecided.items()], exif, habit)
    for at, image in undecided.items() if decision.frame else ():
        found[at] = judge(items[at], image, known, frame=decision.frame, habit=habit, fingerprint=found[at].hash)
    return found, decision


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a plain table, the first column to the left and numbers to the right."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for first, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return lines


def amounts(counts: Mapping[str, int]) -> str:
    """``3 bad boxes, 1 missing image``: what there is any of, by keys such as ``bad_box`` or ``rotated_images``."""
    return ", ".join(f"{n:,} {_worded(kind.replace('_', ' '), n)}" for kind, n in counts.items() if n)


def _worded(kind: str, number: int) -> str:
    one, many = r"\b(image|box|record)(s|es)?\b", {"image": "images", "box": "boxes", "record": "records"}
    return re.sub(one, lambda found: found[1] if number == 1 else many[found[1]], kind, count=1)


def findings(problems: Sequence[Problem], head: str = "") -> list[str]:
    """Problems by kind, the most frequent first, with their number and the first few of each."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    lines: list[str] = []
    for kind, found in sorted(kinds.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        lines.append(f"{head}{len(found):,} x {kind.replace('_', ' ')}")
        shown = [": ".join(filter(None, (problem.where, problem.message))) for problem in found[:EXAMPLES]]
        lines += [f"    {one_line(text)}" for text in shown]
        if len(found) > EXAMPLES:
            lines.append(f"    and {len(found) - EXAMPLES:,} more")
    return lines
