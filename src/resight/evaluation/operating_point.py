"""The operating point: the score from which detections are shown, and what to expect there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np

from ..config.defaults import SCORE
from ..types import Detections, pairwise_iou
from .coco import GroundTruth

FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class OperatingPoint:
    """A score, and precision, recall and F1 in 0..1 of the detections at that score or more: None where there was no
    object to find, and 0 where none was found."""

    score: float
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


def operating_point(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    score: float | None = None,
    ignore_difficult: bool = False,
) -> OperatingPoint:
    """The operating point at ``score``, by default at the one of best F1, at IoU .5, all classes counted together.

    Detections are matched greedily by score as COCO does, each object by its own class only; crowds and ignored objects
    count neither way. Of two equal F1 the higher score wins. The score lies halfway between the last detection kept and
    the next one below it, so that the last digits of a score, which differ between devices and exports, do not decide;
    without a next one it is the last one's own. It is .5 where there is no object to find, or none is found.
    """
    num_objects = sum(int((~truth.ignored(ignore_difficult)).sum()) for truth in truths)
    if num_objects == 0:
        return OperatingPoint(SCORE if score is None else score)
    if score is not None:
        detections = [found.above(score) for found in detections]
    outcome = np.concatenate([match(*pair, ignore_difficult)[0] for pair in zip(truths, detections, strict=True)])
    scores = np.concatenate([found.scores for found in detections])[outcome != IGNORED]
    outcome = outcome[outcome != IGNORED]
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(outcome[order] == TRUE)
    reported = len(scores)
    if score is None:
        if not found.any():
            return OperatingPoint(SCORE, 0.0, 0.0, 0.0)
        last = np.flatnonzero(np.diff(scores, append=-np.inf))  # a threshold cannot part equal scores
        reported = 1 + int(last[np.argmax(2 * found[last] / (last + 1 + num_objects))])
        score = float(scores[reported - 1])
        if reported < len(scores):
            below = scores[reported]
            middle = np.float32((score + float(below)) / 2)  # scores are float32, and compared as such
            score = float(middle) if middle > below else score
    right = int(found[reported - 1]) if reported else 0
    precision = right / reported if reported else 0.0
    return OperatingPoint(score, precision, right / num_objects, 2 * right / (reported + num_objects))


def match(
    truth: GroundTruth, found: Detections, ignore_difficult: bool = False, iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """``[N]`` outcome of each detection of one image at ``iou``: 1 right, 0 wrong, 2 an ignored object; and ``[N]`` its
    object, -1 of one that is wrong.

    COCO's matching: by falling score, each to the object of its class it overlaps most (the later one of equals); an
    object is found once, a crowd any number of times; an ignored object only where no other is left.
    """
    outcome, target_of = np.full(len(found), FALSE), np.full(len(found), -1)
    order = np.argsort(-found.scores, kind="stable")
    overlap = pairwise_iou(found.boxes[order], truth.boxes, truth.crowd)
    rows, targets = np.nonzero((overlap >= iou) & (found.labels[order][:, None] == truth.labels))
    pairs = zip(rows.tolist(), overlap[rows, targets].tolist(), targets.tolist(), strict=True)
    counts = ~truth.ignored(ignore_difficult)
    for row, target in assign(pairs, counts.tolist(), truth.crowd.tolist()):
        outcome[order[row]], target_of[order[row]] = TRUE if counts[target] else IGNORED, target
    return outcome, target_of


def assign(
    pairs: Iterable[tuple[int, float, int]], counts: Sequence[bool], crowd: Sequence[bool]
) -> Iterator[tuple[int, int]]:
    """The detections that have an object, and which, from ``pairs`` of (detection, IoU, object) that may be, in the
    order of the detections. ``counts`` and ``crowd`` are of each object."""
    taken: set[int] = set()
    for row, candidates in groupby(pairs, key=itemgetter(0)):
        open_ = [(counts[at], iou, at) for _, iou, at in candidates if crowd[at] or at not in taken]
        if open_:
            *_, target = max(open_)
            taken.add(target)
            yield row, target


def sentence(point: OperatingPoint, of_model: bool = True) -> str:
    """The operating point in words: of the score stored with the model, or else of the best on the images measured."""
    score = f"{point.score:.2f}".removeprefix("0")
    none_stored = "" if of_model else "The model has no score of its own. "
    if point.precision is None or point.recall is None:
        only = "" if of_model else f", so the score {score} is only the default"
        return f"{none_stored}There was no object to find{only}."
    if point.recall == 0:
        none = f"at score {score}" if of_model else f"at any score, so the score {score} is only the default"
        return f"{none_stored}It finds none of the objects {none}."
    best = "" if of_model else ", the best on these images,"
    found, wrong = _percent(point.recall), _percent(1 - point.precision)
    return f"{none_stored}At score {score}{best} it finds {found} of the objects; {wrong} of what it reports is wrong."


def _percent(share: float) -> str:
    """Rounded, but what is not all or nothing never reads so."""
    if 0 < share < 0.01:
        return "less than 1 %"
    if 0.99 < share < 1:
        return "more than 99 %"
    return f"{100 * share:.0f} %"
