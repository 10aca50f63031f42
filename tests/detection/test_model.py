"""Weights put into a model of other classes, or of another architecture."""

import pytest
import torch

from resight.detection.model import load_detector
from resight.errors import ResightError
from resight.fpn.config import FpnModelConfig
from resight.models.build import build_model
from resight.tfod.config import TfodModelConfig


def test_rows_of_the_class_heads_follow_the_names() -> None:
    torch.manual_seed(2)
    had, classes = ["a", "b", "c"], ["c", "new", "a"]
    old, new = build_model(FpnModelConfig(), 3), build_model(FpnModelConfig(), 3)
    fresh = {key: value.clone() for key, value in new.state_dict().items()}
    report = load_detector(new, old.state_dict(), "old", had, classes)
    assert sorted(report) == sorted(key for key in fresh if key.startswith(tuple(new.class_heads)))
    bias = "roi_heads.box_predictor.cls_score.bias"
    deltas = "roi_heads.box_predictor.bbox_pred.weight"
    assert new.state_dict()[bias][0] == old.state_dict()[bias][0]
    for row, (name, other) in enumerate([("c", 2), ("new", None), ("a", 0)], start=1):
        source = fresh if other is None else old.state_dict()
        from_row = row if other is None else other + 1
        assert new.state_dict()[bias][row] == source[bias][from_row], name
        assert torch.equal(
            new.state_dict()[deltas][4 * row : 4 * row + 4], source[deltas][4 * from_row : 4 * from_row + 4]
        )
    assert load_detector(new, old.state_dict(), "old", had, had) == []


def test_weights_of_another_architecture_are_refused() -> None:
    other = build_model(FpnModelConfig(name="resnet18"), 3)
    with pytest.raises(ResightError, match="of another model than"):
        load_detector(build_model(FpnModelConfig(), 3), other.state_dict(), "runs/other")


def test_one_box_for_all_classes_is_taken_over_whole() -> None:
    config = TfodModelConfig(name="faster_rcnn_resnet50_v1", tfod={"share_boxes": True})
    old, new = build_model(config, 2), build_model(config, 3)
    load_detector(new, old.state_dict(), "old", ["a", "b"], ["b", "c", "d"])
    ours, theirs = new.state_dict(), old.state_dict()
    assert torch.equal(ours["predictor.box.weight"], theirs["predictor.box.weight"])
    assert torch.equal(ours["predictor.classes.weight"][:2], theirs["predictor.classes.weight"][[0, 2]])
