"""Precision and recall of each class at every score: curves, the table behind the threshold slider, calibration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .outcomes import Kind, Outcomes

THRESHOLDS = np.arange(101) / 100
RECALLS = np.linspace(0, 1, 101)
BINS = 10  # of the reliability curve


@dataclass(frozen=True, eq=False)
class Counts:
    """Detections at each of ``thresholds`` or more, of one class or of all.

    Args:
        reported: ``[101]`` detections that are right or wrong; ``right``: ``[101]`` those that have found an object.
        objects: to be found.
        thresholds: ``[101]``, rising.
    """

    reported: np.ndarray
    right: np.ndarray
    objects: int
    thresholds: np.ndarray = field(default_factory=lambda: THRESHOLDS)

    def best_f1(self) -> float | None:
        """The threshold of the best F1, of equal ones the highest; None where no object is found."""
        if not self.right.any():
            return None
        f1 = 2 * self.right / (self.reported + self.objects)  # objects are found, so there are some
        return float(self.thresholds[100 - int(f1[::-1].argmax())])


def thresholds_with(score: float) -> np.ndarray:
    """``THRESHOLDS``, of which the one nearest to ``score`` is ``score`` itself: what is counted there is the same
    wherever it is told."""
    own = THRESHOLDS.copy()
    own[round(100 * score)] = score
    return own


def count_by_threshold(
    result: Outcomes,
    scores: np.ndarray,
    labels: np.ndarray,
    object_labels: np.ndarray,
    num_classes: int,
    thresholds: np.ndarray = THRESHOLDS,
) -> list[Counts]:
    """The counts of each class, and at the end those of all classes together.

    Args:
        scores, labels: ``[D]``, of the detections of ``result``; ``object_labels``: ``[G]``, of its objects.
        thresholds: ``[101]``, rising.
    """
    counted = result.kind != Kind.IGNORED
    # A detection counts at all thresholds up to its score, which are compared in float32 as everywhere.
    last = np.searchsorted(thresholds.astype(np.float32), scores[counted], side="right")
    table = np.zeros((2, num_classes, 102), np.int64)  # in column 0 what reaches none of them
    np.add.at(table[0], (labels[counted], last), 1)
    right = result.kind[counted] == Kind.RIGHT
    np.add.at(table[1], (labels[counted][right], last[right]), 1)
    reported, right = table[..., :0:-1].cumsum(-1)[..., ::-1]
    objects = np.bincount(object_labels[result.counts], minlength=num_classes)
    rows = [Counts(*row, thresholds) for row in zip(reported, right, objects.tolist(), strict=True)]
    return [*rows, Counts(reported.sum(0), right.sum(0), int(objects.sum()), thresholds)]


def precision_at_recalls(right: np.ndarray, objects: int) -> np.ndarray:
    """``[101]`` precision at each of ``RECALLS``, made to fall as COCO does: the mean of these is AP. ``right`` ``[D]``
    bool is of the detections that count of one class, best first; nan where there is no object."""
    hits = np.flatnonzero(right)
    return falling(np.arange(1, len(hits) + 1), hits + 1, objects) if objects else np.full(101, np.nan)


def falling(found: np.ndarray, reported: np.ndarray, objects: float) -> np.ndarray:
    """The same from how many objects are found and how many detections reported up to each one that is right."""
    precision = np.maximum.accumulate((found / reported)[::-1])[::-1]
    return np.append(precision, 0.0)[np.searchsorted(found / objects, RECALLS, side="left")]


def calibration(result: Outcomes, scores: np.ndarray) -> dict[str, Any]:
    """``{"bins": [{"low", "high", "score", "right", "count"}], "error"}`` of all detections that are right or wrong:
    mean score and share that is right in each of ``BINS`` equal ranges of the score, None where there is none. The
    error is the mean distance of the two, by the number of detections (expected calibration error)."""
    counted = result.kind != Kind.IGNORED
    scores, right = scores[counted].astype(np.float64), result.kind[counted] == Kind.RIGHT
    at = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts, total, hits = (np.bincount(at, weights, BINS).tolist() for weights in (None, scores, right.astype(float)))
    bins = [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "score": sum_of_scores / count if count else None,
            "right": found / count if count else None,
            "count": count,
        }
        for number, (count, sum_of_scores, found) in enumerate(zip(counts, total, hits, strict=True))
    ]
    distance = sum(abs(sum_of_scores - found) for sum_of_scores, found in zip(total, hits, strict=True))
    return {"bins": bins, "error": distance / max(sum(counts), 1)}
