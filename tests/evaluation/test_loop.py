import numpy as np
import pytest

from resight.evaluation.coco import GroundTruth
from resight.evaluation.loop import measure
from resight.types import Detections


def test_the_operating_point_is_of_all_detections():
    boxes = np.array([(4 * n, 0, 4 * n + 3, 3) for n in range(150)], np.float32)
    labels = np.zeros(150, np.int64)
    found = Detections(boxes, np.full(150, 0.7, np.float32), labels, ("stop", "yield"))
    metrics, point = measure([GroundTruth.of(boxes, labels)], [found], ("stop", "yield"), max_detections=300)
    assert (point.recall, point.precision) == (1.0, 1.0)
    assert metrics.summary["AR_100"] == pytest.approx(100 / 150) and metrics.summary["AR_300"] == 1
