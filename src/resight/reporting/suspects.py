"""Labels that are likely to be wrong, from what a good detector says against them. For val and test: what a model was
trained on it may have memorized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.saved import SavedEvaluation
from ..types import pairwise_iou
from .data_suspects import DIFFERENT
from .data_suspects import Suspect as Disagreement
from .outcomes import BACKGROUND, FOREGROUND, Kind, Outcomes

CONFIDENT = 0.8  # of what is said against a label; never below the operating point
BADLY_PLACED = 0.75  # IoU up to which a box and a confident detection of it do not lie at one place


@dataclass(frozen=True)
class Suspect:
    """A label to look at.

    Args:
        kind: "missing label", "wrong class", "badly placed", or "labelled differently".
        image: its place in the evaluation.
        box: xyxy in pixels: of the label, or where one is missing.
        label: class of the label, None where it is missing; ``other``: what the detector says, or the label that
            ``other_image`` has there, which looks the same.
        score: of the detection, None where another label speaks; ``iou``: with the label.
    """

    kind: str
    image: int
    box: tuple[float, ...]
    label: int | None
    other: int
    score: float | None
    iou: float
    other_image: int | None = None


def suspects(
    evaluation: SavedEvaluation, result: Outcomes, score: float, disagreements: Sequence[Disagreement] = ()
) -> list[Suspect]:
    """The most doubtful first.

    Args:
        score: the operating point.
        disagreements: what :func:`labelled_differently` says of the evaluation; of what it says only that two classes
            were given is told, once for each pair of labels.
    """
    least = max(score, CONFIDENT)
    found = [*_of_detections(evaluation, result, least), *_badly_placed(evaluation, result, least)]
    labels, image_of = evaluation.objects["labels"], evaluation.object_images
    told = (
        Suspect(
            DIFFERENT,
            int(image_of[one.box]),
            tuple(evaluation.objects["boxes"][one.box].tolist()),
            int(labels[one.box]),
            int(labels[one.other]),
            None,
            one.measure,
            one.other_image,
        )
        for one in disagreements
        if one.kind == DIFFERENT
    )
    return [*told, *sorted(found, key=lambda one: (-(one.score or 0), one.image, one.box))]


def _of_detections(evaluation: SavedEvaluation, result: Outcomes, least: float) -> Iterator[Suspect]:
    """Objects without a label, and labels of another class. Where an object's own class is found as well, that one
    is right."""
    first = np.cumsum(evaluation.images["objects"]) - evaluation.images["objects"]
    scores, labels = evaluation.detections["scores"], evaluation.detections["labels"]
    image_of = evaluation.detection_images
    for kind in (Kind.FALSE_ALARM, Kind.WRONG_CLASS):
        for row in np.flatnonzero((result.kind == kind) & (scores >= least)).tolist():
            image, box = int(image_of[row]), evaluation.detections["boxes"][row]
            target = int(result.object[row])
            if kind == Kind.WRONG_CLASS:
                by = result.found_by[target]
                if by >= 0 and scores[by] >= min(least, scores[row]):
                    continue
                label, shown = int(evaluation.objects["labels"][target]), evaluation.objects["boxes"][target]
                yield _suspect("wrong class", image, shown, label, labels[row], scores[row], result.iou[row])
            else:
                # A crowd, or a difficult object, explains it.
                own = slice(first[image], first[image] + evaluation.images["objects"][image])
                overlap = pairwise_iou(box[None], evaluation.objects["boxes"][own], evaluation.objects["crowd"][own])
                if overlap.max(initial=0) <= BACKGROUND:
                    yield _suspect("missing label", image, box, None, labels[row], scores[row], 0.0)


def _badly_placed(evaluation: SavedEvaluation, result: Outcomes, least: float) -> Iterator[Suspect]:
    """Boxes that a confident detection has found, though not where they are: at an IoU of .5 to .75, or less."""
    scores, labels = evaluation.detections["scores"], evaluation.detections["labels"]
    near = (result.kind == Kind.RIGHT) & (result.iou >= FOREGROUND) & (result.iou < BADLY_PLACED)
    far = (result.kind == Kind.MISPLACED) & (result.object >= 0)
    far &= result.found_by[np.maximum(result.object, 0)] < 0 if len(result.found_by) else False
    told: set[int] = set()
    for row in np.flatnonzero((near | far) & (scores >= least)).tolist():
        target = int(result.object[row])
        if target not in told:
            told.add(target)
            box = evaluation.objects["boxes"][target]
            label = int(evaluation.objects["labels"][target])
            image = int(evaluation.object_images[target])
            yield _suspect("badly placed", image, box, label, labels[row], scores[row], result.iou[row])


def _suspect(
    kind: str, image: int, box: np.ndarray, label: int | None, other: int, score: float, iou: float
) -> Suspect:
    return Suspect(kind, image, tuple(box.tolist()), label, int(other), float(score), float(iou))
