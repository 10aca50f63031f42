"""What the evaluation prints."""

import contextlib
import io
import json

import numpy as np

from resight.evaluation import report
from resight.evaluation.coco import GroundTruth, coco_metrics
from resight.evaluation.operating_point import OperatingPoint
from resight.tfod.metrics import as_tfod, tfod_table
from resight.types import Detections

CLASSES = ("stop", "yield", "merge", "noRightTurn")


def example():
    """Small and medium objects of three classes; half of each kind is found, all of "merge"."""
    generator = np.random.default_rng(7)
    pairs = []
    for _ in range(20):
        corner = generator.uniform(0, 200, (6, 2))
        boxes = np.hstack([corner, corner + generator.uniform(10, 80, (6, 2))]).astype(np.float32)
        labels = generator.integers(0, 3, 6)
        seen = (labels == 2) | (generator.random(6) < 0.5)
        found = boxes[seen] + generator.normal(0, 1, (seen.sum(), 4)).astype(np.float32)
        scores = generator.random(len(found)).astype(np.float32)
        pairs.append((GroundTruth.of(boxes, labels), Detections(found, scores, labels[seen], CLASSES)))
    return pairs


def measured():
    truths, detections = zip(*example(), strict=True)
    return coco_metrics(truths, detections, CLASSES)


def test_table_is_what_pycocotools_prints(reference):
    counting = reference(example())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        counting.summarize()
    table = report.summary_table(measured().summary)
    assert table.count("n/a") == 2  # nothing large
    assert table == printed.getvalue().rstrip("\n").replace("-1.000", "n/a")


def test_dictionary():
    metrics = measured()
    result = report.as_dict(
        metrics, OperatingPoint(0.25, 0.5, 0.75, 0.6), losses={"loss": 1.5, "rpn": float("nan")}, selected_on="val"
    )
    result = json.loads(json.dumps(result, allow_nan=False))
    assert {key: result[key] for key in metrics.summary} == metrics.summary
    assert len(metrics.summary) == 12 and result["AP_large"] is None
    assert result["per_class"]["noRightTurn"] == {"AP": None, "AP50": None, "boxes": 0}
    assert result["losses"] == {"loss": 1.5, "rpn": None}
    assert result["operating_point"] == {"score": 0.25, "precision": 0.5, "recall": 0.75, "f1": 0.6}
    assert (result["num_images"], result["num_boxes"], result["selected_on"]) == (20, 120, "val")
    assert result["operating_point_of"] == "model"


def test_text_names_every_class_and_the_weakest_first():
    metrics = measured()
    text = report.text(report.as_dict(metrics, OperatingPoint(0.25, 0.94, 0.91, 0.92), losses={"loss": 1.5}))
    for name, row in metrics.per_class.items():
        ap = "n/a" if row["AP"] is None else f"{row['AP']:.3f}"
        assert any(line.split()[:2] == [name, ap] for line in text.splitlines())
    weak = text[text.index("Weakest") :]
    order = sorted(("stop", "yield"), key=lambda name: metrics.per_class[name]["AP"])
    assert weak.index(order[0]) < weak.index(order[1])
    assert f"({metrics.per_class[order[0]]['boxes']} boxes)" in weak
    assert "merge" not in weak and "noRightTurn" not in weak
    assert "At score .25 it finds 91 % of the objects; 6 % of what it reports is wrong." in text
    assert "Losses: loss 1.500" in text
    own = report.as_dict(metrics, OperatingPoint(0.25, 0.94, 0.91, 0.92), point_of_model=False)
    assert own["operating_point_of"] == "images"
    assert "has no score of its own. At score .25, the best on these images, it finds" in report.text(own)


def test_without_objects_nothing_is_weak():
    metrics = coco_metrics([], [], CLASSES)
    text = report.text(report.as_dict(metrics, OperatingPoint(0.5)))
    assert "Weakest" not in text and "Losses" not in text and text.count("n/a") == 12 + 2 * len(CLASSES)


# As TFOD prints it, in the order of its log.
TFOD_LINES = """
DetectionBoxes_Precision/mAP
DetectionBoxes_Precision/mAP@.50IOU
DetectionBoxes_Precision/mAP@.75IOU
DetectionBoxes_Precision/mAP (small)
DetectionBoxes_Precision/mAP (medium)
DetectionBoxes_Precision/mAP (large)
DetectionBoxes_Recall/AR@1
DetectionBoxes_Recall/AR@10
DetectionBoxes_Recall/AR@100
DetectionBoxes_Recall/AR@100 (small)
DetectionBoxes_Recall/AR@100 (medium)
DetectionBoxes_Recall/AR@100 (large)
Loss/RPNLoss/localization_loss
Loss/RPNLoss/objectness_loss
Loss/BoxClassifierLoss/localization_loss
Loss/BoxClassifierLoss/classification_loss
Loss/regularization_loss
Loss/total_loss
""".strip().splitlines()
LOSSES = {
    "RPNLoss/localization_loss": 0.5,
    "RPNLoss/objectness_loss": 0.25,
    "BoxClassifierLoss/localization_loss": 0.125,
    "BoxClassifierLoss/classification_loss": 1.0,
}


def test_tfods_lines_are_pycocotools_numbers_in_its_order(reference):
    values = as_tfod(measured().summary, LOSSES)
    assert list(values) == TFOD_LINES
    stats = reference(example()).stats
    np.testing.assert_allclose(list(values.values())[:12], stats, atol=1e-9)
    assert stats[5] == -1  # there is no large object, and both say so
    assert list(values.values())[12:] == [0.5, 0.25, 0.125, 1.0, 0.0, 1.875]
    lines = tfod_table(values).splitlines()[1:]
    assert lines[5] == "\t+ DetectionBoxes_Precision/mAP (large): -1.000000"
    assert lines[-1] == "\t+ Loss/total_loss: 1.875000"
    assert [line.removeprefix("\t+ ").rpartition(": ")[0] for line in lines] == TFOD_LINES


def test_of_an_export_tfods_lines_end_with_the_recall():
    values = as_tfod(measured().summary, {})
    assert list(values) == TFOD_LINES[:12]


def test_a_loss_that_is_no_number_is_none_in_json_and_nan_in_the_lines():
    values = as_tfod(measured().summary, LOSSES | {"RPNLoss/objectness_loss": float("inf")})
    assert values["Loss/RPNLoss/objectness_loss"] is values["Loss/total_loss"] is None
    json.dumps(values, allow_nan=False)
    assert "\t+ Loss/total_loss: nan" in tfod_table(values)


def test_tfods_lines_take_the_place_of_the_losses():
    point = OperatingPoint(0.5, 0.9, 0.8, 0.85)
    result = report.as_dict(measured(), point, losses=LOSSES)
    assert "Losses: " in report.text(result) and "As TFOD" not in report.text(result)
    said = report.text(result | {"tfod": as_tfod(measured().summary, LOSSES)})
    assert "Losses: " not in said and "\t+ Loss/total_loss: 1.875000" in said


def test_numbers_at_more_detections_stand_below_cocos():
    truths, detections = zip(*example(), strict=True)
    metrics = coco_metrics(truths, detections, CLASSES, max_detections=300)
    result = report.as_dict(metrics, OperatingPoint(0.25, 0.5, 0.75, 0.6))
    assert result["max_detections"] == 300 and "max_detections" not in report.as_dict(measured(), OperatingPoint(0.5))
    lines = report.text(result).splitlines()
    assert lines[:12] == report.summary_table(measured().summary).splitlines()
    for line, title, key in zip(
        lines[12:14], ("Precision  (AP)", "Recall     (AR)"), ("mAP_300", "AR_300"), strict=True
    ):
        assert title in line and f"maxDets=300 ] = {result[key]:.3f}" in line
    assert lines[15].split() == ["class", "AP", "AP50", "AP_300", "boxes"]
    assert len({len(line) for line in lines[15:20]}) == 1
