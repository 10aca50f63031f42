import json
import logging
import shutil

import numpy as np
import pytest
import torch

from resight.commands.convert import convert
from resight.errors import ResightError
from resight.inference.detector import load
from resight.label_map import LabelMap, to_pbtxt
from resight.models.checkpoints import BEST, find_checkpoint, load_checkpoint
from resight.tfod.checkpoint.reader import read_checkpoint
from resight.tfod.checkpoint.trained import read_settings, read_tfod
from resight.tfod.checkpoint.variables import to_state_dict

PIPELINE = """
model { faster_rcnn {
  num_classes: 6
  image_resizer { keep_aspect_ratio_resizer { min_dimension: 200 max_dimension: 333 pad_to_max_dimension: true } }
  feature_extractor { type: "faster_rcnn_resnet50_keras" }
  first_stage_anchor_generator { grid_anchor_generator {
    scales: [0.25, 0.5, 1.0, 2.0] aspect_ratios: [0.5, 1.0, 2.0] height_stride: 16 width_stride: 16 } }
  first_stage_box_predictor_conv_hyperparams { op: CONV
    regularizer { l2_regularizer { weight: 0.0 } }
    initializer { truncated_normal_initializer { stddev: 0.01 } } }
  first_stage_nms_score_threshold: 0.0
  first_stage_nms_iou_threshold: 0.7
  first_stage_max_proposals: 300
  initial_crop_size: 14 maxpool_kernel_size: 2 maxpool_stride: 2
  second_stage_box_predictor { mask_rcnn_box_predictor { use_dropout: false
    fc_hyperparams { op: FC regularizer { l2_regularizer { weight: 0.0 } }
      initializer { variance_scaling_initializer { factor: 1.0 uniform: true mode: FAN_AVG } } } } }
  second_stage_post_processing { score_converter: SOFTMAX batch_non_max_suppression {
    score_threshold: 0.0 iou_threshold: 0.6 max_detections_per_class: 100 max_total_detections: 100 } }
} }
train_input_reader { label_map_path: "classes.pbtxt" }
"""


@pytest.fixture(scope="module")
def left(zoo_folder, tmp_path_factory):
    """What TFOD left of a model of six classes, the fourth of which the label map does not know."""
    folder = tmp_path_factory.mktemp("left")
    shutil.copytree(zoo_folder() / "checkpoint", folder / "checkpoint", copy_function=shutil.copyfile)
    (folder / "pipeline.config").write_text(PIPELINE)
    labels = LabelMap.from_names(["one", "two", "three", "four", "five", "six"])
    known = LabelMap(tuple(item for item in labels.items if item.id != 4))
    (folder / "classes.pbtxt").write_text(to_pbtxt(known))
    return folder


def test_a_run_folder_is_made(left, tmp_path):
    text = convert(left, tmp_path / "run")
    assert text == "ResNet-50 V1, 6 classes"
    found = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert find_checkpoint(tmp_path / "run") == tmp_path / "run" / BEST
    assert found.card.label_map.names == ("one", "two", "three", "class 4", "five", "six")
    assert (found.card.model.name, found.card.model.min_size) == ("faster_rcnn_resnet50_v1", 200)
    weights, _ = to_state_dict(read_checkpoint(left))
    model = found.card.build()
    model.load_state_dict(found.weights())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoints", "config.toml", "environment.json", "label_map.pbtxt",
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["pipeline"] == PIPELINE
    with pytest.raises(ResightError, match="already holds something"):
        convert(left, tmp_path / "run")


def test_labels_of_ones_own(left, tmp_path):
    (tmp_path / "mine.pbtxt").write_text(to_pbtxt(LabelMap.from_names(["a", "b"])))
    trained = read_tfod(left / "checkpoint" / "ckpt-0", labels=tmp_path / "mine.pbtxt")
    assert trained.label_map.names == ("a", "b", "class 3", "class 4", "class 5", "class 6")


def test_settings_are_read_without_the_weights(left, monkeypatch):
    def read(_):
        raise AssertionError("a tensor is read")

    monkeypatch.setattr("resight.tfod.checkpoint.variables.to_torch", read)
    assert read_settings(left).model.min_size == 200


def test_coco_and_nameless_classes(write_checkpoint, values, tmp_path, monkeypatch, caplog):
    from resight.tfod.checkpoint import trained as module

    caplog.set_level(logging.INFO, "resight")
    names = module._label_map("", 90).names
    assert len(names) == 90
    assert (names[0], names[11], names[12], names[89]) == ("person", "class 12", "stop sign", "toothbrush")
    assert "assuming the 90 classes are COCO's" in caplog.text
    assert module._label_map("", 2).names == ("class 1", "class 2")
    assert "named by their numbers" in caplog.text


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("num_classes: 6", "num_classes: 5", "number of classes 6 and 5"),
        ("resnet50", "resnet101", "ResNet 50 and 101"),
        ("use_dropout: false", "share_box_across_classes: true", "share_box_across_classes False and True"),
        ("scales: [0.25, 0.5, 1.0, 2.0]", "scales: [1.0]", "anchors a location 12 and 3"),
    ],
)
def test_a_config_of_another_model(left, tmp_path, old, new, message):
    (tmp_path / "other.config").write_text(PIPELINE.replace(old, new))
    with pytest.raises(ResightError, match=f"are of different models: {message}") as error:
        read_tfod(left, config=tmp_path / "other.config")
    assert "other.config" in error.value.message and error.value.where == str(left / "checkpoint" / "ckpt-0")


def test_what_is_missing(left, tmp_path, write_checkpoint):
    with pytest.raises(ResightError, match="holds no model of TFOD"):
        read_tfod(tmp_path)
    prefix = write_checkpoint(tmp_path / "ckpt-0", {"x": np.zeros(1, np.float32)})
    with pytest.raises(ResightError, match=r"has no pipeline\.config beside it") as error:
        read_tfod(prefix)
    assert error.value.fix == "Name it with --config."
    with pytest.raises(ResightError, match="of another architecture"):
        read_tfod(prefix, config=left / "pipeline.config")


def test_a_model_that_was_trained_without_padding_is_taken(left, tmp_path):
    shutil.copytree(left, tmp_path / "left", copy_function=shutil.copyfile)
    config = tmp_path / "left" / "pipeline.config"
    config.write_text(PIPELINE.replace("pad_to_max_dimension: true", ""))
    assert not load(tmp_path / "left").config.tfod.pad
    convert(tmp_path / "left", tmp_path / "run")
    assert not load_checkpoint(find_checkpoint(tmp_path / "run")).card.model.tfod.pad
