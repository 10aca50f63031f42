import re
from pathlib import Path

import numpy as np
import pytest
import torch

from resight.errors import ResightError
from resight.tfod.checkpoint.reader import GRAPH, SUFFIX, Entry, Variables, read_checkpoint
from resight.tfod.checkpoint.variables import checkpoint_keys, load_start, to_state_dict, to_tensorflow, to_torch
from resight.tfod.config import TfodModelConfig
from resight.tfod.faster_rcnn import TfodRCNN
from resight.tfod.specs import BLOCKS

TRUNK = "model/_feature_extractor_for_proposal_features"
CONV5 = "model/_feature_extractor_for_box_classifier_features"


class Held(Variables):
    """Variables that are not in a file."""

    def __init__(self, arrays, names=()):
        entries = {key: Entry(1, array.shape, 0, 0, array.nbytes, 0, False) for key, array in sorted(arrays.items())}
        super().__init__(Path("held/ckpt-0"), entries, 1)
        self.arrays, self.full_names = arrays, dict(names)

    def __getitem__(self, key):
        return self.arrays[key]


@pytest.fixture(scope="module")
def arrays(values):
    """The variables of a detector on ResNet-50 with six classes, by key."""
    return {v.key: values(v.key, v.shape) for v in checkpoint_keys(50, 6)}


@pytest.fixture(scope="module")
def nameless(arrays):
    """Its checkpoint as after a training, with an optimizer, but without an object graph."""
    slot = f"{TRUNK}/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/momentum{SUFFIX}"
    more = {slot: np.zeros(3, np.float32), f"step{SUFFIX}": np.array(100), f"save_counter{SUFFIX}": np.array(2)}
    return Held(arrays | more)


def model(num_classes: int = 6, depth: int = 50, **tfod) -> TfodRCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TfodRCNN(TfodModelConfig(name=f"faster_rcnn_resnet{depth}_v1", tfod=tfod), num_classes)


@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize("share_boxes", [False, True])
def test_the_list_of_keys_is_the_model(depth, share_boxes):
    listed = checkpoint_keys(depth, 7, share_boxes, anchors=12)
    assert [v.key for v in listed] == sorted({v.key for v in listed})
    with torch.device("meta"):
        own = model(7, depth, share_boxes=share_boxes).state_dict()
    assert {v.name: tuple(to_tensorflow(torch.empty(own[v.name].shape)).shape) for v in listed} == {
        v.name: v.shape for v in listed
    }
    assert own.keys() == {v.name for v in listed}
    assert len(listed) == {50: 275, 101: 530, 152: 785}[depth]


def test_layers_are_numbered_as_keras_sorts_them():
    names = {v.key.removesuffix(SUFFIX): v.full_name for v in checkpoint_keys(101, 90)}
    numbered = {0: "conv1_conv/kernel", 1: "conv1_bn/gamma", 6: "conv2_block1_0_conv/kernel"}
    numbered |= {7: "conv2_block1_3_conv/kernel", 8: "conv2_block1_0_bn/gamma", 9: "conv2_block1_3_bn/gamma"}
    numbered |= {10: "conv2_block2_1_conv/kernel", 22: "conv3_block1_1_conv/kernel", 187: "conv4_block23_3_bn/gamma"}
    for number, name in numbered.items():
        assert names[f"{TRUNK}/layer_with_weights-{number}/{name.rpartition('/')[2]}"] == name
    assert names[f"{CONV5}/layer_with_weights-0/kernel"] == "conv5_block1_1_conv/kernel"
    assert names[f"{CONV5}/layer_with_weights-19/gamma"] == "conv5_block3_3_bn/gamma"
    assert f"{TRUNK}/layer_with_weights-188/kernel" not in names


def test_by_the_names_that_tensorflow_kept(zoo_folder, values):
    weights, facts = to_state_dict(read_checkpoint(zoo_folder()))
    assert (facts.depth, facts.num_classes, facts.share_boxes, facts.anchors, facts.by_order) == (50, 6, False, 12, "")
    assert facts.text() == "ResNet-50 V1, 6 classes"
    assert set(facts.ignored) == {GRAPH, f"save_counter{SUFFIX}"}
    for variable in checkpoint_keys(50, 6):
        value = values(variable.key, variable.shape)
        assert np.array_equal(to_tensorflow(weights[variable.name]), value)
        assert torch.equal(to_torch(value), weights[variable.name])
    kernel = values(f"{TRUNK}/layer_with_weights-4/kernel{SUFFIX}", (3, 3, 64, 64))
    assert weights["backbone.conv2.0.conv2.weight"][5, 7, 0, 2] == kernel[0, 2, 7, 5]
    assert weights["predictor.classes.weight"].shape == (7, 2048)


def test_by_order_where_there_are_no_names(nameless, arrays):
    weights, facts = to_state_dict(nameless)
    assert (facts.depth, facts.num_classes) == (50, 6)
    assert facts.text() == (
        "ResNet-50 V1, 6 classes; layers told apart by their order, because the object graph names 0 of their 265 "
        "variables"
    )
    assert {v.name: v.key for v in checkpoint_keys(50, 6)}.keys() == weights.keys()
    assert all(np.array_equal(to_tensorflow(weights[v.name]), arrays[v.key]) for v in checkpoint_keys(50, 6))
    assert sorted(set(facts.ignored.values())) == [
        "TensorFlow's bookkeeping",
        "state of the training, which no start takes over",
    ]


def test_names_count_more_than_the_order(arrays):
    names = {v.key: v.full_name for v in checkpoint_keys(50, 6)}
    for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
        one, other = (f"{TRUNK}/layer_with_weights-{number}/{leaf}{SUFFIX}" for number in (8, 9))
        names[one], names[other] = names[other], names[one]
    names = {key: f"replica/{name}_1/kernel:0" if "RPNConv" in name else name for key, name in names.items()}
    weights, facts = to_state_dict(Held(arrays, names))
    assert facts.by_order == ""
    shortcut = arrays[f"{TRUNK}/layer_with_weights-9/gamma{SUFFIX}"]
    assert np.array_equal(weights["backbone.conv2.0.norm0.weight"].numpy(), shortcut)


def test_a_classifier(values):
    """An image classifier numbers all five stages through, and has a layer of its own."""
    keys, names = {}, {}
    for variable in checkpoint_keys(50, 6):
        if "feature_extractor" not in variable.key:
            continue
        path, number, leaf = re.fullmatch(r"(.*)/layer_with_weights-(\d+)/(.*)", variable.key).groups()
        key = f"feature_extractor/layer_with_weights-{int(number) + 86 * (path == CONV5)}/{leaf}"
        keys[key], names[key] = values(variable.key, variable.shape), variable.full_name
    keys["feature_extractor/layer_with_weights-106/kernel" + SUFFIX] = np.zeros((2048, 10), np.float32)
    by_order, by_name = Held(keys), Held(keys, names)
    expected = {v.name: values(v.key, v.shape) for v in checkpoint_keys(50, 6)}
    for variables, said in ((by_order, "their order"), (by_name, "")):
        weights, facts = to_state_dict(variables)
        assert (facts.depth, facts.num_classes, facts.anchors) == (50, None, None)
        assert said in facts.text() and "no detection heads" in facts.text()
        assert len(weights) == 265
        assert all(np.array_equal(to_tensorflow(value), expected[name]) for name, value in weights.items())
    target = model()
    report = load_start(target, by_name, "classification")
    assert len(report.loaded) == 265 and len(report.new) == 10
    assert torch.equal(target.head.state_dict()["conv5.2.conv3.weight"], weights["head.conv5.2.conv3.weight"])
    with pytest.raises(ResightError, match="holds a backbone alone"):
        load_start(target, by_name, "full")


def test_a_detection_start_takes_the_backbone(nameless):
    target = model(3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    report = load_start(target, nameless, "detection")
    weights, _ = to_state_dict(nameless)
    for name, value in target.state_dict().items():
        backbone = name.startswith(("backbone.", "head."))
        assert torch.equal(value, weights[name] if backbone else before[name])
        assert (name in report.loaded) == backbone
    assert set(report.new.values()) == {"a detection start takes the backbone only"}
    text = report.text()
    assert "loaded 265 tensors (detection)" in text
    assert "newly initialised: rpn.conv.weight, rpn.conv.bias" in text
    assert "ignored: model/_first_stage_box_predictor_first_conv/layer_with_weights-0/kernel, " in text
    assert len(text.splitlines()) == 5


def test_a_full_start_takes_all_that_fits(nameless):
    variables = nameless
    weights, _ = to_state_dict(variables)
    target = model(6)
    report = load_start(target, variables, "full")
    assert len(report.loaded) == 275 and report.new == {}
    assert all(torch.equal(value, weights[name]) for name, value in target.state_dict().items())

    fewer = load_start(model(3), variables, "full")
    assert len(fewer.loaded) == 271
    assert set(fewer.new.values()) == {"class counts differ: 6 in the checkpoint, 3 in the model"}
    assert f"model/_mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/1/bias{SUFFIX}" in (
        fewer.ignored
    )
    shared = load_start(model(6, share_boxes=True), variables, "full")
    assert shared.new == dict.fromkeys(
        ["predictor.box.weight", "predictor.box.bias"],
        "boxes are shared across classes on one side and not on the other",
    )
    anchors = load_start(model(6, anchor_scales=[1.0]), variables, "full")
    assert set(anchors.new.values()) == {"anchors differ: 12 a location in the checkpoint"}
    assert len(anchors.new) == 4


def test_another_depth_is_refused(nameless):
    with torch.device("meta"):
        other = model(6, 101)
    with pytest.raises(ResightError, match="checkpoint is of ResNet-50, and the model is not") as error:
        load_start(other, nameless)
    assert "faster_rcnn_resnet50_v1" in error.value.fix


@pytest.mark.parametrize("num_classes, columns, shared", [(6, 4, True), (1, 4, None), (6, 24, False)])
def test_boxes_shared_across_classes(arrays, num_classes, columns, shared):
    heads = {v.key: np.zeros(v.shape, np.float32) for v in checkpoint_keys(50, num_classes, columns == 4)}
    heads = {key: value for key, value in heads.items() if "_mask_rcnn" in key}
    _, facts = to_state_dict(Held(arrays | heads))
    assert (facts.num_classes, facts.share_boxes) == (num_classes, shared)
    assert ("shared across classes" in facts.text()) == bool(shared)


def test_heads_that_do_not_go_together(arrays):
    key = f"model/_mask_rcnn_box_predictor/_box_prediction_head/_box_encoder_layers/1/bias{SUFFIX}"
    wrong = Held(arrays | {key: np.zeros(20, np.float32)})
    with pytest.raises(ResightError, match=r"do not go together: predictor\.box"):
        to_state_dict(wrong)
    lacking = Held({name: array for name, array in arrays.items() if name != key})
    with pytest.raises(ResightError, match=r"lacks a part of the detection heads: predictor\.box\.bias"):
        to_state_dict(lacking)


@pytest.mark.parametrize(
    "keys, what",
    [
        (["model/_feature_extractor/_bifpn_stage/x/kernel", "model/_box_predictor/x/bias"], "EfficientDet"),
        (["model/_prediction_head_dict/object_center/0/kernel", "model/_feature_extractor/x/kernel"], "CenterNet"),
        (["model/_box_predictor/_base_tower/kernel", "model/_feature_extractor/x/kernel"], "SSD"),
        ([f"{TRUNK}/layer_with_weights-0/kernel", "model/_mask_rcnn_box_predictor/_third_stage_heads/x"], "Mask R-CNN"),
        ([f"{TRUNK}/_coarse_feature_layers/top_down/0/kernel"], "Faster R-CNN with FPN"),
        ([f"{TRUNK}/layer_with_weights-0/kernel"], "Faster R-CNN with another backbone than ResNet V1"),
        (["dense/kernel"], "not one of TFOD’s that is known"),
    ],
)
def test_another_architecture_is_named(keys, what):
    variables = {key + SUFFIX: np.zeros(1, np.float32) for key in keys}
    with pytest.raises(ResightError, match=f"of another architecture: {what}"):
        to_state_dict(Held(variables))


@pytest.mark.parametrize("root", ["resnet_v1_101", "FirstStageFeatureExtractor/resnet_v1_101"])
def test_tf1_is_named(root):
    variables = {f"{root}/conv1/weights": np.zeros(1, np.float32), "global_step": np.array(3)}
    with pytest.raises(ResightError, match=r"another architecture: TF1 \(slim, resnet_v1_101\)"):
        to_state_dict(Held(variables))


def test_an_incomplete_backbone_is_named(arrays):
    key = f"{TRUNK}/layer_with_weights-40/kernel{SUFFIX}"
    some = {name: array for name, array in arrays.items() if name != key}
    names = {v.key: v.full_name for v in checkpoint_keys(50, 6) if v.key != key}
    with pytest.raises(ResightError, match="ResNet V1, but incomplete or with other shapes"):
        to_state_dict(Held(some, names))
