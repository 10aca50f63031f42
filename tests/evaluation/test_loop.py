import shutil
from dataclasses import astuple

import numpy as np
import pytest

from resight.evaluation.coco import GroundTruth
from resight.evaluation.loop import evaluate_images, measure
from resight.inference import many
from resight.inference.detector import Detector, load
from resight.records.reader import open_records
from resight.types import Detections


def test_the_operating_point_is_of_all_detections():
    boxes = np.array([(4 * n, 0, 4 * n + 3, 3) for n in range(150)], np.float32)
    labels = np.zeros(150, np.int64)
    found = Detections(boxes, np.full(150, 0.7, np.float32), labels, ("stop", "yield"))
    metrics, point = measure([GroundTruth.of(boxes, labels)], [found], ("stop", "yield"), max_detections=300)
    assert (point.recall, point.precision) == (1.0, 1.0)
    assert metrics.summary["AR_100"] == pytest.approx(100 / 150) and metrics.summary["AR_300"] == 1


def test_a_record_that_cannot_be_read_is_told_and_left_out(shapes, tmp_path):
    class Blind(Detector):
        def detect(self, image):
            boxes, none = np.zeros((0, 4), np.float32), np.zeros(0)
            return Detections(boxes, none, none.astype(np.int64), self.classes, image.shape[1], image.shape[0])

    split = open_records(shapes(train=2, val=3)).splits["val"]
    place = int(split.index.records["offset"][1]) + 40
    shutil.copytree(split.shards[0].rpartition("/")[0], tmp_path / "damaged")
    damaged = open_records(tmp_path / "damaged").splits["val"]
    with open(damaged.shards[0], "r+b") as file:
        file.seek(place)
        file.write(b"\xff\x00\xff")
    told = []
    images = evaluate_images(Blind(("red", "blue"), None), damaged, range(3), on_error=told.append, with_losses=False)
    assert len(list(images)) == 2 and len(told) == 1
    assert "CRC" in told[0].message and damaged.shards[0] in told[0].where


def test_on_a_gpu_the_results_are_those_of_a_cpu(pretended_cuda, untrained, shapes, tmp_path, monkeypatch):
    shutil.copytree(shapes(train=2, val=3), tmp_path / "damaged")
    split = open_records(tmp_path / "damaged").splits["val"]
    with open(split.shards[0], "r+b") as file:
        file.seek(int(split.index.records["offset"][1]) + 40)
        file.write(b"\xff\x00\xff")
    monkeypatch.setattr(many, "WINDOW", 2)
    told, order, batches = [], [0, 1, 2, 0], []

    def results(detector):
        told.clear()
        return [
            result
            for _, result in evaluate_images(detector, split, iter(order), on_error=told.append, with_losses=True)
        ]

    expected, errors = results(load(untrained, "cpu")), [error.where for error in told]
    with pretended_cuda():
        detector = load(untrained)
        detector.model.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
        found = results(detector)
        detector.model.to("cpu")
    assert [error.where for error in told] == errors and len(errors) == 1
    assert sum(batches) == 3 and [one.name for one in found] == [one.name for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert all(
            np.array_equal(a, b, equal_nan=True) for a, b in zip(astuple(one.truth), astuple(other.truth), strict=True)
        )
        np.testing.assert_allclose(np.sort(one.detections.scores), np.sort(other.detections.scores), atol=1e-3)
        assert one.losses == pytest.approx(other.losses, rel=1e-3)
        assert np.array_equal(one.labels, other.labels) and one.left_out == other.left_out


def test_the_losses_of_an_image_are_read_at_once(pretended_cuda, tfod_checkpoint, shapes):
    split = open_records(shapes(train=2, val=3)).splits["val"]
    record, checkpoint = split[0], tfod_checkpoint(pad=False)
    given = record, split.labels(record), split.pixels(0, record)
    expected = load(checkpoint, "cpu").losses(*given)
    with pretended_cuda() as counts:
        detector = load(checkpoint)
        counts.waits.clear()
        losses = detector.losses(*given)
        detector.model.to("cpu")
        assert losses == pytest.approx(expected, rel=1e-3) and len(losses) == 4
        assert sum(count for wait, count in counts.waits.items() if "detector.py" in wait) == 1
