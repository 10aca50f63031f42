"""What a data set is made of, and what of it is worth a look: numbers, and the page that shows them."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._version import __version__
from ..arguments import check_types
from ..config.defaults import Exif
from ..config.tree import Config, ModelConfig
from ..datasets.near_duplicates import group_near_duplicates
from ..datasets.split import leaks
from ..dialect import anchors_for, dialect_of, load_config
from ..errors import ResightError, counted
from ..evaluation.coco import LARGE, SMALL
from ..input.sampler import image_classes
from .data_columns import DataColumns, read_columns
from .data_suspects import find_suspects, plain_rows
from .files import ReportFiles, check_charts, csv_text, write_charts

VERSION = 1
MOST_COMPARED = 5_000  # images among which near-duplicates are looked for unasked: all of them are decoded for it
SIDES = (0, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # pixels at the network
ASPECTS = (0, 0.125, 0.2, 0.3, 0.45, 0.65, 0.9, 1.1, 1.5, 2.2, 3.3, 5, 8)  # width / height
CROWDING = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100)  # boxes an image
GRID = 16  # cells of the map of positions, each way
RARE = 20  # boxes of a class: with fewer a detector hardly learns it
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class DataReport:
    """What ``report_data`` found and wrote; ``numbers`` is the content of the JSON file."""

    path: str
    files: tuple[str, ...]
    numbers: dict[str, Any]

    def text(self) -> str:
        """For people: the sentence, and what is worth a look by kind."""
        leaked = Counter(pair["kind"] for pair in self.numbers["leakage"]["pairs"])
        kinds = Counter(suspect["kind"] for suspect in self.numbers["suspects"])
        lines = [self.numbers["sentence"]]
        lines += [f"{count:>7,}  leakage into val or test: {kind}" for kind, count in leaked.items()]
        return "\n".join([*lines, *(f"{count:>7,}  {kind}" for kind, count in kinds.items())])


def report_data(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] = "data-report.html",
    *,
    format: str = "auto",
    exif: Exif = "auto",
    duplicates: bool = False,
    config: Config | None = None,
    plots: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> DataReport:
    """Writes one HTML page on a data set, its numbers beside it as JSON, and suspicious labels as CSV.

    Args:
        path: annotated images in any format, or a records folder.
        out: the page; the other files have its name with ``.json`` and ``-suspects.csv``.
        format: the source's format, or "auto".
        exif: the frame of the boxes of rotated images, as in ``write_records``.
        duplicates: look for near-duplicates however many images there are; all are decoded for it.
        config: its model and image size are those that boxes and anchors are compared at; by default the default
            configuration.
        plots: folder for the charts as SVG files.
        force: replace an earlier report.

    Raises:
        ResightError: the data cannot be read, holds no image, or a file cannot be written.
    """
    check_types(locals(), report_data)
    from .data_page import charts, data_page  # Jinja2 comes with it

    files = ReportFiles.at(out, force)
    check_charts(plots, force)
    config = config or load_config()
    data = read_columns(path, format, exif, config)
    if not len(data):
        fix = f"Why: resight data check {shlex.quote(os.fspath(path))}"
        raise ResightError("there is no image to report on", where=path, fix=fix)
    numbers = describe(data, os.fspath(path), config.model, duplicates or len(data) <= MOST_COMPARED)
    files.write(data_page(numbers, data), numbers, _csv(numbers["suspects"]))
    write_charts(plots, force, {f"{name}.svg": str(chart) for name, chart in charts(numbers).items()})
    return DataReport(os.fspath(path), (*map(str, files), *([os.fspath(plots)] if plots is not None else [])), numbers)


def describe(data: DataColumns, path: str, model: ModelConfig, duplicates: bool) -> dict[str, Any]:
    """Everything that the page shows, in plain values. Crowds count as boxes, and in nothing that measures boxes."""
    near = group_near_duplicates(data.fingerprints()) if duplicates else None
    ordinary = np.flatnonzero(~data.flags["crowd"])
    network, sides, iou = _network(data, model, ordinary)
    numbers: dict[str, Any] = {
        "version": VERSION,
        "resight": __version__,
        "head": _head(data, path),
        "left_out": [{"kind": kind, "count": count} for kind, count in (+data.left_out).most_common()],
        "splits": _splits(data),
        "classes": _classes(data, ordinary, sides, iou),
        "network": network,
        "sizes": _sizes(data, ordinary, sides, iou),
        "aspects": _histogram(_aspects(data)[ordinary], ASPECTS),
        "positions": _positions(data, ordinary),
        "boxes_per_image": _histogram(np.bincount(data.image, minlength=len(data)), CROWDING),
        "image_sizes": _image_sizes(data),
        "groups": _groups(data),
        "duplicates": None if near is None else _duplicates(near),
        "leakage": _leakage(data, near),
        "suspects": plain_rows(data, find_suspects(data, sides, near)),
    }
    return numbers | {"balance": _balance(numbers["classes"]), "sentence": _sentence(numbers)}


def _head(data: DataColumns, path: str) -> dict[str, Any]:
    flags = {name: int(flag.sum()) for name, flag in data.flags.items()}
    amounts = {"images": len(data), "boxes": len(data.image), "classes": len(data.classes)}
    return {"data": path, "format": data.format, **amounts, **flags}


def _splits(data: DataColumns) -> list[dict[str, Any]]:
    boxes = np.bincount(data.image, minlength=len(data))
    rows = []
    for part in data.parts:
        images = np.array([split == part for split in data.splits], bool)
        groups = {group for group, split in zip(data.groups, data.splits, strict=True) if split == part and group}
        amounts = {"images": int(images.sum()), "boxes": int(boxes[images].sum())}
        rows.append({"name": part, **amounts, "empty": int((boxes[images] == 0).sum()), "groups": len(groups)})
    return rows


def _classes(data: DataColumns, ordinary: np.ndarray, sides: np.ndarray, iou: np.ndarray) -> list[dict[str, Any]]:
    """Of each class its boxes and images, in all and by split, the quartiles of its size, and what anchors reach."""
    count, parts = len(data.classes), data.parts
    part = np.array([parts.index(split) for split in data.splits], np.int64)
    found, classes = image_classes(data.image, data.label)
    boxes, images = np.zeros((2, len(parts), count), np.int64)
    np.add.at(boxes, (part[data.image], data.label), 1)
    np.add.at(images, (part[found], classes), 1)
    order = ordinary[np.argsort(data.label[ordinary], kind="stable")]
    starts = np.searchsorted(data.label[order], np.arange(count + 1))
    shapes, rows = _aspects(data), []
    for label, name in enumerate(data.classes):
        own = order[starts[label] : starts[label + 1]]
        by_split = [
            {"name": split, "boxes": int(boxes[at, label]), "images": int(images[at, label])}
            for at, split in enumerate(parts)
        ]
        total = {"boxes": int(boxes[:, label].sum()), "images": int(images[:, label].sum()), "splits": by_split}
        quartiles = [round(float(q), 2) for q in np.quantile(sides[own], [0, 0.25, 0.5, 0.75, 1])] if len(own) else None
        aspect = round(float(np.median(shapes[own])), 3) if len(own) else None
        rows.append({"name": name, **total, "sides": quartiles, "aspect": aspect, "reached": _share(iou[own] >= 0.5)})
    return rows


def _network(
    data: DataColumns, model: ModelConfig, ordinary: np.ndarray
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What boxes are like at the network: in words; ``[B]`` square roots of areas; ``[B]`` best IoU with an anchor, of
    a training's: the model's own, or fitted to the boxes of train, or of all where there is no split."""
    from ..detection.anchors import reachable_iou  # torch comes with these
    from ..input.target import to_input_frame

    dialect = dialect_of(model)
    strides = dialect.level_strides(model)
    sizes, centers = to_input_frame(data.boxes, data.sizes[data.image], model)
    trained = np.array([split in ("train", None) for split in data.splits], bool)[data.image]
    trained = ordinary[trained[ordinary]]
    anchors = anchors_for(model, sizes[trained], centers[trained])
    iou = reachable_iou(sizes, centers, anchors, strides)
    said = {"model": model.name, "min_size": model.min_size, "max_size": model.max_size, "strides": strides}
    said |= {"fitted": bool(dialect.fits_anchors(model)), "ratios": list(anchors.ratios)}
    said |= {"anchors": [list(sizes) for sizes in anchors.sizes], "boxes": len(ordinary)}
    said |= {f"reached_{least}": _share(iou[ordinary] >= least / 100) for least in (50, 70)}
    sides = np.sqrt(sizes.prod(1))
    return said | {"small": int((sides[ordinary] < 2 * strides[0]).sum())}, sides, iou


def _sizes(data: DataColumns, ordinary: np.ndarray, sides: np.ndarray, iou: np.ndarray) -> dict[str, Any]:
    """By side at the network, with the boxes of each range that an anchor reaches; and by area as COCO divides them."""
    areas = (data.boxes[ordinary, 2:] - data.boxes[ordinary, :2]).prod(1)
    reached = _histogram(sides[ordinary][iou[ordinary] >= 0.5], SIDES)["counts"]
    small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    coco = {"small": small, "medium": len(areas) - small - large, "large": large}
    return {**_histogram(sides[ordinary], SIDES), "reached": reached, "coco": coco}


def _aspects(data: DataColumns) -> np.ndarray:
    """``[B]`` width / height."""
    sides = data.boxes[:, 2:] - data.boxes[:, :2]
    return sides[:, 0] / sides[:, 1]


def _histogram(values: np.ndarray, edges: Sequence[float]) -> dict[str, Any]:
    """How many ``values`` lie from each of the ``edges`` up to, but not at, the next one; the last has no end."""
    return {"edges": list(edges), "counts": np.histogram(values, [*edges, np.inf])[0].tolist()}


def _positions(data: DataColumns, ordinary: np.ndarray) -> list[list[int]]:
    """The centres of boxes in each cell of a grid over the image, by row and column."""
    centers = (data.boxes[ordinary, :2] + data.boxes[ordinary, 2:]) / 2 / data.sizes[data.image[ordinary]]
    cells = np.clip((centers * GRID).astype(np.int64), 0, GRID - 1)
    return np.bincount(cells[:, 1] * GRID + cells[:, 0], minlength=GRID * GRID).reshape(GRID, GRID).tolist()


def _image_sizes(data: DataColumns) -> list[dict[str, int]]:
    """From the most frequent on."""
    sizes, counts = np.unique(data.sizes, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rows = zip(sizes[order].tolist(), counts[order].tolist(), strict=True)
    return [{"width": width, "height": height, "images": count} for (width, height), count in rows]


def _groups(data: DataColumns) -> dict[str, Any]:
    """The groups, from the largest on."""
    images = Counter(group for group in data.groups if group)
    boxes = Counter(data.groups[image] for image in data.image.tolist())
    parts: dict[str, set[str | None]] = {}
    for group, split in zip(data.groups, data.splits, strict=True):
        if group:
            parts.setdefault(group, set()).add(split)
    rows = [
        {
            "name": name,
            "images": count,
            "boxes": boxes[name],
            "splits": [part for part in data.parts if part in parts[name]],
        }
        for name, count in images.most_common()
    ]
    return {"count": len(rows), "without": len(data) - images.total(), "rows": rows}


def _duplicates(near: np.ndarray) -> dict[str, int]:
    members = np.bincount(near, minlength=len(near))
    return {"compared": len(near), "sets": int((members > 1).sum()), "images": int(members[members > 1].sum())}


def _leakage(data: DataColumns, near: np.ndarray | None) -> dict[str, Any]:
    """Images of val and test whose group or near-duplicate is in an earlier split, each with one of these."""
    reasons: dict[str, Sequence[object]] = {
        "near-duplicate": [] if near is None else near.tolist(),
        "group": data.groups,
    }
    pairs = [
        {
            "kind": kind,
            "image": image,
            "file": data.files[image],
            "split": data.splits[image],
            "other_image": other,
            "other_file": data.files[other],
            "other_split": data.splits[other],
        }
        for kind, groups in reasons.items()
        for image, other in (leaks(data.splits, groups) if groups else ())
    ]
    return {"images": len({pair["image"] for pair in pairs}), "pairs": pairs}


def _balance(classes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How evenly boxes are spread over classes."""
    counts = sorted((row["boxes"] for row in classes), reverse=True)
    half = next((n for n, reached in enumerate(np.cumsum(counts).tolist(), 1) if 2 * reached >= sum(counts)), 0)
    present = [count for count in counts if count]
    return {
        "largest": counts[0] if counts else 0,
        "smallest": counts[-1] if counts else 0,
        "ratio": round(present[0] / present[-1], 2) if present else None,
        "half": half if present else 0,
        "least": RARE,
        "rare": [row["name"] for row in classes if row["boxes"] < RARE],
    }


def _sentence(numbers: dict[str, Any]) -> str:
    head, empty = numbers["head"], sum(split["empty"] for split in numbers["splits"])
    amounts = f"{counted(head['boxes'], 'box', 'boxes')} of {counted(head['classes'], 'class', 'classes')}"
    text = f"{counted(head['images'], 'image')} with {amounts}"
    text += f"; {counted(empty, 'image has', 'images have')} none" if empty else ""
    if (reached := numbers["network"]["reached_50"]) is not None:
        text += f"; anchors reach {reached:.1%} of the boxes at the size of the network"
    return f"{text}."


def _share(flags: np.ndarray) -> float | None:
    return round(float(flags.mean()), 6) if len(flags) else None


def _csv(suspects: Sequence[dict[str, Any]]) -> str:
    columns = ["kind", "file", "split", "label", *_SIDES, "other_file", "other_label"]
    columns += [*(f"other_{side}" for side in _SIDES), "measure", "text", "place"]
    boxes = [[*row["box"], *(row["other_box"] or [None] * 4)] for row in suspects]
    sides = columns[4:8] + columns[10:14]
    rows = [row | dict(zip(sides, corners, strict=True)) for row, corners in zip(suspects, boxes, strict=True)]
    return csv_text(columns, rows)
