"""Which kinds of boxes the anchors reach badly, by class and by aspect: for the plan and for ``resight data check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..config.tree import ModelConfig
from ..dialect import could_fit_anchors, dialect_of
from ..errors import counted
from ..evaluation.lost import TALL, aspects
from ..input.dataset import ordinary_boxes
from ..records.reader import RecordSplit

LEAST = 10  # boxes of a kind that is told of
POOR = {0.5: 0.9, 0.7: 0.6}  # IoU -> the share of a kind's boxes that should be reached
BELOW = 0.1  # so much less than of the other boxes is worth a note
WITHIN = 0.8  # of a class's boxes: that many of an aspect that is told, and the class is told with it
MOST = 3  # kinds that a plan tells of
_SHAPES = {"tall": f"h/w > {TALL}", "square": f"h/w and w/h <= {TALL}", "wide": f"w/h > {TALL}"}


class Poor(NamedTuple):
    """A kind of ``boxes``, ``[N]`` bool, and by IoU the ``shares`` that anchors reach, the first a poor one."""

    name: str
    boxes: np.ndarray
    shares: dict[float, float]

    @property
    def beyond(self) -> float:
        """How many boxes are not reached where the share is poor."""
        return (1 - next(iter(self.shares.values()))) * float(self.boxes.sum())

    def __str__(self) -> str:
        (iou, share), *more = self.shares.items()
        text = f"{share:.0%} of the {self.name} at IoU {f'{iou:g}'[1:]}"
        return "".join([text, *(f", {share:.0%} at IoU {f'{iou:g}'[1:]}" for iou, share in more)])


def reach_notes(split: RecordSplit, iou: np.ndarray, model: ModelConfig) -> list[str]:
    """Notes of a plan; ``iou`` ``[N]`` is the best of an anchor with each ordinary box of ``split``."""
    boxes, keep = split.index.boxes["boxes"], ordinary_boxes(split)
    sides = boxes[keep, 2:] - boxes[keep, :2]
    poor = poorly_reached(sides, split.box_labels[keep], split.label_map.names, iou)
    notes = [f"anchors reach {one}" for one in poor[:MOST]]
    if more := len(poor) - len(notes):
        notes.append(f"anchors reach {counted(more, 'more kind')} of boxes badly; resight data check names all")
    if notes:
        notes[-1] += f": {_remedy(model)}"
    return notes


def _remedy(model: ModelConfig) -> str:
    if could_fit_anchors(model):
        return "--set model.anchors=fit helps"
    if dialect_of(model).fits_anchors(model):
        return "more images of them help, or where they are small a larger --size"
    return "where they are small a larger --size helps"


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
        one_class = len(classes) > 1 and 2 * int(counts.max()) > int(counts.sum())
        mostly = f", mostly {classes[int(counts.argmax())]}" * one_class
        found += _poor(f"{name} boxes ({_SHAPES[name]}{mostly})", boxes, iou)
    told = [one.boxes for one in found]
    for label, name in enumerate(classes):
        boxes = labels == label
        if not any((boxes & other).sum() >= WITHIN * boxes.sum() for other in told):
            found += _poor(f"boxes of {name}", boxes, iou)
    return sorted(found, key=lambda one: -one.beyond)


def _poor(name: str, boxes: np.ndarray, iou: np.ndarray) -> Iterator[Poor]:
    if boxes.sum() < LEAST or boxes.all():  # what is said of all boxes is said without notes
        return
    shares = {least: float((iou[boxes] >= least).mean()) for least in POOR}
    while shares:
        least, share = next(iter(shares.items()))
        if share < POOR[least] and share <= (iou[~boxes] >= least).mean() - BELOW:
            yield Poor(name, boxes, shares)
            return
        del shares[least]
