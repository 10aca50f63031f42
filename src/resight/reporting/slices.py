"""Where a detector is good and where not: recall and AP by what the objects and the images are like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..evaluation.coco import GroundTruth, areas
from ..evaluation.saved import SavedEvaluation
from ..types import Detections
from .average_precision import Part, rows_of
from .matched import Matched

SIZES = ((0, 16, "under 16 px"), (16, 32, "16 to 32 px"), (32, 96, "32 to 96 px"), (96, np.inf, "96 px and more"))
ASPECTS = ((0, 0.5, "taller than 2:1"), (0.5, 2, "between"), (2, np.inf, "wider than 2:1"))
CROWDING = ((1, 2, "1 object"), (2, 6, "2 to 5 objects"), (6, 21, "6 to 20 objects"), (21, np.inf, "more than 20"))
MOST_GROUPS = 30  # that are told, those with the most objects

Bins = Sequence[tuple[float, float, str]]


def slices(matched: Matched, score: float) -> list[dict[str, Any]]:
    """A table each: ``{"by", "rows": [{"name", "objects", "found", "AP", "AP50"}]}``.

    ``found`` is the share of the objects found at ``score``; the APs are COCO's, in which what finds an object of
    another row is ignored. Sizes are square roots of areas in pixels at the network's size. Rows without an object are
    left out, and tables of a single row but for that of sizes.
    """
    evaluation, result = matched.evaluation, matched.result
    truths, found, ignore = evaluation.truths, evaluation.found, evaluation.ignore_difficult
    found_scores = result.found_scores(evaluation.detections["scores"])

    def row(name: str, inside: np.ndarray, ap: np.ndarray) -> Iterator[dict[str, Any]]:
        of_objects = found_scores[inside & result.counts]
        if len(of_objects):
            share = float((of_objects >= score).mean())
            numbers = {"found": share, "AP": float(ap.mean()), "AP50": float(ap[0])}
            yield {"name": name, "objects": len(of_objects), **numbers}

    tables: dict[str, list[dict[str, Any]]] = {}
    for by, parts in _parts(evaluation).items():
        tables[by] = []
        for name, rows in rows_of(truths, found, parts, ignore).items():
            inside = np.concatenate([np.zeros(0, bool), *parts[name].objects])
            tables[by] += row(name, inside, rows.average_precision(np.ones(len(truths))))
    for by, images in _images(evaluation).items():
        tables[by] = []
        for name, which in images.items():
            ap = matched.rows[0].average_precision(which.astype(np.float64))
            tables[by] += row(name, which[evaluation.object_images], ap)
    return [{"by": by, "rows": rows} for by, rows in tables.items() if len(rows) > (by != "size")]


def _parts(evaluation: SavedEvaluation) -> dict[str, dict[str, Part]]:
    """The rows that divide the objects."""
    truths, found = evaluation.truths, evaluation.found
    scales = np.nan_to_num(evaluation.images["scale"].astype(np.float64), nan=1)
    side = [np.sqrt(areas(t.boxes, t.area)) * scale for t, scale in zip(truths, scales, strict=True)]
    found_side = [np.sqrt(areas(one.boxes)) * scale for one, scale in zip(found, scales, strict=True)]
    return {
        "size": _binned(side, found_side, SIZES),
        "aspect": _binned([_aspect(t) for t in truths], [_aspect(one) for one in found], ASPECTS),
        "occluded": _flagged([np.asarray(t.occluded, bool) for t in truths], found, "occluded"),
        "difficult": _flagged([t.difficult for t in truths], found, "difficult"),
    }


def _images(evaluation: SavedEvaluation) -> dict[str, dict[str, np.ndarray]]:
    """The rows that divide the images."""
    number = np.array([int((~t.ignored(evaluation.ignore_difficult)).sum()) for t in evaluation.truths], np.int64)
    groups = np.array(evaluation.groups)
    largest = sorted({g for g in evaluation.groups if g}, key=lambda g: (-int(number[groups == g].sum()), g))
    return {
        "crowding": {name: (number >= low) & (number < high) for low, high, name in CROWDING},
        "group": {group: groups == group for group in largest[:MOST_GROUPS]},
    }


def _binned(objects: Sequence[np.ndarray], detections: Sequence[np.ndarray], bins: Bins) -> dict[str, Part]:
    return {
        name: Part([(v >= low) & (v < high) for v in objects], [(v >= low) & (v < high) for v in detections])
        for low, high, name in bins
    }


def _flagged(flags: Sequence[np.ndarray], found: Sequence[Detections], name: str) -> dict[str, Part]:
    """What finds nothing is wrong in both: nobody can say which it would have been."""
    every = [np.ones(len(one), bool) for one in found]
    return {f"not {name}": Part([~one for one in flags], every), name: Part(list(flags), every)}


def _aspect(boxes: GroundTruth | Detections) -> np.ndarray:
    """``[N]`` width over height."""
    width, height = (boxes.boxes[:, 2:].astype(np.float64) - boxes.boxes[:, :2]).T
    return np.divide(width, height, out=np.full(len(width), np.inf), where=height > 0)
