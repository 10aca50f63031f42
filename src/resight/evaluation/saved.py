"""What is kept of an evaluation: ``metrics.json``, and in ``detections.safetensors`` every object and detection."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..config.loading import explain
from ..errors import ResightError
from ..inference.detector import Detector
from ..io.files import check_regular, parse_json, read_json
from ..io.outputs import atomic_file, write_text
from ..types import Detections
from .coco import STANDARD, GroundTruth, measures_of
from .loop import ImageResult
from .lost import lost
from .operating_point import OperatingPoint
from .reach import anchor_iou

METRICS, DETECTIONS = "metrics.json", "detections.safetensors"
_VERSION = "1"
_ROWS: dict[str, dict[str, type]] = {
    "image": {
        "record": np.int64,
        "width": np.int32,
        "height": np.int32,
        "scale": np.float32,
        "objects": np.int64,
        "detections": np.int64,
    },
    "object": {
        "boxes": np.float32,
        "labels": np.int32,
        "crowd": np.bool_,
        "difficult": np.bool_,
        "occluded": np.bool_,
        "area": np.float32,
        "anchor_iou": np.float32,
        "proposal_iou": np.float32,
    },
    "detection": {"boxes": np.float32, "scores": np.float32, "labels": np.int32},
}

_STORED = ("boxes", "labels", "crowd", "difficult", "occluded", "area")  # of records
_RANGES: dict[str, tuple[float, float]] = {
    "width": (1, 2**31),
    "height": (1, 2**31),
    "objects": (0, 2**40),
    "detections": (0, 2**40),
}
_RANGES |= {"boxes": (-1e9, 1e9), "scores": (0, 1), "labels": (0, 2**31), "scale": (0, 1e9), "area": (0, 1e18)}
_UNKNOWN = ("scale", "area", "anchor_iou", "proposal_iou")  # may be nan
_Share = Annotated[float, Field(ge=0, le=1)]
_MEASURES = TypeAdapter(dict[str, _Share | None], config=ConfigDict(strict=True))


class _OfClass(BaseModel, strict=True):
    AP: _Share | None
    AP50: _Share | None
    boxes: int


class _Metrics(BaseModel, strict=True):
    """What is needed of ``metrics.json``, beside its measures."""

    model: str
    split: Literal["train", "val", "test"]
    data: Annotated[str, Field(pattern=r"^[^\x00]*$")]
    per_class: dict[str, _OfClass]
    operating_point: OperatingPoint
    max_detections: int = STANDARD


@dataclass(frozen=True, eq=False)
class SavedEvaluation:
    """What was evaluated, image by image.

    Args:
        metrics: the content of ``metrics.json``.
        classes: class names of the model; labels index them.
        names: the file name of each image; ``groups``: its group, "" where there is none.
        images: ``record`` (its place in the split), ``width``, ``height``, ``scale`` (pixels of the network for one of
            the image, or of its tiles; nan where unknown), and how many ``objects`` and ``detections`` it has, ``[I]``
            each.
        objects: ``boxes`` ``[G, 4]`` float32 xyxy in pixels of the image, ``labels``, ``crowd``, ``difficult``,
            ``occluded``, ``area`` (square pixels; nan: the box's own), ``anchor_iou`` and ``proposal_iou`` (the best
            there is; nan: not known), ``[G]`` each, in the order of the images.
        detections: ``boxes`` ``[D, 4]``, ``scores``, ``labels``, likewise; of an image the best score first.
    """

    metrics: dict[str, Any]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    images: dict[str, np.ndarray]
    objects: dict[str, np.ndarray]
    detections: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ignore_difficult(self) -> bool:
        """Whether difficult objects count neither as found nor as missed."""
        return bool(self.metrics.get("ignore_difficult"))

    @cached_property
    def object_images(self) -> np.ndarray:
        """``[G]`` the image of each object."""
        return np.repeat(np.arange(len(self)), self.images["objects"])

    @cached_property
    def detection_images(self) -> np.ndarray:
        """``[D]`` the image of each detection."""
        return np.repeat(np.arange(len(self)), self.images["detections"])

    @cached_property
    def truths(self) -> list[GroundTruth]:
        """The objects of each image."""
        columns = ("boxes", "labels", "crowd", "difficult", "area", "occluded")
        parts = [np.split(self.objects[name], np.cumsum(self.images["objects"])[:-1]) for name in columns]
        return [GroundTruth(*row) for row in zip(*parts, strict=True)][: len(self)]

    @cached_property
    def found(self) -> list[Detections]:
        """The detections of each image."""
        parts = [
            np.split(self.detections[name], np.cumsum(self.images["detections"])[:-1])
            for name in ("boxes", "scores", "labels")
        ]
        sizes = zip(self.images["width"].tolist(), self.images["height"].tolist(), self.names, strict=True)
        rows = zip(*parts, sizes, strict=False)
        return [Detections(boxes, scores, labels, self.classes, *size) for boxes, scores, labels, size in rows]

    @property
    def lost(self) -> dict[str, Any]:
        """Where the points are lost at the operating point: ``lost`` of ``metrics.json``."""
        reach = self.objects["anchor_iou"], self.objects["proposal_iou"]
        score = self.metrics["operating_point"]["score"]
        return lost(self.truths, self.found, self.classes, score, *reach, self.ignore_difficult)


def to_save(metrics: dict[str, Any], detector: Detector, results: Sequence[ImageResult]) -> SavedEvaluation:
    """What is kept of ``results``, with what is worked out of them alone added to ``metrics``."""
    found = [one.detections for one in results]
    truths = [
        one.truth if one.truth.occluded is not None else replace(one.truth, occluded=np.zeros(len(one.truth.labels)))
        for one in results
    ]
    sizes = [(one.width, one.height) for one in found]
    # As ``input.target.input_scale``, which needs PyTorch: of a tile where the image is larger than one.
    tile = detector.config.tile
    shown = [(min(height, tile or height), min(width, tile or width)) for width, height in sizes]
    scale = [min(np.divide(detector.config.fit_size(*one), one)) for one in shown]

    def column(table: str, rows: Sequence[Any], name: str) -> np.ndarray:
        empty = np.zeros((0, 4) if name == "boxes" else (0,))
        return np.concatenate([empty, *(getattr(row, name) for row in rows)]).astype(_ROWS[table][name])

    reached = [np.full(len(one.truth.labels), np.nan) if (own := one.proposal_iou) is None else own for one in results]
    stored = {name: column("object", truths, name) for name in _STORED}
    stored["anchor_iou"] = anchor_iou(detector, results).astype(np.float32)
    stored["proposal_iou"] = np.concatenate([np.zeros(0), *reached]).astype(np.float32)
    kept = SavedEvaluation(
        metrics,
        detector.classes,
        tuple(one.name for one in results),
        tuple(one.group for one in results),
        {
            "record": np.array([one.record for one in results], np.int64),
            "width": np.array([width for width, _ in sizes], np.int32),
            "height": np.array([height for _, height in sizes], np.int32),
            "scale": np.array(scale, np.float32),
            "objects": np.array([len(one.labels) for one in truths], np.int64),
            "detections": np.array([len(one) for one in found], np.int64),
        },
        stored,
        {name: column("detection", found, name) for name in _ROWS["detection"]},
    )
    return replace(kept, metrics=metrics | {"lost": kept.lost})


def write_evaluation(folder: Path, evaluation: SavedEvaluation) -> tuple[Path, Path]:
    """Writes ``detections.safetensors`` and ``metrics.json`` and returns their paths. Raises ResightError."""
    kept, path = folder / DETECTIONS, folder / METRICS
    save_evaluation(kept, evaluation)
    write_text(path, json.dumps(evaluation.metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return kept, path


def save_evaluation(path: str | os.PathLike[str], evaluation: SavedEvaluation) -> None:
    """Writes the file whole or not at all. Raises ResightError."""
    head = {
        "version": _VERSION,
        "metrics": evaluation.metrics,
        "classes": evaluation.classes,
        "names": evaluation.names,
        "groups": evaluation.groups,
    }
    tables = {"image": evaluation.images, "object": evaluation.objects, "detection": evaluation.detections}
    columns: dict[str, np.ndarray] = {
        f"{table}.{name}": np.ascontiguousarray(tables[table][name].astype(kind, copy=False))
        for table, kinds in _ROWS.items()
        for name, kind in kinds.items()
    }
    with atomic_file(path) as partial:
        save_file(columns, partial, {"head": json.dumps(head)})  # of several entries the order would change


def load_evaluation(path: str | os.PathLike[str]) -> SavedEvaluation:
    """Raises ResightError: the file is not there, is damaged, or is of another version, or of another evaluation than
    the ``metrics.json`` beside it."""
    fix = "Write it with: resight evaluate MODEL"
    if not os.path.exists(path):
        raise ResightError("is not there: the evaluation was made by an earlier version", where=path, fix=fix)
    try:
        check_regular(path)
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            head = parse_json(about["head"], path)
            if (about.get("version") or head["version"]) != _VERSION:
                raise ResightError("is of another version", where=path, fix=fix)
            tables = {
                table: {name: file.get_tensor(f"{table}.{name}") for name in kinds} for table, kinds in _ROWS.items()
            }
        names, groups, classes = (tuple(map(str, head[name])) for name in ("names", "groups", "classes"))
        found = SavedEvaluation(
            head["metrics"], classes, names, groups, tables["image"], tables["object"], tables["detection"]
        )
        _check(found)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise ResightError(f"is damaged: {error}", where=path, fix=fix) from error
    metrics = Path(path).with_name(METRICS)
    if metrics.is_file() and read_json(metrics) != found.metrics:
        raise ResightError(f"is of another evaluation than the {METRICS} beside it", where=path, fix=fix)
    return found


def _check(found: SavedEvaluation) -> None:
    """Raises ValueError or LookupError where this is not what is kept of one evaluation."""
    if len(found.groups) != len(found):
        raise ValueError("its header is of something else")
    try:
        told = _Metrics.model_validate_json(json.dumps(found.metrics))
        _MEASURES.validate_python({one.key: found.metrics[one.key] for one in measures_of(told.max_detections)})
    except ValidationError as error:
        raise ValueError(f"its metrics: {explain(error.errors()[0])}") from None
    if tuple(told.per_class) != found.classes:
        raise ValueError("its classes are not those of its metrics")
    tables = {"image": found.images, "object": found.objects, "detection": found.detections}
    for table, columns in tables.items():
        count = len(found) if table == "image" else int(found.images[f"{table}s"].sum())
        for name, column in columns.items():
            shape = (count, 4) if name == "boxes" else (count,)
            if column.dtype != _ROWS[table][name] or column.shape != shape:
                raise ValueError(f"the column {table}.{name} is of another type or length")
            low, high = _RANGES.get(name, (-np.inf, np.inf))
            inside = (column >= low) & (column <= high)
            if not (inside | np.isnan(column) if name in _UNKNOWN else inside).all():
                raise ValueError(f"the column {table}.{name} holds what cannot be")
    for columns in (found.objects, found.detections):
        if (columns["labels"] >= len(found.classes)).any():
            raise ValueError("the column labels names classes that are not there")
