"""Which kinds of boxes the anchors reach badly, by class and by aspect: for the plan and for ``resight data check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..evaluation.lost import TALL, aspects
from ..input.dataset import ordinary_boxes
from ..records.reader import RecordSplit

LEAST = 10  # boxes of a kind that is told of
POOR = {0.5: 0.9, 0.7: 0.6}  # IoU -> the share of a kind's boxes that should be reached
BELOW = 0.1  # so much less than of the other boxes is worth a note
WITHIN = 0.8  # of a class's boxes: that many of an aspect that is told, and the class is told with it
MOST = 3
_SHAPES = {"tall": f"h/w > {TALL}", "square": f"h/w and w/h <= {TALL}", "wide": f"w/h > {TALL}"}


class Poor(NamedTuple):
    """A kind of boxes, those of ``[N]`` bool, and the ``share`` of them that anchors reach at ``iou``."""

    name: str
    boxes: np.ndarray
    share: float
    iou: float

    def __str__(self) -> str:
        return f"{self.share:.0%} of the {self.name} at IoU {self.iou:g}".replace("IoU 0", "IoU ")


def reach_notes(split: RecordSplit, iou: np.ndarray) -> list[str]:
    """Notes of a plan; ``iou`` ``[N]`` is the best of an anchor with each ordinary box of ``split``."""
    boxes, keep = split.index.boxes["boxes"], ordinary_boxes(split)
    sides = boxes[keep, 2:] - boxes[keep, :2]
    poor = poorly_reached(sides, split.box_labels[keep], split.label_map.names, iou)
    return [f"anchors reach {one}" for one in poor]


def poorly_reached(sides: np.ndarray, labels: np.ndarray, classes: Sequence[str], iou: np.ndarray) -> list[Poor]:
    """The kinds of boxes of which too few have an anchor with IoU .5, or else .7, those with most such boxes first.

    Args:
        sides: ``[N, 2]`` width and height of the boxes in the image.
        labels: ``[N]`` indices of ``classes``.
        iou: ``[N]`` the best IoU of an anchor with each.
    """
    found: list[Poor] = []
    for name, boxes in aspects(sides).items():
        counts = np.bincount(labels[boxes], minlength=len(classes))
        most = f", mostly {classes[counts.argmax()]}" if len(classes) > 1 and 2 * counts.max() > counts.sum() else ""
        found += _poor(f"{name} boxes ({_SHAPES[name]}{most})", boxes, iou)
    told = [one.boxes for one in found]
    for label, name in enumerate(classes):
        boxes = labels == label
        if not any((boxes & other).sum() >= WITHIN * boxes.sum() for other in told):
            found += _poor(f"boxes of {name}", boxes, iou)
    return sorted(found, key=lambda one: -(1 - one.share) * one.boxes.sum())[:MOST]


def _poor(name: str, boxes: np.ndarray, iou: np.ndarray) -> Iterator[Poor]:
    if boxes.sum() < LEAST:
        return
    for least, wanted in POOR.items():
        reached = iou >= least
        share, others = float(reached[boxes].mean()), reached[~boxes]
        if share < wanted and (not len(others) or share <= others.mean() - BELOW):
            yield Poor(name, boxes, share, least)
            return
