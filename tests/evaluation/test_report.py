"""What the evaluation prints."""

import contextlib
import io
import json

import numpy as np

from resight.boxes import Detections
from resight.evaluation import report
from resight.evaluation.coco import GroundTruth, coco_metrics
from resight.evaluation.operating_point import OperatingPoint

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
