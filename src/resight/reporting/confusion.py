"""Which classes are taken for which, with background: each object and each detection counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.coco import GroundTruth
from ..types import Detections, pairwise_iou
from .outcomes import FOREGROUND, Kind, Outcomes, by_overlap


@dataclass(frozen=True, eq=False)
class Confusion:
    """At one score threshold and IoU .5.

    First every detection has its own class's object, as COCO matches; then the detections that are left have the
    objects that are left, by falling IoU; then what is left is background. So the diagonal is what precision and
    recall count, a row adds up to the objects of its class, and a column to what was reported as its class. Crowds,
    ignored objects and the detections on them are not in it.

    Args:
        matrix: ``[C + 1, C + 1]`` counts; the row is the object's class and the column the detection's, the last of
            each background.
        detection_object: ``[D]`` the object whose row a detection is counted in, -1 of background, -2 not counted.
        object_detection: ``[G]`` the detection whose column an object is counted in, likewise.
    """

    matrix: np.ndarray
    detection_object: np.ndarray
    object_detection: np.ndarray


def confusion(
    truths: Sequence[GroundTruth], found: Sequence[Detections], result: Outcomes, num_classes: int, score: float
) -> Confusion:
    """Of the detections of ``score`` or more, whose outcomes are ``result``."""
    scores = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in found)])
    reported = (scores >= score) & (result.kind != Kind.IGNORED)
    right = reported & (result.kind == Kind.RIGHT)
    of_detection = np.where(reported, np.where(right, result.object, -1), -2)
    of_object = np.where(result.counts, -1, -2)
    of_object[result.object[right]] = np.flatnonzero(right)
    first_object, first = 0, 0
    for truth, one in zip(truths, found, strict=True):
        objects = first_object + np.flatnonzero(of_object[first_object : first_object + len(truth.labels)] == -1)
        detections = first + np.flatnonzero(of_detection[first : first + len(one)] == -1)
        if len(objects) and len(detections):
            overlap = pairwise_iou(one.boxes[detections - first], truth.boxes[objects - first_object])
            for row, column in by_overlap(overlap, overlap >= FOREGROUND):
                of_detection[detections[row]], of_object[objects[column]] = objects[column], detections[row]
        first_object, first = first_object + len(truth.labels), first + len(one)
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in found)]).astype(np.int64)
    object_labels = np.concatenate([np.zeros(0, np.int64), *(truth.labels for truth in truths)]).astype(np.int64)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    with_object, alone, missed = of_detection >= 0, of_detection == -1, of_object == -1
    np.add.at(matrix, (object_labels[of_detection[with_object]], labels[with_object]), 1)
    np.add.at(matrix, (num_classes, labels[alone]), 1)
    np.add.at(matrix, (object_labels[missed], num_classes), 1)
    return Confusion(matrix, of_detection, of_object)
