import dataclasses
import json

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, saved, scenes
from resight.evaluation import report
from resight.evaluation.coco import coco_metrics
from resight.evaluation.loop import measure
from resight.reporting.findings import Run, findings
from resight.reporting.matched import Matched


def evaluated(seed, images=40, **options):
    truths, detections = scenes(seed, images)
    numbers, point = measure(truths, detections, CLASSES)
    metrics = report.as_dict(
        numbers, point, point_of_model=False, model="run", split="test", data="records", limit=None
    )
    return saved(truths, detections, **{**metrics, **options})


@pytest.fixture(scope="module")
def evaluation():
    return evaluated(0)


@pytest.fixture(scope="module")
def content(evaluation):
    rows = [
        {"step": 1, "split": "train", "seconds": 2.4, "loss": 2.0, "learning_rate": 0.1, "images_per_second": 3.0},
        {"step": 20, "split": "train", "loss": None, "learning_rate": 0.1, "images_per_second": 3.0},
        {"step": 20, "split": "val", "mAP": 0.25},
    ]
    return findings(Matched(evaluation), Run("runs/a", rows, "[model]\n", {"python": "3"}, {"images": 3}))


def test_it_is_json_and_says_what_was_measured(content):
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["head"] == {
        "model": "run",
        "weights": None,
        "split": "test",
        "data": "records",
        "selected_on": None,
        "num_images": 40,
        "num_boxes": content["all"]["objects"],
        "num_ignored": 0,
        "limit": None,
        "classes": 3,
        "run": "runs/a",
    }


def test_every_number_is_cocos(content, evaluation):
    wanted = coco_metrics(evaluation.truths, evaluation.found, CLASSES)
    assert {name: row["value"] for name, row in content["numbers"].items()} == wanted.summary
    for row in content["classes"]:
        assert (row["AP"], row["AP50"], row["boxes"]) == tuple(wanted.per_class[row["name"]].values())
        assert np.mean(row["precision"]) == pytest.approx(row["AP50"], abs=1e-4)
    assert np.mean([row["AP75"] for row in content["classes"]]) == pytest.approx(wanted.summary["AP75"])
    for name in ("mAP", "AP50", "AP75", "AP_small"):
        row = content["numbers"][name]
        assert row["low"] < row["value"] < row["high"]
    assert content["numbers"]["AR_100"]["low"] is None
    assert {one["kind"] for one in content["tide"]["errors"]} == {one["kind"] for one in content["errors"]}
    assert content["tide"]["AP50"] == pytest.approx(wanted.summary["AP50"])


def test_the_operating_point_the_table_the_matrix_and_the_gallery_agree(content):
    point = content["operating_point"]
    cells = content["confusion"]["cells"]
    right = sum(count for row, column, count in cells if row == column)
    reported = sum(count for _, column, count in cells if column >= 0)
    assert (right / reported, right / content["all"]["objects"]) == pytest.approx((point["precision"], point["recall"]))
    at = content["thresholds"].index(point["score"])
    assert (content["all"]["right"][at], content["all"]["reported"][at]) == (right, reported)
    assert content["thresholds"] == sorted(content["thresholds"]) and len(content["thresholds"]) == 101
    assert point["of"] == "images" and "no score of its own" in content["sentence"]
    of_kind = [one["kind"] for one in content["errors"]]
    assert len([kind for kind in of_kind if kind != "missed"]) == reported - right
    for one in content["errors"]:
        assert (one["box"] is None) == (one["object"] is None) and (one["found_box"] is None) == (one["found"] is None)
        assert one["kind"] != "missed" or one["found"] is None


def test_the_training_is_drawn_from_its_metrics(content):
    series = content["training"]["series"]
    assert series == {
        "loss": [[1, 2.0]],
        "seconds since the start": [[1, 2.4]],
        "learning rate": [[1, 0.1], [20, 0.1]],
        "images a second": [[1, 3.0], [20, 3.0]],
        "mAP on val": [[20, 0.25]],
    }
    assert (content["configuration"], content["environment"]) == ("[model]\n", {"python": "3"})


@pytest.mark.parametrize("images", [0, 1])
def test_of_nothing_or_little(images):
    evaluation = evaluated(11, images)
    content = findings(Matched(evaluation))
    assert json.dumps(content, allow_nan=False)
    assert content["training"] is None and content["head"]["num_images"] == images


def test_groups_are_what_is_drawn(evaluation):
    grouped = evaluated(0, groups=[f"video {number % 8}" for number in range(40)])
    assert findings(Matched(grouped))["resampled"] == {"unit": "groups", "count": 8, "resamples": 200}
    assert findings(Matched(evaluation))["resampled"]["unit"] == "images"


def test_of_more_than_100_detections_of_a_class_in_an_image_curves_are_of_those_that_ap_counts():
    truths, detections = scenes(3, 6)
    for number, one in enumerate(detections):
        many = np.tile(np.array([[0, 0, 5, 5]], np.float32), (120, 1))
        boxes, labels = np.concatenate([many, one.boxes]), np.concatenate([np.zeros(120, np.int64), one.labels])
        scores = np.concatenate([np.full(120, 0.999, np.float32), one.scores])
        detections[number] = dataclasses.replace(one, boxes=boxes, scores=scores, labels=labels)
    numbers, point = measure(truths, detections, CLASSES, max_detections=300)
    metrics = report.as_dict(numbers, point, model="run", split="test", data="records", limit=None)
    content = findings(Matched(saved(truths, detections, **metrics)))
    assert content["numbers"]["mAP_300"]["value"] > content["numbers"]["mAP"]["value"]
    assert content["tide"]["AP50"] == pytest.approx(content["numbers"]["AP50"]["value"])
    for row in content["classes"]:
        assert np.mean(row["precision"]) == pytest.approx(row["AP50"], abs=1e-4)


def test_one_group_gives_no_interval():
    content = findings(Matched(evaluated(0, groups=["video"] * 40)))
    assert content["resampled"]["count"] == 1
    assert {row["low"] for row in content["numbers"].values()} == {None}


def test_reach_by_hand():
    truths = [objects((0, 0, 0, 10, 10), (0, 20, 20, 40, 40), (0, 50, 50, 90, 90))]
    detections = [found((0, 0.9, 0, 0, 10, 10))]
    numbers, point = measure(truths, detections, CLASSES, score=0.5)
    metrics = report.as_dict(numbers, point, model="run", split="test", data="records", limit=None)
    evaluation = saved(truths, detections, **metrics)
    assert findings(Matched(evaluation))["reach"] is None
    evaluation.objects["anchor_iou"][:] = [0.4, 0.6, 0.3]
    evaluation.objects["proposal_iou"][1:] = [0.8, 0.45]
    assert findings(Matched(evaluation))["reach"] == {
        "anchors": {"covered": pytest.approx(1 / 3), "missed": 2, "missed_uncovered": 1},
        "proposals": {"covered": 0.5, "missed": 2, "missed_uncovered": 1},
    }
    lost = findings(Matched(evaluation))["lost"]["class"]["stop"]
    assert lost.items() >= {"objects": 3, "found": 1, "background": 1, "no_anchor": 1}.items()
