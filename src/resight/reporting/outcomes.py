"""What became of each detection and each object of an evaluation, at IoU .5.

The kinds of errors are those of TIDE (Bolya et al., 2020, section 2.2), told in the order of its implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ..evaluation.coco import GroundTruth
from ..evaluation.operating_point import IGNORED, TRUE, match
from ..types import Detections, pairwise_iou

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which a detection has found an object, and up to which it saw none


class Kind(IntEnum):
    """Of a detection. What is left of TIDE's kinds, "both", is misplaced and of another class."""

    RIGHT = 0
    IGNORED = 1  # of a crowd, or of a difficult object that does not count
    MISPLACED = 2
    WRONG_CLASS = 3
    DOUBLE = 4
    FALSE_ALARM = 5
    BOTH = 6


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Of all images together; objects and detections are counted through in the order of the images.

    Matching goes by falling score, so what is said of a detection does not depend on those below it: it is the same at
    every score threshold. An object is found at a threshold if the detection that ``found_by`` names is at or above it.

    Args:
        kind: ``[D]`` :class:`Kind` of each detection.
        object: ``[D]`` the object it has found, or is a wrong answer to; -1 of a false alarm.
        iou: ``[D]`` float32, with that object.
        found_by: ``[G]`` the detection that has found each object, -1 where none has.
        counts: ``[G]`` bool, whether an object counts: no crowd, and not difficult where these are ignored.
    """

    kind: np.ndarray
    object: np.ndarray
    iou: np.ndarray
    found_by: np.ndarray
    counts: np.ndarray

    def found_scores(self, scores: np.ndarray) -> np.ndarray:
        """``[G]`` the score of the detection that has found each object, -1 where none has; ``scores`` ``[D]``."""
        return np.append(scores, -1.0)[self.found_by]


def by_overlap(overlap: np.ndarray, allowed: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows and columns of what is ``allowed`` (``[N, M]`` bool), by falling ``overlap``: each row, and each column, at
    most once."""
    rows, columns = np.nonzero(allowed)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    taken: tuple[set[int], set[int]] = set(), set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken[0] and column not in taken[1]:
            taken[0].add(row)
            taken[1].add(column)
            yield row, column


def outcomes(truths: Sequence[GroundTruth], found: Sequence[Detections], ignore_difficult: bool = False) -> Outcomes:
    """The outcomes of the detections ``found`` in the images of ``truths``, image by image."""
    rows, first_object, first_detection = [], 0, 0
    for truth, detections in zip(truths, found, strict=True):
        kind, target, iou = _of_image(truth, detections, ignore_difficult)
        found_by = np.full(len(truth.labels), -1)
        hits = kind == Kind.RIGHT
        found_by[target[hits]] = first_detection + np.flatnonzero(hits)
        rows.append(
            (kind, np.where(target < 0, -1, first_object + target), iou, found_by, ~truth.ignored(ignore_difficult))
        )
        first_object += len(truth.labels)
        first_detection += len(detections)
    empty = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, bool))]
    return Outcomes(*map(np.concatenate, zip(*(rows or empty), strict=True)))


def _of_image(
    truth: GroundTruth, found: Detections, ignore_difficult: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind, object and IoU of each detection of one image."""
    outcome, target = match(truth, found, ignore_difficult)
    kind = np.select([outcome == TRUE, outcome == IGNORED], [Kind.RIGHT, Kind.IGNORED], Kind.FALSE_ALARM).astype(
        np.int64
    )
    overlap = pairwise_iou(found.boxes, truth.boxes, truth.crowd)
    matched = target >= 0
    iou = np.zeros(len(found), np.float32)
    iou[matched] = overlap[matched, target[matched]]
    wrong = np.flatnonzero(~matched)
    if not len(wrong) or not len(truth.labels):
        return kind, target, iou
    overlap = np.where(truth.ignored(ignore_difficult), -1, overlap[wrong])
    same = found.labels[wrong][:, None] == truth.labels
    own, other = np.where(same, overlap, -1), np.where(same, -1, overlap)
    own_iou, other_iou = own.max(1), other.max(1)
    tests = (
        (Kind.MISPLACED, (own_iou >= BACKGROUND) & (own_iou < FOREGROUND), own),
        (Kind.WRONG_CLASS, other_iou >= FOREGROUND, other),
        (Kind.DOUBLE, own_iou >= FOREGROUND, own),
        (Kind.FALSE_ALARM, np.maximum(own_iou, other_iou) <= BACKGROUND, None),
        (Kind.BOTH, np.ones(len(wrong), bool), overlap),
    )
    left = np.ones(len(wrong), bool)
    for name, test, overlaps in tests:
        rows = np.flatnonzero(left & test)
        left[rows] = False
        kind[wrong[rows]] = name
        if overlaps is not None:
            best = overlaps[rows].argmax(1)
            target[wrong[rows]], iou[wrong[rows]] = best, overlaps[rows, best]
    return kind, target, iou
