import shutil

import numpy as np
import pytest

from resight.evaluation.coco import GroundTruth
from resight.evaluation.loop import evaluate_images, measure
from resight.inference.detector import Detector
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
