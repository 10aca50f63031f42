"""The report on a data set as one HTML page, with the pictures that its numbers speak of."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from ..errors import listed
from . import svg
from .data_columns import DataColumns
from .data_suspects import DIFFERENT, ONCE, SIZE, TWICE
from .page import as_text, over, render
from .thumbnails import SIDE, Part, around, thumbnails

log = logging.getLogger(__name__)

EXAMPLES, MOST_EXAMPLES = 300, 6  # pictures of objects: of all classes, and of one class in one split
SHOWN = 48  # suspects of one kind
PAIRS = 24  # of images in two splits
EMPTY = 12  # images without a box
ROWS = 20  # of the tables of image sizes and groups
EXAMPLE_SIDE = 120  # pixels
MARGIN = 24  # pixels that are seen around a box of unusual size, at least

_EXPLAINED = {
    DIFFERENT: "Two images look the same, and a box at the same place has another class in each.",
    TWICE: "Of one class, and they overlap by an IoU of more than .8. The dashed one comes first in the file.",
    SIZE: "Far from the sizes of most boxes of their class, by more than three interquartile ranges.",
    ONCE: "Two images look the same, and one of them has fewer boxes of the class. Both show the same place.",
}


@dataclass
class _Pictures:
    """The pictures of a page: asked for in the order of their worth, cut all at once."""

    data: DataColumns
    parts: list[Part] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)

    def of(
        self,
        image: int,
        solid: Sequence[float] | None,
        dashed: Sequence[float] | None = None,
        *,
        place: Sequence[float] | None = None,
        side: int = SIDE,
    ) -> dict[str, Any]:
        """Of an image around the boxes to be drawn, or around a ``place`` without a box, or all of it; "picture" comes
        with ``cut``."""
        boxes = [box for box in (solid, dashed, place) if box is not None]
        size = (int(self.data.sizes[image][0]), int(self.data.sizes[image][1]))
        self.parts.append(Part(image, around(boxes, size), side))
        self.made.append({"file": self.data.files[image], **over(self.parts[-1].crop, solid, dashed)})
        return self.made[-1]

    def cut(self) -> None:
        cut, problems = thumbnails(self.parts, self.data.pixels)
        if problems:
            log.warning("not shown: %s", listed(problems, 3))
        for one, picture in zip(self.made, cut, strict=True):
            one["picture"] = as_text(picture)


def data_page(numbers: dict[str, Any], data: DataColumns) -> str:
    """The page of ``numbers``, which are those of ``data`` (the content of the JSON file)."""
    pictures = _Pictures(data)
    values = {
        **numbers,
        "kinds": _kinds(numbers["suspects"], pictures),
        "pairs": [_pair(row, pictures) for row in _telling(numbers["leakage"]["pairs"])[:PAIRS]],
        "empty": [pictures.of(image, None) for image in _without_boxes(data)],
        "examples": _examples(data, pictures),
        "charts": charts(numbers),
        "size_rows": _rows(numbers["sizes"], numbers["sizes"]["reached"]),
        "most_in_cell": max(map(max, numbers["positions"])),
        "levels": list(zip(numbers["network"]["anchors"], numbers["network"]["strides"], strict=True)),
        "tiles": _tiles(numbers),
        "most_boxes": max((row["boxes"] for row in numbers["classes"]), default=0),
        "shown": SHOWN,
        "rows": ROWS,
    }
    pictures.cut()
    return render("data.html.j2", values)


def _tiles(numbers: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Number, what it counts, and more of it."""
    head, reached, leaked = numbers["head"], numbers["network"]["reached_50"], numbers["leakage"]["images"]
    by_split = ", ".join(f"{row['images']:,} {row['name']}" for row in numbers["splits"] if row["name"])
    empty = sum(row["empty"] for row in numbers["splits"])
    return [
        (f"{head['images']:,}", "Images", by_split or "in no splits"),
        (f"{head['boxes']:,}", "Boxes", f"{empty:,} images have none" if empty else "at least one in every image"),
        (
            f"{head['classes']:,}",
            "Classes",
            f"{len(numbers['balance']['rare']):,} with fewer than {numbers['balance']['least']} boxes",
        ),
        ("–" if reached is None else f"{reached:.1%}", "In reach of anchors", "boxes, at IoU .5 or more"),
        (f"{len(numbers['suspects']):,}", "Label suspects", "labels that look wrong"),
        (f"{leaked:,}", "Leaked images", "of val and test, with a relative in an earlier split"),
    ]


def _kinds(suspects: Sequence[dict[str, Any]], pictures: _Pictures) -> list[dict[str, Any]]:
    """The suspects of each kind there is, with how many and with the pictures of the first ones."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in suspects:
        rows[row["kind"]].append(row)
    return [
        {"kind": kind, "count": len(own), "says": _EXPLAINED[kind], "cards": [_card(r, pictures) for r in own[:SHOWN]]}
        for kind, own in rows.items()
    ]


def _card(row: dict[str, Any], pictures: _Pictures) -> dict[str, Any]:
    image, other, sizes = row["image"], row["other_image"], pictures.data.sizes
    if row["kind"] == SIZE:  # what is around a tiny box tells what it is of
        x1, y1, x2, y2 = row["box"]
        around_it = (x1 - MARGIN, y1 - MARGIN, x2 + MARGIN, y2 + MARGIN)
        return row | {"pictures": [pictures.of(image, row["box"], place=around_it)]}
    if other == image:
        return row | {"pictures": [pictures.of(image, row["box"], row["other_box"])]}
    # What is in the one image is shown in the other too, at the same share of its sides.
    place = (np.array(row["box"]) * np.tile(sizes[other] / sizes[image], 2)).tolist()
    return row | {"pictures": [pictures.of(image, row["box"]), pictures.of(other, row["other_box"], place=place)]}


def _telling(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All near-duplicates, and of each group one image in each split: the others look much the same."""
    told: dict[tuple[Any, ...], dict[str, Any]] = {}
    for pair in pairs:
        alike = (pair["other_image"], pair["split"]) if pair["kind"] == "group" else (pair["image"],)
        told.setdefault((pair["kind"], *alike), pair)
    return list(told.values())


def _pair(row: dict[str, Any], pictures: _Pictures) -> dict[str, Any]:
    return row | {"pictures": [pictures.of(row["image"], None), pictures.of(row["other_image"], None)]}


def _without_boxes(data: DataColumns) -> list[int]:
    """Some images that have none, at equal distances: neighbours are often frames of one video."""
    bare = np.flatnonzero(np.bincount(data.image, minlength=len(data)) == 0)
    return bare[_spread(len(bare), EMPTY)].tolist()


def _spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` places, the middles of equal stretches."""
    most = min(count, most)
    return ((np.arange(most) + 0.5) * count / max(most, 1)).astype(np.int64)


def _examples(data: DataColumns, pictures: _Pictures) -> list[dict[str, Any]]:
    """Of each class and split some objects from the smallest to the largest, as long as there is room for pictures."""
    parts = data.parts
    number = np.array([parts.index(split) for split in data.splits], np.int64)[data.image]
    areas = (data.boxes[:, 2:] - data.boxes[:, :2]).prod(1)
    order = np.lexsort((areas, number, data.label))
    keys = (data.label * len(parts) + number)[order]
    present, starts = np.unique(keys, return_index=True)
    ends = np.append(starts, len(keys))[1:]
    each = min(max(EXAMPLES // max(len(present), 1), 1), MOST_EXAMPLES)
    classes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for key, start, end in list(zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True))[:EXAMPLES]:
        rows = order[start + _spread(end - start, each)].tolist()
        shown = [pictures.of(int(data.image[row]), data.boxes[row].tolist(), side=EXAMPLE_SIDE) for row in rows]
        classes[key // len(parts)].append({"split": parts[key % len(parts)], "pictures": shown})
    return [{"name": data.classes[label], "splits": splits} for label, splits in classes.items()]


def charts(numbers: dict[str, Any]) -> dict[str, Markup]:
    """Of sizes, aspects, boxes per image and positions."""
    sizes, network = numbers["sizes"], numbers["network"]
    first, last = _range(sizes["counts"])
    anchors = sorted({size for level in network["anchors"] for size in level})
    marks = [_column(size, sizes["edges"]) - first for size in anchors]
    inside = [mark for mark in marks if 0 <= mark <= last - first]
    side = "square root of the box's area in pixels at the network"
    rows = numbers["positions"]
    most = max(map(max, rows))
    return {
        "sizes": svg.histogram(
            "Boxes by size at the network",
            "Filled: an anchor overlaps them by an IoU of .5 or more. The numbers are in the table.",
            [f"{edge:g}" for edge in sizes["edges"][first : last + 1]],
            sizes["counts"][first:last],
            side,
            solid=sizes["reached"][first:last],
            marks=inside,
        ),
        "aspects": _chart("Boxes by aspect", numbers["aspects"], "width / height"),
        "boxes_per_image": _chart(
            "Images by their number of boxes", numbers["boxes_per_image"], "boxes of an image", True
        ),
        "positions": svg.heat_map("Where boxes have their centres", f"At most {most} in one cell.", rows),
    }


def _chart(title: str, histogram: dict[str, Any], label: str, whole: bool = False) -> Any:
    """``whole``: of whole numbers, so that a range is told by its first and last."""
    first, last = _range(histogram["counts"])
    rows = _rows(histogram)
    edges = [f"{edge:.4g}" for edge in histogram["edges"][first : last + 1]]
    if whole:
        ends = [*histogram["edges"], math.inf]
        edges = [_whole(*ends[at : at + 2]) for at in range(first, last)]
    says = "; ".join(f"{row['range']}: {row['count']}" for row in rows)
    return svg.histogram(title, says, edges, histogram["counts"][first:last], label)


def _whole(first: float, end: float) -> str:
    if end == math.inf:
        return f"{first:g}+"
    return f"{first:g}" if end == first + 1 else f"{first:g}–{end - 1:g}"


def _rows(histogram: dict[str, Any], reached: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """The ranges of a histogram from the first to the last that holds something."""
    first, last = _range(histogram["counts"])
    edges, rows = [*histogram["edges"], math.inf], []
    for at in range(first, last):
        end = f"up to {edges[at + 1]:g}" if edges[at + 1] < math.inf else "and more"
        count = histogram["counts"][at]
        share = None if reached is None or not count else reached[at] / count
        rows.append({"range": f"{edges[at]:g} {end}", "count": count, "reached": share})
    return rows


def _range(counts: Sequence[int]) -> tuple[int, int]:
    """The first column that holds something, and the one after the last."""
    there = np.flatnonzero(counts)
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 1)


def _column(size: float, edges: Sequence[float]) -> float:
    """Where a size lies among columns, by its logarithm within its own."""
    at = int(np.searchsorted(edges, size, side="right")) - 1
    low, high = max(edges[at], 1), edges[at + 1] if at + 1 < len(edges) else 2 * edges[at]
    return at + math.log(size / low) / math.log(high / low)
