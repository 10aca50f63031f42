import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, scenes
from resight.evaluation.coco import areas, coco_metrics
from resight.reporting.average_precision import Part, everything, rows_of


def ap(truths, detections, part, weights=None):
    rows = rows_of(truths, detections, {"part": part})["part"]
    return rows.average_precision(np.ones(len(truths)) if weights is None else weights)


def test_more_than_100_detections_of_a_class_do_not_count():
    truths, detections = scenes(1, images=3)
    many = [
        dataclasses.replace(
            one,
            boxes=np.concatenate([np.tile([[0, 0, 5, 5]], (120, 1)).astype(np.float32), one.boxes]),
            scores=np.concatenate([np.full(120, 0.999, np.float32), one.scores]),
            labels=np.concatenate([np.zeros(120, np.int64), one.labels]),
        )
        for one in detections
    ]
    wanted = coco_metrics(truths, many, CLASSES).summary
    assert ap(truths, many, everything(truths, many)).mean() == pytest.approx(wanted["mAP"], abs=1e-9)


def test_each_class_has_cocos_ap_at_each_iou():
    truths, detections = scenes(2)
    rows = rows_of(truths, detections, {"all": everything(truths, detections)})["all"]
    per_class = coco_metrics(truths, detections, CLASSES).per_class
    for label, name in enumerate(CLASSES):
        ap = rows.of_class(label).mean(1)
        assert (ap.mean(), ap[0]) == pytest.approx((per_class[name]["AP"], per_class[name]["AP50"]), abs=1e-9)
    assert np.isnan(rows.of_class(7)).all()


@pytest.mark.parametrize(("low", "high", "name"), [(0, 32**2, "AP_small"), (32**2, 96**2, "AP_medium")])
def test_the_part_of_one_size_has_cocos_number_of_it(low, high, name):
    truths, detections = (
        [dataclasses.replace(one, boxes=3 * one.boxes) for one in side] for side in scenes(5, images=60)
    )
    part = Part(
        [(areas(t.boxes) >= low) & (areas(t.boxes) <= high) for t in truths],
        [(areas(one.boxes) >= low) & (areas(one.boxes) <= high) for one in detections],
    )
    wanted = coco_metrics(truths, detections, CLASSES).summary[name]
    assert ap(truths, detections, part).mean() == pytest.approx(wanted, abs=1e-9)


def test_a_part_whose_other_objects_are_taken_out_with_their_finders_is_the_same():
    truths, detections = scenes(6)
    first = Part([np.arange(len(t.labels)) == 0 for t in truths], [np.zeros(len(one), bool) for one in detections])
    rows = rows_of(truths, detections, {"part": first})["part"]
    # Nothing that finds no object counts, so whatever is found has precision 1: AP is recall.
    for number in range(10):
        recall = [
            rows.right[number, rows.label == label].sum() / (rows.object_label == label).sum()
            for label in np.unique(rows.object_label)
        ]
        expected = np.mean([np.floor(100 * value + 1e-9) + 1 if value else 0 for value in recall]) / 101
        assert rows.average_precision(np.ones(len(truths)))[number] == pytest.approx(expected, abs=1e-9)


def test_nothing_at_all():
    assert np.isnan(ap([], [], Part([], []))).all()
