"""Two or more evaluations of the same images: which numbers differ by more than chance, and which objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ResightError
from ..evaluation import coco
from ..evaluation.saved import SavedEvaluation
from ..types import pairwise_iou
from .bootstrap import NUMBERS, RESAMPLES, interval
from .matched import Matched
from .outcomes import BACKGROUND

MOST_FLIPPED = 200  # objects of each other evaluation that are told


def compare(evaluations: Sequence[Matched], places: Sequence[str]) -> dict[str, Any]:
    """What the others have that the first has not.

    Each of ``"others"`` has ``"numbers"`` (difference to the first and its paired 95 % interval over ``RESAMPLES``
    resampled groups), ``"classes"`` (AP of each class in both), and ``"flipped"``: the objects that one finds at its
    operating point and the other does not, with what each says of them.

    Args:
        places: where each is from, for messages.

    Raises:
        ResightError: they are not of the same images, objects and classes.
    """
    first = evaluations[0].evaluation
    for other, place in zip(evaluations[1:], places[1:], strict=True):
        if reason := _difference(first, other.evaluation):
            fix = "Evaluate both on the same records and split."
            raise ResightError(f"is not an evaluation of what {places[0]} is of: {reason}", where=place, fix=fix)
    return {
        "first": first.metrics["model"],
        "resamples": RESAMPLES,
        "others": [
            {
                "model": other.evaluation.metrics["model"],
                "numbers": _numbers(first, other.evaluation, other.samples - evaluations[0].samples),
                "classes": _classes(first, other.evaluation),
                **_flipped(evaluations[0], other),
            }
            for other in evaluations[1:]
        ],
    }


def _difference(first: SavedEvaluation, other: SavedEvaluation) -> str:
    """Why two evaluations cannot be compared; "" where they can."""
    if first.classes != other.classes:
        return "its classes are others"
    if first.ignore_difficult != other.ignore_difficult:
        return "one ignores difficult objects and one does not"
    if len(first) != len(other):
        return f"it has {len(other):,} images, and not {len(first):,}"
    if first.groups != other.groups:
        return "its images are in other groups"
    if first.names != other.names:
        number = next(n for n, pair in enumerate(zip(first.names, other.names, strict=True)) if pair[0] != pair[1])
        return f"image {number + 1:,} is {other.names[number]}, and not {first.names[number]}"
    same = all(
        np.array_equal(first.objects[name], other.objects[name], equal_nan=name == "area")
        for name in ("boxes", "labels", "crowd", "difficult", "area")
    )
    return "" if same and np.array_equal(first.images["objects"], other.images["objects"]) else "its objects are others"


def _numbers(first: SavedEvaluation, other: SavedEvaluation, samples: np.ndarray) -> dict[str, Any]:
    of_number = dict(zip(NUMBERS, samples.T, strict=True))
    told = {}
    for measure in coco.MEASURES:
        pair = first.metrics[measure.key], other.metrics[measure.key]
        difference = None if None in pair else pair[1] - pair[0]
        low, high = None, None
        if measure.key in of_number:
            low, high = interval(of_number[measure.key], difference, (-1, 1))
        told[measure.key] = {"values": list(pair), "difference": difference, "low": low, "high": high}
    return told


def _classes(first: SavedEvaluation, other: SavedEvaluation) -> list[dict[str, Any]]:
    return [
        {"name": name, "AP": [one.metrics["per_class"][name]["AP"] for one in (first, other)]} for name in first.classes
    ]


def _says(matched: Matched, target: int, image: int) -> dict[str, Any] | None:
    """What an evaluation has where an object is: the detection that has found it, whatever its score, or else of those
    reported there the one that overlaps it most; None where there is none."""
    evaluation = matched.evaluation
    boxes, scores, labels = (evaluation.detections[name] for name in ("boxes", "scores", "labels"))
    best = int(matched.result.found_by[target])
    if best < 0:
        start, end = np.searchsorted(evaluation.detection_images, [image, image + 1])
        overlap = pairwise_iou(boxes[start:end], evaluation.objects["boxes"][target][None])[:, 0]
        overlap = np.where(scores[start:end] >= matched.point, overlap, 0)
        if overlap.max(initial=0) <= BACKGROUND:
            return None
        best = int(start + overlap.argmax())
    return {"label": int(labels[best]), "score": float(scores[best]), "box": boxes[best].tolist()}


def _flipped(*pair: Matched) -> dict[str, Any]:
    scores = [one.result.found_scores(one.evaluation.detections["scores"]) for one in pair]
    found = [score >= one.point for score, one in zip(scores, pair, strict=True)]
    counts = pair[0].result.counts
    better, worse = counts & ~found[0] & found[1], counts & found[0] & ~found[1]
    first = pair[0].evaluation
    image_of = first.object_images
    flipped = np.flatnonzero(better | worse)
    # The surest of what one finds and the other does not come first.
    order = np.argsort(-np.maximum(scores[0], scores[1])[flipped], kind="stable")
    rows = [
        {
            "image": int(image_of[at]),
            "file": first.names[image_of[at]],
            "group": first.groups[image_of[at]],
            "object": int(first.objects["labels"][at]),
            "box": first.objects["boxes"][at].tolist(),
            "found_by": "other" if better[at] else "first",
            "says": [_says(one, int(at), int(image_of[at])) for one in pair],
        }
        for at in flipped[order][:MOST_FLIPPED].tolist()
    ]
    return {"better": int(better.sum()), "worse": int(worse.sum()), "flipped": rows}
