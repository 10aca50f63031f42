"""The errors of a detector at its operating point, one by one, by what each costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.saved import SavedEvaluation
from .confusion import Confusion
from .outcomes import Kind, Outcomes

NAMES = {
    Kind.MISPLACED: "misplaced",
    Kind.WRONG_CLASS: "wrong class",
    Kind.DOUBLE: "double",
    Kind.FALSE_ALARM: "false alarm",
    Kind.BOTH: "both",
}
MISSED = "missed"


@dataclass(frozen=True)
class Error:
    """A wrong detection, or an object that is missed and that no wrong detection is an answer to.

    Args:
        kind: "missed", "false alarm", "wrong class", "misplaced", "double" or "both" (misplaced, and of a wrong class).
        image: its place in the evaluation.
        object: the object it is about, None of a false alarm; ``detection``: None of a missed object.
        iou: of both.
        cost: AP50 that fixing it alone would give, to first order: for a wrong detection the precision of all that is
            found with less certainty, for an object that is not found its share of recall.
        cells: class of the object and of the detection of each cell of the confusion matrix that it is in, -1 is
            background: that of the detection, and that of the object where it is missed.
    """

    kind: str
    image: int
    object: int | None
    detection: int | None
    iou: float
    cost: float
    cells: tuple[tuple[int, int], ...]


def errors(evaluation: SavedEvaluation, result: Outcomes, matrix: Confusion, score: float) -> list[Error]:
    """All of them at ``score``, the costliest first."""
    scores, labels = evaluation.detections["scores"], evaluation.detections["labels"]
    object_labels = evaluation.objects["labels"]
    image_of, image_of_object = evaluation.detection_images, evaluation.object_images
    of_alarm, of_miss = _costs(evaluation, result, score)
    missed = result.counts & (result.found_scores(scores) < score)
    rows: list[Error] = []

    def missed_cell(target: int) -> tuple[tuple[int, int], ...]:
        return ((int(object_labels[target]), -1),) if matrix.object_detection[target] == -1 else ()

    answered = np.zeros(len(object_labels), bool)
    for at in np.flatnonzero((scores >= score) & np.isin(result.kind, list(NAMES))).tolist():
        target = int(result.object[at])
        about = target if target >= 0 else None
        kind = Kind(result.kind[at])
        cost = float(of_alarm[at])
        also: tuple[tuple[int, int], ...] = ()
        if about is not None and kind != Kind.DOUBLE and missed[about] and not answered[about]:
            cost += float(of_miss[about])
            answered[about] = True
            also = missed_cell(about)
        counted = int(matrix.detection_object[at])
        cells = ((int(object_labels[counted]) if counted >= 0 else -1, int(labels[at])), *also)
        rows.append(Error(NAMES[kind], int(image_of[at]), about, at, float(result.iou[at]), cost, cells))
    for target in np.flatnonzero(missed & ~answered).tolist():
        cost = float(of_miss[target])
        rows.append(Error(MISSED, int(image_of_object[target]), target, None, 0.0, cost, missed_cell(target)))
    return sorted(rows, key=lambda one: (-one.cost, one.image, one.detection or -1, one.object or -1))


def _costs(evaluation: SavedEvaluation, result: Outcomes, score: float) -> tuple[np.ndarray, np.ndarray]:
    """``[D]`` and ``[G]``: AP50 that a detection costs if it is wrong, and an object if it is not found."""
    labels, object_labels = evaluation.detections["labels"], evaluation.objects["labels"]
    of_alarm, of_miss = np.zeros(len(labels)), np.zeros(len(object_labels))
    present = np.unique(object_labels[result.counts])
    for label in present.tolist():
        objects = np.flatnonzero(result.counts & (object_labels == label))
        share = 1 / (len(objects) * len(present))
        rows = np.flatnonzero((labels == label) & (result.kind != Kind.IGNORED))
        rows = rows[np.argsort(-evaluation.detections["scores"][rows], kind="stable")]
        right = result.kind[rows] == Kind.RIGHT
        rank = np.arange(1, len(rows) + 1)
        precision = right.cumsum() / rank
        # With one wrong detection less above it, precision k / n is k / (n - 1).
        gain = np.where(right, precision / np.maximum(rank - 1, 1), 0)
        below = gain[::-1].cumsum()[::-1] - gain
        of_alarm[rows] = share * below
        reported = int((evaluation.detections["scores"][rows] >= score).sum())
        of_miss[objects] = share * (float(precision[reported - 1]) if reported else 1.0)
    return of_alarm, of_miss
