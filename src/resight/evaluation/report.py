"""What an evaluation says: the table people know from pycocotools, and the dictionary of ``metrics.json``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..dialect import own_lines
from ..errors import counted, listed, one_line
from ..inference.detector import Detector
from ..records.reader import Records
from .coco import STANDARD, CocoMetrics, measures_of
from .operating_point import OperatingPoint, sentence


def as_dict(
    metrics: CocoMetrics,
    point: OperatingPoint,
    *,
    point_of_model: bool = True,
    losses: Mapping[str, float] | None = None,
    selected_on: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """``metrics.json``: the numbers at the top (None where there is no such object), then what else is known.

    They are COCO's 12 and, where more than its 100 detections are counted, ``mAP_N`` and ``AR_N`` at N of them; N is
    then told as ``max_detections``. ``point_of_model``: the point is at the score stored with the model; else at the
    best score on these images. A loss that is not finite is None.
    """
    return {
        **metrics.summary,
        **({"max_detections": metrics.max_detections} if metrics.max_detections > STANDARD else {}),
        "per_class": metrics.per_class,
        "losses": {name: value if math.isfinite(value) else None for name, value in (losses or {}).items()},
        "operating_point": asdict(point),
        "operating_point_of": "model" if point_of_model else "images",
        "num_images": metrics.num_images,
        "num_boxes": metrics.num_boxes,
        "num_ignored": metrics.num_ignored,
        "selected_on": selected_on,
        **more,
    }


def about(
    detector: Detector,
    records: Records,
    split: str,
    *,
    limit: int | None = None,
    ignore_difficult: bool = False,
    unknown_classes: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What ``metrics.json`` says of what was evaluated on what."""
    return {
        "selected_on": detector.selected_on,
        "model": detector.name,
        "weights": detector.digest(),
        "data": os.fspath(records.path) or listed(records.splits[split].shards, 3),
        "data_digest": records.digest,
        "split": split,
        "limit": limit,
        "ignore_difficult": ignore_difficult,
        "unknown_classes": dict(unknown_classes or {}),
    }


def text(result: Mapping[str, Any]) -> str:
    """The dictionary of ``as_dict`` for people."""
    blocks = [summary_table(result), *beside_float32(result), class_table(result["per_class"])]
    if own := own_lines(result):
        blocks.append(own)
    elif result["losses"]:
        blocks.append("Losses: " + ", ".join(f"{name} {_number(loss)}" for name, loss in result["losses"].items()))
    point = sentence(OperatingPoint(**result["operating_point"]), result["operating_point_of"] == "model")
    blocks.append("\n".join(filter(None, [point, weakest(result)])))
    return "\n\n".join(blocks)


def summary_table(result: Mapping[str, Any]) -> str:
    """The numbers, a line each, in pycocotools' printed form; ``n/a`` where there is no such object."""
    lines = []
    for measure in measures_of(result.get("max_detections", STANDARD)):
        title = "Average Precision" if measure.kind == "AP" else "Average Recall"
        iou = "0.50:0.95" if measure.iou is None else f"{measure.iou:.2f}"
        of = f"IoU={iou:<9} | area={measure.size:>6} | maxDets={measure.max_detections:>3}"
        lines.append(f" {title:<18} ({measure.kind}) @[ {of} ] = {_number(result[measure.key])}")
    return "\n".join(lines)


def beside_float32(result: Mapping[str, Any]) -> list[str]:
    """A line on what another precision changed, where it was measured."""
    if "float32" not in result:
        return []
    known = [name for name in ("mAP", "AP50", "AP75") if result[name] is not None]
    numbers = ", ".join(f"{name} {result['float32'][name]:.4f} ({result['difference'][name]:+.4f})" for name in known)
    return [f"In float32, and how much more it is in {result['precision']}: {numbers or 'n/a'}"]


def class_table(per_class: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """AP, AP50, AP at more detections where it was measured, and the number of boxes of each class."""
    per_class = {one_line(name): row for name, row in per_class.items()}
    width = max([5, *(len(name) for name in per_class)])
    keys = [key for key in next(iter(per_class.values()), {"AP": None, "AP50": None}) if key != "boxes"]
    rows = [f" {'class':<{width}}" + "".join(f" {key:>6}" for key in keys) + f" {'boxes':>7}"]
    for name, row in per_class.items():
        numbers = "".join(f" {_number(row[key]):>{max(6, len(key))}}" for key in keys)
        rows.append(f" {name:<{width}}{numbers} {row['boxes']:>7,}")
    return "\n".join(rows)


def weakest(result: Mapping[str, Any], limit: int = 5) -> str:
    """The classes of least AP, of those below the mean, with their box counts; empty where all are equal."""
    below = [(row["AP"], row["boxes"], name) for name, row in result["per_class"].items() if row["AP"] is not None]
    below = sorted(row for row in below if row[0] < result["mAP"])[:limit]
    if not below:
        return ""
    named = ", ".join(f"{one_line(name)} AP {ap:.3f} ({counted(boxes, 'box', 'boxes')})" for ap, boxes, name in below)
    return f"Weakest {'class' if len(below) == 1 else 'classes'}: {named}."


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
