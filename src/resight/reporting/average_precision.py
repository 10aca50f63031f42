"""COCO's AP of any part of an evaluation: images weighted, objects and detections of some kind alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..evaluation.coco import STANDARD, GroundTruth
from ..evaluation.operating_point import assign
from ..types import Detections, pairwise_iou
from .curves import RECALLS, falling

IOUS = np.linspace(0.5, 0.95, 10)
AT_75 = 5  # the index of IoU .75


class Part(NamedTuple):
    """Which ``objects`` are looked for, and which ``detections`` are wrong where they find none: a bool array of each
    image. What finds another object is ignored, as COCO does for its ranges of area."""

    objects: Sequence[np.ndarray]
    detections: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Rows:
    """Detections of all images by falling score, and the objects of one part.

    Args:
        image, label: ``[D]`` of each detection.
        right, ignored: ``[10, D]`` bool at each of ``IOUS``.
        object_image, object_label: ``[G]`` of each object that counts.
    """

    image: np.ndarray
    label: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray

    @cached_property
    def by_class(self) -> dict[int, tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]]:
        """Of each class that has an object: the images of its objects, and at each of ``IOUS`` the images of the
        detections that count and which of these are right; where nothing is ignored the images are one array."""
        table = {}
        for label in np.unique(self.object_label):
            rows = np.flatnonzero(self.label == label)
            every, ignored = self.image[rows], self.ignored[:, rows]
            counted = [~one if one.any() else slice(None) for one in ignored]
            images = [every[one] if isinstance(one, np.ndarray) else every for one in counted]
            hits = [np.flatnonzero(right[one]) for right, one in zip(self.right[:, rows], counted, strict=True)]
            table[int(label)] = self.object_image[self.object_label == label], list(zip(images, hits, strict=True))
        return table

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """``[10]`` AP at each of ``IOUS``, the mean over classes; nan where there is no object. ``weights`` ``[I]``:
        how often each image is there."""
        present = [
            _of_class(weights, total, tables).mean(1)
            for objects, tables in self.by_class.values()
            if (total := float(weights[objects].sum()))
        ]
        return np.mean(present, axis=0) if present else np.full(len(IOUS), np.nan)

    def of_class(self, label: int) -> np.ndarray:
        """``[10, 101]`` precision of one class at each of ``IOUS`` and of ``RECALLS``; nan where there is no object."""
        if label not in self.by_class:
            return np.full((len(IOUS), len(RECALLS)), np.nan)
        objects, tables = self.by_class[label]
        return _of_class(np.ones(1 + int(max(objects.max(), self.image.max(initial=0)))), len(objects), tables)


def _of_class(weights: np.ndarray, objects: float, tables: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """``[10, 101]`` precision."""
    precision = np.zeros((len(IOUS), len(RECALLS)))
    last, weight, reported = None, weights[:0], weights[:0]
    for number, (images, hits) in enumerate(tables):
        if images is not last:
            last, weight = images, weights[images]
            reported = weight.cumsum()
        # Precision rises at right detections only, so that these are enough.
        hits = hits[weight[hits] > 0]
        precision[number] = falling(weight[hits].cumsum(), reported[hits], objects)
    return precision


def everything(truths: Sequence[GroundTruth], found: Sequence[Detections]) -> Part:
    return Part([np.ones(len(t.labels), bool) for t in truths], [np.ones(len(one), bool) for one in found])


def rows_of(
    truths: Sequence[GroundTruth],
    found: Sequence[Detections],
    parts: Mapping[str, Part],
    ignore_difficult: bool = False,
) -> dict[str, Rows]:
    """The rows of each part, of the best 100 detections of a class in an image."""
    columns: list[tuple[np.ndarray, ...]] = []
    objects: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [_NO_OBJECTS] for name in parts}
    for image, (truth, one) in enumerate(zip(truths, found, strict=True)):
        best = best_of_class(one)
        boxes, labels = one.boxes[best], one.labels[best]
        overlap = pairwise_iou(boxes, truth.boxes, truth.crowd)
        rows, targets = np.nonzero((overlap >= IOUS[0]) & (labels[:, None] == truth.labels))
        pairs = list(zip(rows.tolist(), overlap[rows, targets].tolist(), targets.tolist(), strict=True))
        row = [np.full(len(best), image), labels, one.scores[best]]
        for name, part in parts.items():
            counts = part.objects[image] & ~truth.ignored(ignore_difficult)
            row += _matched(pairs, counts, truth.crowd, ~part.detections[image][best])
            objects[name].append((np.full(int(counts.sum()), image), truth.labels[counts]))
        columns.append(tuple(row))
    if not columns:
        nothing = np.zeros(0, np.int64), np.zeros((len(IOUS), 0), bool)
        return {name: Rows(nothing[0], nothing[0], nothing[1], nothing[1], *_NO_OBJECTS) for name in parts}
    joined = [np.concatenate(column, axis=-1) for column in zip(*columns, strict=True)]
    order = np.argsort(-joined[2], kind="stable")
    image_of, label_of, _, *tables = (column[..., order] for column in joined)
    return {
        name: Rows(
            image_of, label_of, *tables[2 * k : 2 * k + 2], *map(np.concatenate, zip(*objects[name], strict=True))
        )
        for k, name in enumerate(parts)
    }


_NO_OBJECTS = np.zeros(0, np.int64), np.zeros(0, np.int64)


def best_of_class(found: Detections) -> np.ndarray:
    """The best 100 detections of each class, which is what COCO counts, best first."""
    order = np.argsort(-found.scores, kind="stable")
    labels = found.labels[order]
    by_label = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_label] = np.arange(len(labels)) - np.searchsorted(labels[by_label], labels[by_label], side="left")
    return order[rank < STANDARD]


def _matched(
    pairs: list[tuple[int, float, int]], counts: np.ndarray, crowd: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``[10, N]`` right and ignored of the detections of one image."""
    right, ignored = np.zeros((len(IOUS), len(outside)), bool), np.repeat(outside[None], len(IOUS), 0)
    flags, held = (counts.tolist(), crowd.tolist()), len(pairs) + 1
    for number, iou in enumerate(IOUS):
        pairs = [pair for pair in pairs if pair[1] >= iou]
        if not pairs:
            break
        if len(pairs) == held:  # the same as at the IoU before
            right[number], ignored[number] = right[number - 1], ignored[number - 1]
            continue
        held = len(pairs)
        for row, target in assign(pairs, *flags):
            right[number, row], ignored[number, row] = counts[target], not counts[target]
    return right, ignored
