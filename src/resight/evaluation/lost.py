"""Where the points are lost: which stage lost each object that is not found at IoU .75, by size, aspect and class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..types import Detections, pairwise_iou
from .coco import LARGE, SMALL, GroundTruth, areas
from .operating_point import FALSE, match

COVERED, TIGHT = 0.5, 0.75  # IoU from which an object is found, and from which it is found well
TALL = 1.5  # height / width; as much the other way round is wide
FATES = ("found", "loose", "wrong_class", "background", "no_proposal", "no_anchor", "unknown")
FOUND, LOOSE, WRONG_CLASS, BACKGROUND, NO_PROPOSAL, NO_ANCHOR, UNKNOWN = range(len(FATES))


def lost(
    truths: Sequence[GroundTruth],
    found: Sequence[Detections],
    classes: Sequence[str],
    score: float,
    anchor_iou: np.ndarray,
    proposal_iou: np.ndarray,
    ignore_difficult: bool = False,
) -> dict[str, Any]:
    """How many objects had which of the ``FATES`` of :func:`fates`, and of how many ``objects``: of "all", and by
    "size", "aspect" and "class" of those that have any."""
    fate = fates(truths, found, score, anchor_iou, proposal_iou, ignore_difficult)
    labels = np.concatenate([np.zeros(0, np.int64), *(truth.labels for truth in truths)])
    boxes = np.concatenate([np.zeros((0, 4)), *(truth.boxes for truth in truths)])
    area = areas(boxes, np.concatenate([np.zeros(0), *(truth.area for truth in truths)]))
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    small, large = area < SMALL, area > LARGE
    parts = {
        "size": {"small": small, "medium": ~small & ~large, "large": large},
        "aspect": aspects(sides),
        "class": {name: labels == label for label, name in enumerate(classes)},
    }
    counts = {by: {name: _counts(fate[inside]) for name, inside in rows.items()} for by, rows in parts.items()}
    return {
        "all": _counts(fate),
        **{by: {name: row for name, row in rows.items() if row["objects"]} for by, rows in counts.items()},
    }


def aspects(sides: np.ndarray) -> dict[str, np.ndarray]:
    """``[N]`` bool each: which of the boxes with ``sides`` ``[N, 2]`` (width, height) are tall, square and wide."""
    width, height = sides.T
    tall, wide = height > TALL * width, width > TALL * height
    return {"tall": tall, "square": ~tall & ~wide, "wide": wide}


def fates(
    truths: Sequence[GroundTruth],
    found: Sequence[Detections],
    score: float,
    anchor_iou: np.ndarray,
    proposal_iou: np.ndarray,
    ignore_difficult: bool = False,
) -> np.ndarray:
    """``[G]`` what became of each object at the operating point ``score``, an index of ``FATES``; -1: does not count.

    An object is found by a detection of its class with IoU .75, or with .5 and loosely, matched as COCO does. Else it
    was called another class by a detection on it (IoU .5) that is right about no other object; or no anchor covers it
    (IoU .5); or a detection of its class lies on it with too low a score, and the second stage called it background; or
    no proposal covers it; or one does, and it was called background, too.

    Args:
        anchor_iou: ``[G]`` the best IoU of an anchor with each object, nan where that is not known.
        proposal_iou: ``[G]`` likewise of a proposal.
    """
    images = [_detected(truth, every, score, ignore_difficult) for truth, every in zip(truths, found, strict=True)]
    tight, loose, other, low, counts = np.concatenate([np.zeros((5, 0), bool), *images], 1)
    tests = {
        FOUND: tight,
        LOOSE: loose,
        WRONG_CLASS: other,
        NO_ANCHOR: anchor_iou < COVERED,
        BACKGROUND: low,
        NO_PROPOSAL: proposal_iou < COVERED,
        UNKNOWN: np.isnan(proposal_iou),
    }
    return np.where(counts, np.select(list(tests.values()), list(tests), BACKGROUND), -1)


def _detected(truth: GroundTruth, every: Detections, score: float, ignore_difficult: bool) -> np.ndarray:
    """``[5, N]`` bool, of each object of an image: found with IoU .75, with .5, called another class; on it is a
    detection of its class, whatever the score; and it counts."""
    objects, reported = np.arange(len(truth.labels)), every.scores >= score
    tight, loose = (match(truth, every.above(score), ignore_difficult, iou) for iou in (TIGHT, COVERED))
    on, named = pairwise_iou(every.boxes, truth.boxes) >= COVERED, every.labels[:, None] == truth.labels
    other = ((on & ~named)[reported] & (loose[0] == FALSE)[:, None]).any(0)
    counts = ~truth.ignored(ignore_difficult)
    return np.stack([np.isin(objects, tight[1]), np.isin(objects, loose[1]), other, (on & named).any(0), counts])


def _counts(fate: np.ndarray) -> dict[str, int]:
    of_fate = np.bincount(fate[fate >= 0], minlength=len(FATES)).tolist()
    return {"objects": sum(of_fate), **dict(zip(FATES, of_fate, strict=True))}
