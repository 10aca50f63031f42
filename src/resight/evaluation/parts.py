"""Parts of an evaluation: what was found in some of the images, and all of them as one run has them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import ResightError, listed
from ..io.files import check_regular, parse_json
from ..io.parts import all_parts, part_data
from ..types import Detections
from .coco import GroundTruth
from .loop import ImageResult
from .reach import MOST

KIND, SUFFIX = "evaluate", ".safetensors"
_TRUTH = ("boxes", "labels", "crowd", "difficult", "area", "occluded")
_FOUND = ("boxes", "scores", "labels")


@dataclass(frozen=True)
class Found:
    """What was found.

    Args:
        results: of the images, in their order.
        usual: the same with the detections in float32, where another precision is measured beside it.
        unknown: how many objects there are of each class that the model does not know.
        unusable: records that could not be used, each with the reason.
    """

    results: list[ImageResult] = field(default_factory=list)
    usual: list[ImageResult] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    unusable: list[str] = field(default_factory=list)


def save_part(path: Path, found: Found) -> None:
    """Writes what was found in some images."""
    results = found.results
    names = list(dict.fromkeys(name for one in results for name in one.losses))
    columns = {
        "record": np.array([one.record for one in results], np.int64),
        "left_out": np.array([one.left_out for one in results], np.int64),
        "width": np.array([one.detections.width for one in results], np.int64),
        "height": np.array([one.detections.height for one in results], np.int64),
        "looked": np.array([one.proposal_iou is not None for one in results], bool),
        "losses": np.array([[one.losses.get(name, 0) for name in names] for one in results], np.float64),
        "has_loss": np.array([[name in one.losses for name in names] for one in results], bool),
    }
    tables = {
        "truth": [[getattr(one.truth, name) for name in _TRUTH] for one in results],
        "found": [[getattr(one.detections, name) for name in _FOUND] for one in results],
        "usual": [[getattr(one.detections, name) for name in _FOUND] for one in found.usual],
        "label": [[one.labels] for one in results],
        "proposal": [[np.zeros(0) if (iou := one.proposal_iou) is None else iou] for one in results],
    }
    for table, rows in tables.items():
        columns[f"{table}.counts"] = np.array([len(row[0]) for row in rows], np.int64)
        for number, column in enumerate(zip(*rows, strict=True)):
            columns[f"{table}.{number}"] = _joined(column)
    head = {
        "names": [one.name for one in results],
        "groups": [one.group for one in results],
        "losses": names,
        "unknown": dict(found.unknown),
        "unusable": found.unusable,
    }
    save_file(columns, path, {"head": json.dumps(head)})


def gather(place: str, settings: Mapping[str, Any], classes: tuple[str, ...]) -> Found:
    """All parts at ``place``. Raises ResightError: parts are missing, damaged, or of another evaluation than that of
    ``settings``; says which."""
    heads = all_parts(place, KIND)
    made = heads[0]["settings"]
    if differs := [key for key in settings if made.get(key) != settings[key]]:
        message = f"its parts are of another evaluation: they differ in {listed(differs)}"
        raise ResightError(message, where=place, fix="Name the model, data and options that they were made with.")
    gathered = Found()
    for head in heads:
        with part_data(place, head, SUFFIX) as path:
            _load(path, classes, gathered)
    left = MOST  # as in one run, the first ones alone
    for number, one in enumerate(gathered.results):
        if one.proposal_iou is not None:
            left -= 1
            if left < 0:
                gathered.results[number] = replace(one, proposal_iou=None)
    return gathered


def _load(path: Path, classes: tuple[str, ...], gathered: Found) -> None:
    """Adds what a part holds."""
    check_regular(path)
    try:
        with safe_open(path, "numpy") as file:
            head = parse_json((file.metadata() or {})["head"], path)
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, LookupError) as error:
        raise ResightError(f"is damaged: {error}", where=path, fix="Do the part again.") from error
    sizes = list(zip(columns["width"].tolist(), columns["height"].tolist(), strict=True))
    results = []
    rows = zip(head["names"], head["groups"], _rows(columns, "truth"), _rows(columns, "found"), sizes, strict=True)
    labels, proposals = _rows(columns, "label"), _rows(columns, "proposal")
    for number, (name, group, truth, found, size) in enumerate(rows):
        losses = zip(head["losses"], columns["losses"][number].tolist(), columns["has_loss"][number], strict=True)
        one = ImageResult(
            record=int(columns["record"][number]),
            name=name,
            group=group,
            truth=GroundTruth(*truth),
            detections=_detections(found, classes, size),
            losses={name: value for name, value, has in losses if has},
            labels=labels[number][0],
            left_out=int(columns["left_out"][number]),
            proposal_iou=proposals[number][0] if columns["looked"][number] else None,
        )
        results.append(one)
    gathered.results.extend(results)
    for one, found, size in zip(results, _rows(columns, "usual"), sizes, strict=False):
        gathered.usual.append(replace(one, detections=_detections(found, classes, size)))
    gathered.unknown.update(head["unknown"])
    gathered.unusable.extend(head["unusable"])


def _detections(columns: list[np.ndarray], classes: tuple[str, ...], size: tuple[int, int]) -> Detections:
    boxes, scores, labels = columns
    return Detections(boxes, scores, labels, classes, *size)


def _joined(rows: Sequence[np.ndarray]) -> np.ndarray:
    """All rows, of the type of those that hold something."""
    return np.concatenate([row for row in rows if len(row)] or list(rows[:1]))


def _rows(columns: Mapping[str, np.ndarray], table: str) -> list[list[np.ndarray]]:
    """The columns of a table, image by image."""
    counts = columns[f"{table}.counts"]
    numbers = range(sum(name.startswith(f"{table}.") for name in columns) - 1)
    parts = [np.split(columns[f"{table}.{number}"], np.cumsum(counts)[:-1]) for number in numbers]
    return [[part[image] for part in parts] for image in range(len(counts))]
