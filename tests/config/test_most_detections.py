import numpy as np
import pytest

from resight.config.most_detections import LARGEST_LIMIT, MostDetections
from resight.errors import ResightError
from resight.fpn.config import FpnModelConfig
from resight.tfod.config import TfodConfig, TfodModelConfig

TFOD = TfodModelConfig(name="faster_rcnn_resnet50_v1", tfod=TfodConfig(detections=300, detections_per_class=100))


def objects(*counts):
    """Image and class of objects, of which image 0 has ``counts[0]``: a mapping of class to number."""
    rows = [(image, label) for image, of_class in enumerate(counts) for label, n in of_class.items() for _ in range(n)]
    return tuple(np.array(rows, np.int64).reshape(-1, 2).T)


def crowded(most, *counts):
    return most.crowded(*objects(*counts), "image {}".format)


def test_images_with_more_objects_than_detections_are_counted_and_the_fullest_named():
    most = FpnModelConfig().most
    assert crowded(most) is None
    assert crowded(most, {0: 60, 1: 40}, {}) is None  # as many as there can be
    sentence, worst = crowded(most, {}, {0: 61, 1: 40}, {2: 5}, {1: 1_156}, {})
    assert worst == 3
    assert sentence.startswith("2 images have more objects") and "1,156 in image 3" in sentence
    assert "(100: model.detections)" in sentence and "--set model.detections=1800" in sentence
    assert "--set model.detections=300 " in crowded(most, {0: 156})[0]
    assert f"--set model.detections={LARGEST_LIMIT} " in crowded(most, {0: 8_000})[0]
    assert crowded(FpnModelConfig(detections=156).most, {0: 156}) is None


def test_of_tfods_two_numbers_each_can_be_the_one_that_is_passed():
    most = TFOD.most
    assert (most.image, most.of_a_class) == (300, 100)
    assert crowded(most, {0: 100, 1: 100}) is None
    sentence, _ = crowded(most, {0: 101, 1: 3})
    assert "--set model.tfod.detections=200 --set model.tfod.detections_per_class=200" in sentence
    assert "proposals" not in sentence and "model.tfod.proposals=400" in crowded(most, {0: 205})[0]
    assert crowded(most, {label: 61 for label in range(5)}) is not None
    assert TFOD.model_copy(update={"tfod": TfodConfig(detections=20)}).most.of_a_class == 20


def test_detections_reach_the_most_altogether_or_of_a_class():
    most = MostDetections(4, 3)
    assert [most.reached(np.array(labels, np.int64)) for labels in ([], [0, 0, 1], [1, 1, 1], [0, 1, 2, 3])] == [
        False, False, True, True,
    ]  # fmt: skip


def test_a_model_with_another_number():
    assert FpnModelConfig(min_size=64).with_detections(300) == FpnModelConfig(min_size=64, detections=300)
    more = TFOD.with_detections(400).tfod
    assert (more.detections, more.detections_per_class, more.proposals) == (400, 400, 400)
    assert TFOD.with_detections(50).tfod.proposals == TFOD.tfod.proposals
    for wrong in (0, -1, LARGEST_LIMIT + 1):
        with pytest.raises(ResightError, match="--detections"):
            FpnModelConfig().with_detections(wrong)
