"""TFOD's variables and our weights: which is which, and how one becomes the other.

Checkpoints number layers as keras sorts them: the parts of a projection shortcut lie between those of the block's third
convolution. Equal shapes are easily swapped, so the layers' own names decide where the object graph has them.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ResightError, listed
from ..specs import BLOCKS
from .reader import GRAPH, SUFFIX, Variables

log = logging.getLogger(__name__)

_TRUNK = "model/_feature_extractor_for_proposal_features"  # conv1 .. conv4
_CONV5 = "model/_feature_extractor_for_box_classifier_features"
_CLASSIFIER = "feature_extractor"  # of an image classifier: conv1 .. conv5
_RPN = "model/_first_stage_box_predictor"
_RPN_HEADS = f"{_RPN}/_prediction_heads"
_BOX = "model/_mask_rcnn_box_predictor"
_HEAD, _DENSE = "FirstStageBoxPredictor/Convolutional", "mask_rcnn_keras_box_predictor/mask_rcnn"
# Our module: the path of its variables in a checkpoint, the name that TFOD's layer gave them.
_HEADS = {
    "rpn.conv": (f"{_RPN}_first_conv/layer_with_weights-0", "RPNConv"),
    "rpn.box": (f"{_RPN_HEADS}/box_encodings/0/_box_encoder_layers/0", f"{_HEAD}BoxHead_0/BoxEncodingPredictor"),
    "rpn.objectness": (
        f"{_RPN_HEADS}/class_predictions_with_background/0/_class_predictor_layers/0",
        f"{_HEAD}ClassHead_0/ClassPredictor",
    ),
    "predictor.box": (
        f"{_BOX}/_box_prediction_head/_box_encoder_layers/1",
        f"{_DENSE}_box_head/BoxEncodingPredictor_dense",
    ),
    "predictor.classes": (
        f"{_BOX}/_class_prediction_head/_class_predictor_layers/1",
        f"{_DENSE}_class_head/ClassPredictor_dense",
    ),
}
_PARAMETERS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
               "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip
_LAYER_NAME = re.compile(
    r"(?:.*/)?(conv1|conv[2-5]_block\d+_[0-3])_(conv|bn)(?:_\d+)?/(kernel|gamma|beta|moving_mean|moving_variance)(?::0)?"
)
StartType = Literal["detection", "full", "classification"]


@dataclass(frozen=True)
class Variable:
    """A variable of TFOD's model: its checkpoint key, our name of it, its layer's name for it, its shape in
    TensorFlow's layout (kernels ``[height, width, in, out]`` and ``[in, out]``)."""

    key: str
    name: str
    full_name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What a checkpoint is of, by its names and shapes.

    ``num_classes``, ``anchors`` (a location) and ``share_boxes`` are None where it has no such head; ``share_boxes``
    also for a single class, where a shared box head looks like any. ``by_order`` says why the layers were told apart by
    their order, "" where by their names; ``ignored`` has the reason for each variable that is none of our weights.
    """

    depth: int
    num_classes: int | None
    share_boxes: bool | None
    anchors: int | None
    by_order: str
    ignored: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        heads = f"{self.num_classes} classes" if self.num_classes is not None else "no detection heads"
        shared = ", boxes shared across classes" if self.share_boxes else ""
        order = f"; layers told apart by their order, because {self.by_order}" if self.by_order else ""
        return f"ResNet-{self.depth} V1, {heads}{shared}{order}"


def checkpoint_keys(depth: int, num_classes: int, share_boxes: bool = False, anchors: int = 12) -> list[Variable]:
    """All variables of TFOD's Faster R-CNN ResNet V1, sorted by key: what a checkpoint of it has beside the object
    graph and the ``save_counter``."""
    boxes = 4 if share_boxes else 4 * num_classes
    kernels = ((3, 3, 1024, 512), (1, 1, 512, 4 * anchors), (1, 1, 512, 2 * anchors), (2048, boxes),
               (2048, num_classes + 1))  # fmt: skip
    found = list(_resnet(depth, _TRUNK, _CONV5))
    for (module, (path, full_name)), kernel in zip(_HEADS.items(), kernels, strict=True):
        for leaf, shape in (("kernel", kernel), ("bias", kernel[-1:])):
            name = f"{module}.{_PARAMETERS[leaf]}"
            found.append(Variable(f"{path}/{leaf}{SUFFIX}", name, f"{full_name}/{leaf}", shape))
    return sorted(found, key=lambda variable: variable.key)


def to_torch(values: np.ndarray) -> Tensor:
    """A variable as float32 in PyTorch's layout."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).float()
    return (tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.t()).contiguous()


def to_tensorflow(tensor: Tensor) -> np.ndarray:
    """The inverse of :func:`to_torch`."""
    tensor = tensor.detach().cpu()
    return (tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.t()).contiguous().numpy()


def to_state_dict(variables: Variables) -> tuple[dict[str, Tensor], Facts]:
    """The weights under our names, all that the checkpoint has: of a detector, or of a classifier's backbone alone.

    Raises:
        ResightError: it is of another architecture (says which), incomplete, or a tensor is damaged.
    """
    keys, facts = examine(variables)
    return {name: to_torch(variables[key]) for name, key in keys.items()}, facts


def examine(variables: Variables) -> tuple[dict[str, str], Facts]:
    """Which key holds which of our weights, and what the checkpoint is of, by names and shapes alone; raises as
    :func:`to_state_dict`."""
    resnet, depth, by_order = _map_resnet(variables)
    heads = {
        f"{module}.{_PARAMETERS[leaf]}": f"{path}/{leaf}{SUFFIX}"
        for module, (path, _) in _HEADS.items()
        for leaf in ("kernel", "bias")
    }
    missing = [name for name, key in heads.items() if key not in variables]
    if 0 < len(missing) < len(heads):
        message = f"the checkpoint lacks a part of the detection heads: {listed(missing)}"
        raise ResightError(message, where=variables.prefix)
    keys = resnet
    found: tuple[int | None, bool | None, int | None] = (None, None, None)
    if not missing:
        keys = {**resnet, **heads}
        found = _heads({name: variables.entries[key].shape for name, key in heads.items()}, variables)
    used = set(keys.values())
    ignored = {key: _why_ignored(key) for key in variables if key not in used}
    return keys, Facts(depth, *found, by_order, ignored)


@dataclass(frozen=True)
class StartReport:
    """What became of each of the model's tensors (``loaded``, or ``new`` with the reason) and of each of the
    checkpoint's variables that was not taken (``ignored`` with the reason)."""

    start_type: StartType
    where: str
    facts: Facts
    loaded: tuple[str, ...]
    new: dict[str, str]
    ignored: dict[str, str]

    def text(self) -> str:
        lines = [f"{self.where}: {self.facts.text()}; loaded {len(self.loaded)} tensors ({self.start_type})"]
        for title, tensors in (("newly initialised", self.new), ("ignored", self.ignored)):
            reasons = defaultdict[str, list[str]](list)
            for name, reason in tensors.items():
                reasons[reason].append(name.removesuffix(SUFFIX))
            lines += [f"{title}: {listed(names, 4)} ({reason})" for reason, names in reasons.items()]
        return "\n".join(lines)


def load_start(model: nn.Module, variables: Variables, start_type: StartType = "detection") -> StartReport:
    """Puts a checkpoint's weights into a model of this dialect, as TFOD's ``fine_tune_checkpoint_type`` says:
    "detection" and "classification" take the whole ResNet, "full" also the heads, as far as they fit.

    Raises:
        ResightError: see :func:`to_state_dict`; or the ResNet is of another depth; or "full" and there are no heads.
    """
    where = str(variables.prefix)
    weights, facts = to_state_dict(variables)
    own = model.state_dict()
    unfit = [name for name in own if name.startswith(("backbone.", "head.")) and name not in weights]
    surplus = [name for name in weights if name not in own]
    if unfit or surplus:
        odd = f"{listed(unfit or surplus, 3)} {'is missing' if unfit else 'has no place'}"
        fix = f"Set model.name = faster_rcnn_resnet{facts.depth}_v1, or choose another start."
        message = f"the checkpoint is of ResNet-{facts.depth}, and the model is not: {odd}"
        raise ResightError(message, where=where, fix=fix)
    if start_type == "full" and facts.num_classes is None:
        fix = "Set model.start_type = classification."
        raise ResightError("holds a backbone alone, and a full start needs the heads too", where=where, fix=fix)
    new = {}
    for name, value in own.items():
        if start_type != "full" and not name.startswith(("backbone.", "head.")):
            new[name] = f"a {start_type} start takes the backbone only"
        elif weights[name].shape != value.shape:
            new[name] = _why_unfit(name, weights[name], value, facts)
    keys = {variable.name: variable.key for variable in checkpoint_keys(facts.depth, 1)}
    ignored = facts.ignored | {keys[name]: reason for name, reason in new.items() if name in weights}
    loaded = {name: weights[name] for name in own if name not in new}
    model.load_state_dict(loaded, strict=False)
    report = StartReport(start_type, where, facts, tuple(loaded), new, ignored)
    log.info("start     %s", report.text())
    return report


def _why_unfit(name: str, stored: Tensor, own: Tensor, facts: Facts) -> str:
    if name.startswith("rpn."):
        return f"anchors differ: {facts.anchors} a location in the checkpoint"
    if name.startswith("predictor.box") and min(len(stored), len(own)) == 4:
        return "boxes are shared across classes on one side and not on the other"
    classes = len(own) - 1 if name.startswith("predictor.classes") else len(own) // 4
    return f"class counts differ: {facts.num_classes} in the checkpoint, {classes} in the model"


def _why_ignored(key: str) -> str:
    if key == GRAPH or key.startswith("save_counter"):
        return "TensorFlow's bookkeeping"
    if "/.OPTIMIZER_SLOT/" in key or key.startswith(("optimizer/", "step/", "global_step/")):
        return "state of the training, which no start takes over"
    return "no part of the detector"


def _resnet(depth: int, trunk: str, conv5: str) -> Iterator[Variable]:
    """The variables of the ResNet. ``trunk`` and ``conv5`` may be one path, whose layers are then counted on."""
    count = {trunk: 0, conv5: 0}
    for layer, shape in _layers(depth):
        path = conv5 if layer.startswith("conv5") else trunk
        for leaf in ("kernel",) if layer.endswith("conv") else ("gamma", "beta", "moving_mean", "moving_variance"):
            key = f"{path}/layer_with_weights-{count[path]}/{leaf}{SUFFIX}"
            yield Variable(key, _our_name(layer, leaf), f"{layer}/{leaf}", shape)
        count[path] += 1


def _layers(depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The layers in keras' order, each with the shape of its variables."""
    yield "conv1_conv", (7, 7, 3, 64)
    yield "conv1_bn", (64,)
    channels = 64
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        width = 32 << stage - 1
        for block in range(1, blocks + 1):
            shapes = {"1": (1, 1, channels, width), "2": (3, 3, width, width), "3": (1, 1, width, 4 * width),
                      "0": (1, 1, channels, 4 * width)}  # fmt: skip
            for part in ("1_conv", "1_bn", "2_conv", "2_bn", "0_conv", "3_conv", "0_bn", "3_bn"):
                if block == 1 or part[0] != "0":
                    shape = shapes[part[0]]
                    yield f"conv{stage}_block{block}_{part}", shape if part.endswith("conv") else shape[-1:]
            channels = 4 * width


def _our_name(layer: str, leaf: str) -> str:
    """`conv4_block6_2_bn`, `gamma` -> `backbone.conv4.5.norm2.weight`."""
    stage, *rest = layer.split("_")
    kind = "norm" if rest[-1] == "bn" else "conv"
    if stage == "conv1":
        return f"backbone.{kind}1.{_PARAMETERS[leaf]}"
    block = int(rest[0].removeprefix("block")) - 1
    part = "head" if stage == "conv5" else "backbone"
    return f"{part}.{stage}.{block}.{kind}{rest[1]}.{_PARAMETERS[leaf]}"


def _map_resnet(variables: Variables) -> tuple[dict[str, str], int, str]:
    """Our name -> key for the ResNet, its depth, and why the layers' order was asked ("": their names tell)."""
    named: dict[str, str] = {}
    for key, full_name in sorted(variables.full_names.items(), key=lambda item: not item[0].startswith("model/")):
        match = _LAYER_NAME.fullmatch(full_name)
        if match and key.endswith(SUFFIX) and "/.OPTIMIZER_SLOT/" not in key:
            named.setdefault(_our_name(f"{match[1]}_{match[2]}", match[3]), key)
    numbered = {
        depth: {variable.name: variable.key for variable in _resnet(depth, trunk, conv5)}
        for trunk, conv5 in ((_TRUNK, _CONV5), (_CLASSIFIER, _CLASSIFIER))
        if f"{trunk}/layer_with_weights-0/kernel{SUFFIX}" in variables
        for depth in BLOCKS
    }
    for depth in sorted(BLOCKS, reverse=True):  # the deepest that is there whole: others have fewer of the same names
        shapes = {variable.name: variable.shape for variable in _resnet(depth, "", "")}
        if shapes.keys() <= named.keys():
            mapped, by_order = {name: named[name] for name in shapes}, ""
        elif depth in numbered and all(key in variables for key in numbered[depth].values()):
            mapped, by_order = numbered[depth], f"the object graph names {len(named)} of their {len(shapes)} variables"
        else:
            continue
        if all(variables.entries[key].shape == shapes[name] for name, key in mapped.items()):
            return mapped, depth, by_order
    raise _other_architecture(variables, named)


def _heads(shapes: Mapping[str, tuple[int, ...]], variables: Variables) -> tuple[int, bool | None, int]:
    """Number of classes, whether they share boxes (None of a single one), and anchors a location."""
    columns, box_columns, rpn_columns = (
        (shapes[f"{name}.bias"] or (0,))[-1] for name in ("predictor.classes", "predictor.box", "rpn.box")
    )
    classes, anchors = columns - 1, rpn_columns // 4
    shared = None if classes == 1 else box_columns == 4
    expected = {v.name: v.shape for v in checkpoint_keys(50, max(classes, 1), bool(shared), anchors)}
    if wrong := [f"{name} {list(shape)}" for name, shape in shapes.items() if shape != expected[name]]:
        fix = "Are these heads of TFOD's Faster R-CNN ResNet V1 with its own box and class predictors?"
        message = f"the shapes of its detection heads do not go together: {listed(wrong)}"
        raise ResightError(message, where=variables.prefix, fix=fix)
    return classes, shared, anchors


def _other_architecture(variables: Variables, named: Mapping[str, str]) -> ResightError:
    """An error that says what the checkpoint is of, as far as its names tell."""
    keys = "\n".join([*variables, *variables.full_names.values()])
    known = (
        (r"_bifpn|efficientnet", "EfficientDet"),
        (r"_prediction_head_dict|object_center|hourglass", "CenterNet"),
        (r"_mask_rcnn_box_predictor.*mask|_third_stage", "Mask R-CNN"),
        (r"_feature_extractor_for_proposal_features.*(?:top_down|_fpn)|FeatureMaps/", "Faster R-CNN with FPN"),
        (r"_feature_extractor_for_proposal_features", "Faster R-CNN with another backbone than ResNet V1"),
        (r"model/_box_predictor", "SSD"),
    )
    what = next((name for pattern, name in known if re.search(pattern, keys, re.IGNORECASE)), "")
    if SUFFIX not in keys:
        slim = re.search(r"(?:resnet|inception|mobilenet|vgg|nasnet|pnasnet)_?v?\w*", keys, re.IGNORECASE)
        what = f"TF1 (slim{f', {slim[0]}' if slim else ''})"
    if what.endswith("ResNet V1") and named:
        what = "Faster R-CNN ResNet V1, but incomplete or with other shapes"
    roots = sorted({"/".join(key.split("/")[:2]) for key in variables if key != GRAPH})
    message = f"the checkpoint is of another architecture: {what or 'not one of TFOD’s that is known'}"
    has = listed(roots, 6) or "no variables"
    fix = f"Faster R-CNN ResNet-50, -101 and -152 V1 of TF2 can be read; this one has {has}."
    return ResightError(message, where=variables.prefix, fix=fix)
