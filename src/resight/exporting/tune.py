"""Fewer proposals: the second stage looks at each, and most models have more than their objects need."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..dialect import dialect_of
from ..errors import counted
from ..evaluation.loop import ClassNames, truth_of
from ..inference.detector import Detector
from ..io.progress import track
from ..types import pairwise_iou
from .trial import Trial

log = logging.getLogger(__name__)

SHARES = (1.0, 2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 10)  # of the model's own count
SHARES_BEFORE = (1 / 2, 1 / 4)  # of what goes into the suppression, which costs little
IOUS = (0.5, 0.75)
Counts = tuple[int | None, int]  # before and after the suppression; see Step
RECALL_LOSS = 0.05  # of the objects at IoU .5: counts that lose more are not measured; mAP loses less than recall


@dataclass(frozen=True)
class Step:
    """What was measured with ``before`` boxes of a level going into the first stage's suppression, where that is
    limited, and ``after`` leaving it: mAP on val, and milliseconds an image in PyTorch."""

    before: int | None
    after: int
    ap: float
    milliseconds: float

    def text(self) -> str:
        limit = f" of {self.before:,} a level" if self.before else ""
        return f"{counted(self.after, 'proposal')}{limit}: mAP {self.ap:.4f}, {self.milliseconds:.0f} ms an image"


def tune(detector: Detector, trial: Trial, loss: float) -> tuple[float, str]:
    """Sets the counts of proposals in ``detector`` that are fastest and cost no more mAP than ``loss``.

    Returns the mAP that it had, and what was measured in words.
    """
    before, after = dialect_of(detector.config).proposal_counts(detector.model)
    recall = recall_by_count(detector, trial, after)
    table = [f"{count:,} proposals: recall {_listed(recall[:, count - 1])}" for count in counts_of(after)]
    log.info("%s", "\n".join(table))
    aps = {(before, after): _ap(detector, trial, before, after)}
    least = aps[before, after] - loss
    worth = [count for count in counts_of(after)[1:] if recall[0, count - 1] >= recall[0, -1] - RECALL_LOSS]
    aps |= _down(detector, trial, [(before, count) for count in worth], least)
    if before is not None:
        fewest = min(after for (_, after), ap in aps.items() if ap >= least)
        aps |= _down(detector, trial, [(count, fewest) for count in counts_of(before, SHARES_BEFORE)], least)
    times = trial.milliseconds([partial(_look, detector, *counts) for counts in aps])
    steps = [Step(*counts, ap, time) for (counts, ap), time in zip(aps.items(), times, strict=True)]
    best = fastest(steps, least)
    limit(detector, best.before, best.after)
    return steps[0].ap, "\n".join([*table, *(step.text() for step in steps), f"Exported with {best.text()}"])


def fastest(steps: Sequence[Step], least: float) -> Step:
    """The one of least time with a mAP of ``least`` or more; the first has that."""
    return min((step for step in steps if step.ap >= least), key=lambda step: step.milliseconds)


def counts_of(count: int, shares: Sequence[float] = SHARES) -> list[int]:
    """Counts to try, these shares of the model's own, from the largest down."""
    return sorted({max(round(count * share), 1) for share in shares}, reverse=True)


def recall_by_count(detector: Detector, trial: Trial, count: int) -> np.ndarray:
    """``[2, count]``: the share of the objects of val that the best 1, 2, ... proposals reach with an IoU of .5 and of
    .75, all by one look of the first stage."""
    names = ClassNames(trial.records, detector.classes)
    reached, total = np.zeros((len(IOUS), count)), 0
    for index in track(range(len(trial.val)), "recall of proposals"):
        record = trial.val[index]
        image = trial.val.pixels(index, record)
        _, objects = truth_of(detector, trial.val, index, record, image, names)
        truth = objects.boxes[~objects.ignored(False)]
        overlap = pairwise_iou(detector.proposals(image), truth)
        best = np.maximum.accumulate(np.concatenate([overlap, np.zeros((max(count - len(overlap), 0), len(truth)))]), 0)
        reached += [(best[:count] >= iou).sum(1) for iou in IOUS]
        total += len(truth)
    return reached / max(total, 1)


def limit(detector: Detector, before: int | None, after: int) -> None:
    """Gives ``detector`` these counts of proposals."""
    detector.config = dialect_of(detector.config).limit_proposals(detector.model, before, after) or detector.config


def _down(detector: Detector, trial: Trial, counts: Sequence[Counts], least: float) -> dict[Counts, float]:
    """The mAP at falling ``counts``, up to the first that loses too much."""
    aps: dict[Counts, float] = {}
    for before, after in counts:
        aps[before, after] = _ap(detector, trial, before, after)
        if aps[before, after] < least:
            break
    return aps


def _ap(detector: Detector, trial: Trial, before: int | None, after: int) -> float:
    limit(detector, before, after)
    ap = trial.ap(detector, f"mAP with {after:,} proposals")
    log.info("%s%s: mAP %.4f", counted(after, "proposal"), f" of {before:,} a level" if before else "", ap)
    return ap


def _look(detector: Detector, before: int | None, after: int, image: np.ndarray) -> None:
    limit(detector, before, after)
    detector.detect(image)


def _listed(recall: np.ndarray) -> str:
    return ", ".join(f"{value:.3f} at IoU {iou:g}" for value, iou in zip(recall, IOUS, strict=True))
