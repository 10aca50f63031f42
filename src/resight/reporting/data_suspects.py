"""Labels that look wrong without any model having seen the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..types import pairwise_iou
from .data_columns import DataColumns
from .outcomes import by_overlap

OVERLAP = 0.8  # IoU of two boxes of one class above which one of them is one too many
SAME = 0.5  # IoU, as shares of the image, from which boxes in two images that look the same are of one object
MOST_TYPICAL = 20  # boxes that a class must have before a size can be unusual for it
FAR_OUT = 3.0  # interquartile ranges from the quartiles (Tukey's "far out"), of the logarithm of the size
DIFFERENT, ONCE, TWICE, SIZE = (
    "labelled differently",
    "labelled in one of two",
    "two boxes on one object",
    "unusual size",
)


@dataclass(frozen=True)
class Suspect:
    """A box that may be wrong.

    Args:
        kind: ``DIFFERENT``, ``ONCE``, ``TWICE`` or ``SIZE``.
        box: its number in the columns.
        other: the box that speaks against it, -1 where there is none.
        other_image: the image of that, or the one in which its like is missing; its own where there is no other.
        measure: IoU with the other, or the size in pixels at the network.
        text: what is odd about it, beginning with its class.
    """

    kind: str
    box: int
    other: int
    other_image: int
    measure: float
    text: str


def find_suspects(data: DataColumns, sides: np.ndarray, near: np.ndarray | None) -> list[Suspect]:
    """All of a data set, by kind, the most striking first. Crowds are left out.

    Args:
        sides: ``[B]`` square root of each box's area in pixels at the network.
        near: ``[I]`` the representative of each image's near-duplicates; None: not looked for.
    """
    found = [*labelled_differently(data, near), *_twice(data), *_unusual_sizes(data, sides)]
    order = (DIFFERENT, TWICE, SIZE, ONCE)
    return sorted(found, key=lambda suspect: order.index(suspect.kind))


def labelled_differently(data: DataColumns, near: np.ndarray | None) -> list[Suspect]:
    """Boxes that a near-duplicate has under another class (``DIFFERENT``), or not at all (``ONCE``)."""
    if near is None:
        return []
    order = np.argsort(data.image, kind="stable")
    starts = np.searchsorted(data.image[order], np.arange(len(data) + 1))

    def rows(image: int) -> np.ndarray:
        own = order[starts[image] : starts[image + 1]]
        return own[~data.flags["crowd"][own]]

    found: list[Suspect] = []
    for image in np.flatnonzero(near != np.arange(len(near))).tolist():
        found += _of_pair(data, image, int(near[image]), rows(image), rows(int(near[image])))
    return sorted(found, key=lambda suspect: -suspect.measure)


def _of_pair(data: DataColumns, image: int, like: int, own: np.ndarray, theirs: np.ndarray) -> Iterator[Suspect]:
    """The disagreements between the boxes ``own`` of an image and ``theirs`` of its near-duplicate. What agrees is no
    question, so it goes first; at last, what has only moved."""
    overlap = pairwise_iou(
        data.boxes[own] / np.tile(data.sizes[image], 2), data.boxes[theirs] / np.tile(data.sizes[like], 2)
    )
    same = data.label[own][:, None] == data.label[theirs]
    left, left_there = np.ones(len(own), bool), np.ones(len(theirs), bool)
    for allowed in (same & (overlap >= SAME), ~same & (overlap >= SAME), same):
        for row, column in by_overlap(overlap, allowed & left[:, None] & left_there):
            left[row] = left_there[column] = False
            if not same[row, column]:
                yield _differently(data, int(own[row]), int(theirs[column]), float(overlap[row, column]))
    for unmatched, other in ((own[left], like), (theirs[left_there], image)):
        for box in unmatched.tolist():
            text = f"{data.classes[data.label[box]]} here, and none in {data.files[other]}, which looks the same"
            yield Suspect(ONCE, box, -1, other, 0.0, text)


def _differently(data: DataColumns, box: int, other: int, iou: float) -> Suspect:
    image = int(data.image[other])
    name, file = data.classes[data.label[other]], data.files[image]
    text = f"{data.classes[data.label[box]]} here, {name} in {file}, which looks the same"
    return Suspect(DIFFERENT, box, other, image, iou, text)


def _twice(data: DataColumns) -> list[Suspect]:
    """Boxes with an earlier one of their class and image beneath them."""
    found = []
    for box, other, iou in sorted(overlapping(data), key=lambda row: -row[2]):
        text = f"{data.classes[data.label[box]]} twice: two boxes with an IoU of {iou:.2f}"
        found.append(Suspect(TWICE, box, other, int(data.image[box]), iou, text))
    return found


def overlapping(data: DataColumns) -> Iterator[tuple[int, int, float]]:
    """``(box, other, IoU)`` of each box that overlaps an earlier one of its class and image by more than ``OVERLAP``,
    with the one that it overlaps most."""
    rows = np.flatnonzero(~data.flags["crowd"])
    group = data.image[rows] * max(len(data.classes), 1) + data.label[rows]
    rows = rows[np.lexsort((data.boxes[rows, 0], group))]
    group, (x1, y1, x2, y2) = data.image[rows] * max(len(data.classes), 1) + data.label[rows], data.boxes[rows].T
    areas = (x2 - x1) * (y2 - y1)
    best, partner = np.full(len(data.image), OVERLAP), np.full(len(data.image), -1)
    first, shift = np.arange(len(rows) - 1), 1
    # By their left sides: of a box that begins further right than this no overlap can be large enough, nor of those
    # after it. So each is compared with the next one, the one after that, ... while any is near enough.
    while len(first):
        first = first[first + shift < len(rows)]
        second = first + shift
        near = (group[first] == group[second]) & (x1[second] < x1[first] + (1 - OVERLAP) * (x2 - x1)[first])
        first, second = first[near], second[near]
        wide = np.minimum(x2[first], x2[second]) - x1[second]
        high = np.minimum(y2[first], y2[second]) - np.maximum(y1[first], y1[second])
        shared = np.clip(wide, 0, None) * np.clip(high, 0, None)
        iou = shared / (areas[first] + areas[second] - shared)
        later, earlier = np.maximum(rows[first], rows[second]), np.minimum(rows[first], rows[second])
        better = np.flatnonzero(iou > best[later])
        better = better[np.argsort(iou[better], kind="stable")]  # of several in one go the largest is written last
        best[later[better]], partner[later[better]] = iou[better], earlier[better]
        shift += 1
    for box in np.flatnonzero(partner >= 0).tolist():
        yield box, int(partner[box]), float(best[box])


def _unusual_sizes(data: DataColumns, sides: np.ndarray) -> list[Suspect]:
    """Boxes far larger or smaller than most of their class: by more than three interquartile ranges of the logarithm,
    and at least twice as large as the upper quartile, or half the lower one."""
    found: list[tuple[float, Suspect]] = []
    ordinary = ~data.flags["crowd"]
    order = np.argsort(data.label, kind="stable")
    starts = np.searchsorted(data.label[order], np.arange(len(data.classes) + 1))
    for label in range(len(data.classes)):
        rows = order[starts[label] : starts[label + 1]]
        rows = rows[ordinary[rows]]
        if len(rows) < MOST_TYPICAL:
            continue
        logs = np.log2(sides[rows])
        low, high = np.quantile(logs, [0.25, 0.75])
        far = np.maximum(low - logs, logs - high)
        usual = f"half of its class have {2**low:.0f} to {2**high:.0f} px"
        for at in np.flatnonzero(far > max(FAR_OUT * (high - low), 1.0)).tolist():
            box = int(rows[at])
            size, image = float(sides[box]), int(data.image[box])
            text = f"{data.classes[label]} of {size:.3g} px at the size of the network, where {usual}"
            found.append((-float(far[at]), Suspect(SIZE, box, -1, image, size, text)))
    return [suspect for _, suspect in sorted(found, key=lambda row: row[0])]


def plain_rows(data: DataColumns, suspects: Sequence[Suspect]) -> list[dict[str, object]]:
    """The same as plain rows, for `data-report.json` and the CSV."""

    def row(suspect: Suspect) -> dict[str, object]:
        image, other = int(data.image[suspect.box]), suspect.other
        return {
            "kind": suspect.kind,
            "image": image,
            "file": data.files[image],
            "place": data.places[image],
            "split": data.splits[image],
            "label": data.classes[data.label[suspect.box]],
            "box": [round(side, 2) for side in data.boxes[suspect.box].tolist()],
            "other_image": suspect.other_image,
            "other_file": data.files[suspect.other_image],
            "other_label": data.classes[data.label[other]] if other >= 0 else None,
            "other_box": [round(side, 2) for side in data.boxes[other].tolist()] if other >= 0 else None,
            "measure": round(suspect.measure, 4),
            "text": suspect.text,
        }

    return [row(suspect) for suspect in suspects]
