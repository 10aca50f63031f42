import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, saved, scenes
from resight.evaluation.coco import coco_metrics
from resight.reporting.confusion import confusion
from resight.reporting.errors import errors
from resight.reporting.outcomes import outcomes

A, B = (10, 10, 30, 30), (60, 60, 80, 80)
FAR = (18, 10, 38, 30)


def of(evaluation, score=0.5):
    result = outcomes(evaluation.truths, evaluation.found)
    matrix = confusion(evaluation.truths, evaluation.found, result, len(CLASSES), score)
    return errors(evaluation, result, matrix, score), matrix


@pytest.mark.parametrize(
    ("truth", "detections", "expected"),
    [
        (objects((0, *A)), found((0, 0.9, *A)), []),
        (objects((0, *A)), found((0, 0.4, *A)), [("missed", 0, None, [(0, -1)])]),
        (objects((0, *A)), found((0, 0.9, *A), (1, 0.8, *B)), [("false alarm", None, 1, [(-1, 1)])]),
        (objects((0, *A)), found((1, 0.9, *A)), [("wrong class", 0, 0, [(0, 1)])]),  # and no "missed" beside it
        (objects((0, *A)), found((0, 0.9, *FAR)), [("misplaced", 0, 0, [(-1, 0), (0, -1)])]),
        (objects((0, *A)), found((0, 0.9, *A), (0, 0.8, *A)), [("double", 0, 1, [(-1, 0)])]),
        (objects((0, *A)), found((0, 0.9, *A), (1, 0.8, *A)), [("wrong class", 0, 1, [(-1, 1)])]),
        (objects((0, *A)), found((1, 0.9, *FAR)), [("both", 0, 0, [(-1, 1), (0, -1)])]),
        (objects((0, *A), crowd=[0]), found((0, 0.9, *A)), []),
    ],
)
def test_by_hand(truth, detections, expected):
    told, _ = of(saved([truth], [detections]))
    assert [(one.kind, one.object, one.detection, list(one.cells)) for one in told] == expected


@pytest.mark.parametrize("seed", range(4))
def test_every_wrong_cell_of_the_matrix_has_its_errors(seed):
    evaluation = saved(*scenes(seed, images=60))
    told, matrix = of(evaluation, score=0.4)
    counts = matrix.matrix.copy()
    np.fill_diagonal(counts, 0)
    cells = np.zeros_like(counts)
    for one in told:
        for cell in one.cells:
            cells[cell] += 1
    # An object that is missed beside a misplaced detection of it is told with that, in both cells.
    assert (cells == counts).all()
    missed = {one.object for one in told if one.kind == "missed"}
    answered = {one.object for one in told if one.kind in ("misplaced", "wrong class", "both")}
    assert missed.isdisjoint(answered)
    costs = [one.cost for one in told]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_false_alarm_costs_what_deleting_it_gives(seed):
    truths, detections = scenes(seed, images=60)
    evaluation = saved(truths, detections)
    told, _ = of(evaluation, score=0.0)
    alarms = [one for one in told if one.kind == "false alarm"]
    first = np.cumsum([0, *(len(one) for one in detections)])
    before = coco_metrics(truths, detections, CLASSES).summary["AP50"]
    gains = []
    for one in alarms[:12]:
        at = one.detection - first[one.image]
        less = [np.delete(getattr(detections[one.image], name), at, 0) for name in ("boxes", "scores", "labels")]
        others = list(detections)
        others[one.image] = dataclasses.replace(detections[one.image], boxes=less[0], scores=less[1], labels=less[2])
        gains.append(coco_metrics(truths, others, CLASSES).summary["AP50"] - before)
    # COCO takes precision at 101 recalls and lets it only fall, the cost is the plain sum.
    assert sum(one.cost for one in alarms[:12]) == pytest.approx(sum(gains), rel=0.5, abs=2e-3)
    assert all(gain >= -1e-9 for gain in gains)


def test_an_object_costs_its_share_of_recall():
    truths = [objects((0, *A)), objects((0, *B)), objects((1, *A))]
    told, _ = of(saved(truths, [found((0, 0.9, *A)), found(), found()]))
    assert [(one.image, one.cost) for one in told] == [(2, 0.5), (1, 0.25)]
