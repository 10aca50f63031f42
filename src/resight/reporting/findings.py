"""All numbers of a report: the content of ``report.json``, from what an evaluation has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from .._version import __version__
from ..evaluation import coco
from ..evaluation.operating_point import OperatingPoint, sentence
from ..evaluation.saved import SavedEvaluation
from .advice import advice
from .average_precision import AT_75
from .bootstrap import NUMBERS, RESAMPLES, groups_of, interval
from .confusion import Confusion, confusion
from .curves import Counts, calibration, count_by_threshold, thresholds_with
from .data_suspects import Suspect as Disagreement
from .errors import Error, errors
from .gallery import shown
from .matched import Matched
from .outcomes import FOREGROUND, Outcomes
from .slices import slices
from .suspects import Suspect, suspects
from .tide import tide

VERSION = 1


class Run(NamedTuple):
    """What is known of the training: its folder, rows of ``metrics.jsonl``, and the configuration as TOML."""

    name: str = ""
    metrics: Sequence[Mapping[str, Any]] = ()
    configuration: str = ""
    environment: Mapping[str, Any] = {}
    dataset: Mapping[str, Any] = {}


def findings(matched: Matched, run: Run | None = None, disagreements: Sequence[Disagreement] = ()) -> dict[str, Any]:
    """What ``report.json`` holds of an evaluation, of a ``run`` where it has one; ``disagreements`` are those of labels
    in images that look the same."""
    run, evaluation, result = run or Run(), matched.evaluation, matched.result
    metrics, detections, object_labels = evaluation.metrics, evaluation.detections, evaluation.objects["labels"]
    scores, labels = detections["scores"], detections["labels"]
    point = OperatingPoint(**metrics["operating_point"])
    matrix = confusion(evaluation.truths, evaluation.found, result, len(evaluation.classes), point.score)
    wrong = errors(evaluation, result, matrix, point.score)
    thresholds = thresholds_with(point.score)
    counts = count_by_threshold(result, scores, labels, object_labels, len(evaluation.classes), thresholds)
    content: dict[str, Any] = {
        "version": VERSION,
        "resight": __version__,
        "head": _head(evaluation) | {"run": run.name},
        "sentence": sentence(point, metrics.get("operating_point_of") == "model"),
        **_numbers(matched),
        "operating_point": asdict(point) | {"of": metrics.get("operating_point_of")},
        "thresholds": thresholds.tolist(),
        "classes": _classes(matched, counts),
        "all": _table(counts[-1]),
        "confusion": _cells(matrix, point.score),
        "tide": tide(result, scores, labels, object_labels, matched.standard),
        "calibration": calibration(result, scores),
        "slices": slices(matched, point.score),
        "reach": _reach(evaluation, result, point.score),
        "lost": evaluation.lost,
        "num_errors": len(wrong),
        "errors": [_error(one, evaluation) for one in shown(wrong)],
        "suspects": [_suspect(one, evaluation) for one in suspects(evaluation, result, point.score, disagreements)],
        "training": _training(run.metrics),
        "configuration": run.configuration,
        "environment": dict(run.environment),
        "dataset": dict(run.dataset),
    }
    content["advice"] = advice(content)
    return content


def _head(evaluation: SavedEvaluation) -> dict[str, Any]:
    kept = ("model", "weights", "split", "data", "selected_on", "num_images", "num_boxes", "num_ignored", "limit")
    return {name: evaluation.metrics.get(name) for name in kept} | {"classes": len(evaluation.classes)}


def _numbers(matched: Matched) -> dict[str, Any]:
    evaluation = matched.evaluation
    samples = dict(zip(NUMBERS, matched.samples.T, strict=True))
    numbers = {}
    for measure in coco.measures_of(evaluation.metrics.get("max_detections", coco.STANDARD)):
        value = evaluation.metrics[measure.key]
        low, high = interval(samples[measure.key], value) if measure.key in samples else (None, None)
        numbers[measure.key] = {"value": value, "low": low, "high": high}
    groups = groups_of(evaluation.groups)
    unit = "groups" if any(evaluation.groups) else "images"
    count = int(groups.max(initial=-1)) + 1
    return {"numbers": numbers, "resampled": {"unit": unit, "count": count, "resamples": RESAMPLES}}


def _classes(matched: Matched, counts: Sequence[Counts]) -> list[dict[str, Any]]:
    evaluation, labels, rows = matched.evaluation, matched.evaluation.objects["labels"], []
    for number, name in enumerate(evaluation.classes):
        curves = matched.rows[0].of_class(number)
        ap75 = float(curves[AT_75].mean())
        own = evaluation.metrics["per_class"][name]
        rows.append(
            {
                "name": name,
                "AP": own["AP"],
                "AP50": own["AP50"],
                "AP75": None if np.isnan(ap75) else ap75,
                "boxes": own["boxes"],
                "images": len(np.unique(evaluation.object_images[matched.result.counts & (labels == number)])),
                "best_score": counts[number].best_f1(),
                **_table(counts[number]),
                "precision": [None if np.isnan(value) else round(float(value), 4) for value in curves[0]],
            }
        )
    return rows


def _table(counts: Counts) -> dict[str, Any]:
    return {"objects": counts.objects, "reported": counts.reported.tolist(), "right": counts.right.tolist()}


def _cells(matrix: Confusion, score: float) -> dict[str, Any]:
    background = len(matrix.matrix) - 1
    cells = [
        [-1 if row == background else row, -1 if column == background else column, int(matrix.matrix[row, column])]
        for row, column in np.argwhere(matrix.matrix).tolist()
    ]
    return {"score": score, "cells": cells}


def _reach(evaluation: SavedEvaluation, result: Outcomes, score: float) -> dict[str, Any] | None:
    """Of the objects whose best IoU is known: the share with .5 or more, and of those missed how many have less."""
    found = result.found_scores(evaluation.detections["scores"]) >= score
    told = {}
    for name in ("anchor", "proposal"):
        iou = evaluation.objects[f"{name}_iou"]
        known = result.counts & ~np.isnan(iou)
        missed = known & ~found
        if known.any():
            uncovered = int((iou[missed] < FOREGROUND).sum())
            covered = float((iou[known] >= FOREGROUND).mean())
            told[f"{name}s"] = {"covered": covered, "missed": int(missed.sum()), "missed_uncovered": uncovered}
    return told or None


def _error(one: Error, evaluation: SavedEvaluation) -> dict[str, Any]:
    objects, detections = evaluation.objects, evaluation.detections
    box = None if one.object is None else objects["boxes"][one.object].tolist()
    found = None if one.detection is None else detections["boxes"][one.detection].tolist()
    shown = box if box is not None else found
    assert shown is not None
    area = max(shown[2] - shown[0], 0) * max(shown[3] - shown[1], 0)
    return {
        "kind": one.kind,
        **_place(evaluation, one.image),
        "object": None if one.object is None else int(objects["labels"][one.object]),
        "found": None if one.detection is None else int(detections["labels"][one.detection]),
        "score": None if one.detection is None else float(detections["scores"][one.detection]),
        "iou": one.iou,
        "box": box,
        "found_box": found,
        "size": area**0.5,
        "cost": one.cost,
        "cells": [list(cell) for cell in one.cells],
    }


def _suspect(one: Suspect, evaluation: SavedEvaluation) -> dict[str, Any]:
    row = asdict(one) | _place(evaluation, one.image)
    other = row.pop("other_image")
    return row | {"box": list(one.box), "other_file": None if other is None else evaluation.names[other]}


def _place(evaluation: SavedEvaluation, image: int) -> dict[str, Any]:
    return {"image": image, "file": evaluation.names[image], "group": evaluation.groups[image]}


def _training(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The series of ``metrics.jsonl`` that a report draws."""
    series: dict[str, list[list[Any]]] = {}
    names = {"loss": "loss", "learning_rate": "learning rate", "images_per_second": "images a second"}
    names["seconds"] = "seconds since the start"
    for row in rows:
        if not isinstance(row.get("step"), int):
            continue
        wanted = names if row.get("split") == "train" else {"mAP": f"mAP on {row.get('split')}"}
        for key, name in wanted.items():
            if isinstance(row.get(key), int | float):
                series.setdefault(name, []).append([row["step"], row[key]])
    return {"series": series} if series else None
