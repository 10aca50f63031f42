"""How far the numbers would differ on other images: intervals from resampled groups of images.

Images of one group (a video, a place) are alike, so whole groups are drawn, with replacement (Cameron, Gelbach and
Miller, 2008, section II).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..evaluation.coco import SIZES, STANDARD, GroundTruth
from ..evaluation.operating_point import assign
from ..types import Detections, pairwise_iou

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
SMALL = 32**2  # square pixels below which COCO calls an object small
NUMBERS = ("mAP", "AP50", "AP75", f"AP_{SIZES[1]}")
RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Rows:
    """Detections of all images by falling score, and objects, as one size range counts them.

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
    def by_class(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Detections and objects of each class that has an object."""
        labels = np.unique(self.object_label)
        return [(np.flatnonzero(self.label == one), np.flatnonzero(self.object_label == one)) for one in labels]

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """``[10]`` AP at each of ``IOUS``, the mean over classes; nan where there is no object. ``weights`` ``[I]``:
        how often each image is there."""
        table = [self._of_class(weights, *rows) for rows in self.by_class]
        present = [row for row in table if row is not None]
        return np.mean(present, axis=0) if present else np.full(len(IOUS), np.nan)

    def _of_class(self, weights: np.ndarray, rows: np.ndarray, objects: np.ndarray) -> np.ndarray | None:
        total = weights[self.object_image[objects]].sum()
        if not total:
            return None
        weight = weights[self.image[rows]]
        reported = weight.cumsum()
        precision = np.zeros(len(IOUS))
        for number in range(len(IOUS)):
            # Precision rises at right detections only, so that these are enough.
            hits = np.flatnonzero(self.right[number, rows])
            hits = hits[weight[hits] > 0]
            ignored = self.ignored[number, rows]
            counted = reported - (weight * ignored).cumsum() if ignored.any() else reported
            found = weight[hits].cumsum()
            # An image that is there twice has its detections one after the other.
            falling = np.maximum.accumulate((found / counted[hits])[::-1])[::-1]
            at = np.searchsorted(found / total, RECALLS, side="left")
            precision[number] = np.append(falling, 0.0)[at].mean()
        return precision


def rows_of(
    truths: Sequence[GroundTruth], found: Sequence[Detections], ignore_difficult: bool = False
) -> dict[str, Rows]:
    """Of each size range, "all" and "small"."""
    sizes = ("all", SIZES[1])
    detections: list[tuple[np.ndarray, ...]] = []
    objects: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {size: [] for size in sizes}
    for image, (truth, one) in enumerate(zip(truths, found, strict=True)):
        one = _best(one)
        overlap = pairwise_iou(one.boxes, truth.boxes, truth.crowd)
        rows, targets = np.nonzero((overlap >= IOUS[0]) & (one.labels[:, None] == truth.labels))
        pairs = list(zip(rows.tolist(), overlap[rows, targets].tolist(), targets.tolist(), strict=True))
        columns = [np.full(len(one), image), one.labels, one.scores]
        for size in sizes:
            counts = ~truth.ignored(ignore_difficult)
            if size != "all":
                counts &= _areas(truth.boxes, truth.area) < SMALL
            outside = _areas(one.boxes) >= SMALL if size != "all" else np.zeros(len(one), bool)
            columns += _matched(pairs, counts, truth.crowd, outside)
            objects[size].append((np.full(int(counts.sum()), image), truth.labels[counts]))
        detections.append(tuple(columns))
    joined = [np.concatenate(column, axis=-1) for column in zip(*detections, strict=True)]
    order = np.argsort(-joined[2], kind="stable")
    image, label, _, *tables = (column[..., order] for column in joined)
    return {
        size: Rows(image, label, *tables[2 * k : 2 * k + 2], *map(np.concatenate, zip(*objects[size], strict=True)))
        for k, size in enumerate(sizes)
    }


def numbers(rows: dict[str, Rows], weights: np.ndarray) -> dict[str, float]:
    """``NUMBERS``, nan where there is no such object."""
    ap, small = (one.average_precision(weights) for one in rows.values())
    return dict(zip(NUMBERS, (float(ap.mean()), float(ap[0]), float(ap[5]), float(small.mean())), strict=True))


def resampled(rows: dict[str, Rows], groups: Sequence[str], seed: int = 0) -> np.ndarray:
    """``[RESAMPLES, len(NUMBERS)]`` the numbers of images drawn anew. ``groups`` ``[I]``: the group of each image;
    one without is a group of its own."""
    names = [group or index for index, group in enumerate(groups)]
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    of_image = np.array([known[name] for name in names], np.int64)
    draw = np.random.default_rng(seed)
    table = []
    for _ in range(RESAMPLES):
        times = np.bincount(draw.integers(0, len(known), len(known)), minlength=len(known))
        table.append(list(numbers(rows, times[of_image].astype(np.float64)).values()))
    return np.array(table)


def interval(samples: np.ndarray, share: float = 0.95) -> tuple[float, float] | None:
    """The middle ``share`` of ``samples``; None where most of them are nan."""
    there = samples[~np.isnan(samples)]
    if 2 * len(there) < len(samples):
        return None
    low, high = np.quantile(there, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def _best(found: Detections) -> Detections:
    """The best ``STANDARD`` of each class, which is what COCO counts, best first."""
    order = np.argsort(-found.scores, kind="stable")
    labels = found.labels[order]
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], labels[by_label], side="left")
    rank = np.empty(len(labels), np.int64)
    rank[by_label] = np.arange(len(labels)) - starts
    order = order[rank < STANDARD]
    return Detections(found.boxes[order], found.scores[order], found.labels[order], found.classes)


def _areas(boxes: np.ndarray, stated: np.ndarray | None = None) -> np.ndarray:
    own = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).prod(1)
    return own if stated is None else np.where(np.isnan(stated), own, stated)


def _matched(
    pairs: list[tuple[int, float, int]], counts: np.ndarray, crowd: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``[10, N]`` right and ignored of the detections of one image."""
    right, ignored = np.zeros((len(IOUS), len(outside)), bool), np.repeat(outside[None], len(IOUS), 0)
    flags = counts.tolist(), crowd.tolist()
    for number, iou in enumerate(IOUS):
        for row, target in assign((pair for pair in pairs if pair[1] >= iou), *flags):
            right[number, row], ignored[number, row] = counts[target], not counts[target]
    return right, ignored
