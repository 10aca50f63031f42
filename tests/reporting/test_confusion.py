import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, scenes
from resight.reporting.confusion import confusion
from resight.reporting.curves import count_by_threshold
from resight.reporting.outcomes import outcomes

A, B = (10, 10, 30, 30), (60, 60, 80, 80)


def of(truths, detections, score=0.0, **options):
    result = outcomes(truths, detections, **options)
    return confusion(truths, detections, result, len(CLASSES), score)


@pytest.mark.parametrize(
    ("truth", "detections", "cells"),
    [
        (objects((0, *A)), found((0, 0.9, *A)), {(0, 0): 1}),
        (objects((0, *A)), found((1, 0.9, *A)), {(0, 1): 1}),
        (objects((0, *A)), found((1, 0.9, *B)), {(0, 3): 1, (3, 1): 1}),
        # The better score of another class does not take an object from its own class.
        (objects((0, *A)), found((1, 0.9, *A), (0, 0.6, *A)), {(0, 0): 1, (3, 1): 1}),
        # Of two wrong classes the better box is the confusion.
        (objects((0, *A)), found((1, 0.9, 10, 10, 30, 24), (2, 0.6, *A)), {(0, 2): 1, (3, 1): 1}),
        (objects((0, *A)), found((0, 0.9, *A), (0, 0.8, *A)), {(0, 0): 1, (3, 0): 1}),
        (objects((0, *A), (0, *B), crowd=[1]), found((0, 0.9, *A), (0, 0.8, *B), (0, 0.7, *B)), {(0, 0): 1}),
        (objects((0, *A), difficult=[0]), found((0, 0.9, *A)), {}),
        (objects((0, *A)), found((0, 0.4, *A)), {(0, 3): 1}),
        (objects(), found(), {}),
    ],
)
def test_cells_by_hand(truth, detections, cells):
    matrix = of([truth], [detections], 0.5, ignore_difficult=True).matrix
    assert {tuple(cell): int(matrix[tuple(cell)]) for cell in np.argwhere(matrix).tolist()} == cells


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", [0, 40, 80])
def test_rows_are_the_objects_columns_the_reports_and_the_diagonal_what_recall_counts(seed, step):
    truths, detections = scenes(seed)
    truths = [dataclasses.replace(t, crowd=np.arange(len(t.labels)) % 5 == 4) for t in truths]
    result = outcomes(truths, detections)
    scores, labels = (np.concatenate([getattr(one, name) for one in detections]) for name in ("scores", "labels"))
    object_labels = np.concatenate([truth.labels for truth in truths])
    table = count_by_threshold(result, scores, labels, object_labels, len(CLASSES))[:-1]
    found = confusion(truths, detections, result, len(CLASSES), step / 100)
    assert found.matrix.sum(1)[:-1].tolist() == [row.objects for row in table]
    assert found.matrix.sum(0)[:-1].tolist() == [row.reported[step] for row in table]
    assert found.matrix.diagonal()[:-1].tolist() == [row.right[step] for row in table]
    assert found.matrix[-1, -1] == 0


def test_what_lies_behind_a_cell_can_be_looked_up():
    found_in = of([objects((0, *A))] * 2, [found((1, 0.9, *A)), found((0, 0.9, *A), (2, 0.8, *B))])
    assert found_in.detection_object.tolist() == [0, 1, -1]
    assert found_in.object_detection.tolist() == [0, 1]
