import numpy as np
import pytest

from resight import check_data
from resight.commands.check import reachable
from resight.config.tree import load_config
from resight.detection.anchors import AnchorSettings, reachable_iou
from resight.training.plan import make_plan


@pytest.mark.parametrize("anchors", ["fit", "default"])
def test_what_check_says_of_anchors_is_what_the_plan_says(shapes, anchors):
    config = load_config(overrides={"data.path": str(shapes(train=8, val=3)), "model.anchors": anchors,
                                    "model.min_size": 32, "model.max_size": 32})  # fmt: skip
    share = make_plan(config).recall[0]
    found = [problem for problem in check_data(config.data.path, config=config).warnings if "beyond" in problem.kind]
    boxes = 12
    beyond = round(boxes * (1 - share))
    assert beyond  # squares of 8 px
    assert [problem.message.split(" training")[0] for problem in found] == [f"{beyond} of {boxes}"]


def test_boxes_are_compared_at_the_size_of_the_network():
    model = load_config(overrides={"model.anchors": "default"}).model  # 384-640
    images, boxes = np.array([[1280.0, 768.0], [640.0, 384.0]]), np.array([[100.0, 100, 132, 164], [50, 50, 66, 82]])
    iou = reachable(model, images, boxes)
    own = AnchorSettings(((16, 23), (32, 45), (64, 91), (128, 181)))
    expected = reachable_iou(np.array([[16.0, 32.0]]), np.array([[58.0, 66.0]]), own, [8, 16, 32, 64])
    np.testing.assert_allclose(iou, np.repeat(expected, 2))


def test_images_with_more_objects_than_detections_are_told(shapes):
    config = load_config(overrides={"model.detections": 1})
    (found,) = (p for p in check_data(shapes(train=9, val=3), config=config).warnings if p.kind == "too_many_objects")
    # Pictures 1, 3, ... show two squares.
    assert "5 images have more objects" in found.message and "train-1.png" in found.where + found.message
    assert "--set model.detections=100" in found.message
    assert not any(p.kind == "too_many_objects" for p in check_data(shapes(train=9, val=3)).warnings)
