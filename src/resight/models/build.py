"""From a configuration to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import ResightError, listed
from . import backbones
from .anchors import AnchorSettings
from .faster_rcnn import FasterRCNN, InputSettings, Limits
from .folding import fold_norms
from .heads import ConvFCHead, Predictor, RPNHead, TwoMLPHead, as_channels_last, set_norm_eps

TORCHVISION = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
# Fewer proposals and a narrower head than torchvision's: on a CPU they cost half of a step and bring nothing
# measurable on sets with a handful of objects an image.
LIGHT = Limits(rpn_before_nms=(1000, 500), rpn_after_nms=(500, 300), box_batch=128)
SCORE_FLOOR = 0.001  # of evaluation, DESIGN: every detection that can move a COCO number


def default_anchors(name: str) -> AnchorSettings:
    """The anchors a model has when they are not fitted to a data set."""
    if name.startswith("fasterrcnn_resnet50"):
        return AnchorSettings(((32,), (64,), (128,), (256,), (512,)))
    if name.startswith("fasterrcnn_mobilenet"):
        return AnchorSettings(((32, 64, 128, 256, 512),) * 3)
    return AnchorSettings(((16, 23), (32, 45), (64, 91), (128, 181)))


def level_strides(name: str) -> list[int]:
    """Nominal strides of the pyramid's levels, the pooled one included."""
    if name.startswith("fasterrcnn_resnet50"):
        return [4, 8, 16, 32, 64]
    return [32, 32, 64] if name.startswith("fasterrcnn_mobilenet") else [8, 16, 32, 64]


def build_model(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> FasterRCNN:
    """The model with random weights, on the CPU.

    Args:
        num_classes: without background.
        anchors: of the RPN; by default the model's own.

    Raises:
        ResightError: the name is not known, or has no features at the strides needed.
    """
    name, anchors = config.name, anchors or default_anchors(config.name)
    inputs = InputSettings(config.min_size, config.max_size)
    limits = Limits()
    box_head: nn.Module
    if name.startswith("fasterrcnn_resnet50"):
        v2 = name.endswith("_v2")
        backbone = backbones.resnet50(v2, config.freeze)
        rpn_head = RPNHead(256, anchors.per_location, depth=2 if v2 else 1)
        box_head, width = (ConvFCHead if v2 else TwoMLPHead)(256, 7, 1024), 1024
    elif name in TORCHVISION:
        backbone = backbones.mobilenet_v3_large(config.freeze)
        rpn_head = RPNHead(256, anchors.per_location)
        box_head, width = TwoMLPHead(256, 7, 1024), 1024
        before = (2000, 150) if "_320_" in name else (2000, 1000)
        limits = Limits(rpn_score=0.05, rpn_before_nms=before, rpn_after_nms=before)
    else:
        backbone = backbones.timm_backbone(name, config.freeze)
        inputs = InputSettings(config.min_size, config.max_size, *_mean_std(name))
        rpn_head = RPNHead(backbone.out_channels, anchors.per_location)
        box_head, width = TwoMLPHead(backbone.out_channels, 7, 512), 512
        limits = LIGHT
    model = FasterRCNN(backbone, rpn_head, box_head, Predictor(width, num_classes), inputs, anchors, limits)
    model.eval()
    fold_norms(model.backbone, torch.zeros(1, 3, 64, 64))
    if name == "fasterrcnn_resnet50_fpn_v2":
        fold_norms(nn.Sequential(*list(box_head.children())[:4]), torch.zeros(1, 256, 7, 7))
    as_channels_last(model)
    return model.train()


def load_pretrained(model: FasterRCNN, name: str) -> str:
    """Puts the published weights into ``model`` as far as they fit and says what they are.

    The default backbone's come in a package; every other one's are downloaded once by timm or torchvision.
    """
    if name in TORCHVISION:
        return _load_coco(model, name)
    if name == "tf_efficientnet_lite0":
        source, weights = "ImageNet (packaged)", backbones.lite0_weights()
    else:
        import timm

        try:
            source, weights = "ImageNet (timm)", timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # hub, network and cache each raise their own kinds
            raise ResightError(
                f"cannot get the pretrained weights of '{name}': {error}",
                where="model.start",
                fix='Check the network, or set model.start = "none" or the path of a model.',
            ) from error
    body = model.backbone.body.state_dict()
    weights = {_flat(key, body): value for key, value in weights.items()}
    missing = [key for key in body if key not in weights]
    if missing:
        raise ResightError(f"the pretrained weights of '{name}' lack {listed(missing, 5)}", where="model.start")
    model.backbone.body.load_state_dict({key: weights[key] for key in body})
    return source


def load_matching(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Loads the tensors whose name and shape the model has; returns the names it left as they were."""
    own = model.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]


def _load_coco(model: FasterRCNN, name: str) -> str:
    from torchvision.models import get_model_weights

    weights = (
        get_model_weights(name).COCO_V1 if name != "fasterrcnn_resnet50_fpn_v2" else get_model_weights(name).DEFAULT
    )
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ResightError(
            f"cannot download the COCO weights of '{name}': {error}",
            where="model.start",
            fix='Check the network, or set model.start = "none" or the path of a model.',
        ) from error
    load_matching(model, state)
    if name == "fasterrcnn_resnet50_fpn":
        # These weights were trained with BatchNorm whose epsilon was 0.
        set_norm_eps(model, 0.0)
    return "COCO (torchvision)"


def _mean_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    import timm

    known = timm.get_pretrained_cfg(name)
    if known is None:
        return InputSettings.mean, InputSettings.std
    return tuple(known.mean), tuple(known.std)


def _flat(key: str, body: Mapping[str, Tensor]) -> str:
    """timm flattens ``layers.0.`` to ``layers_0.`` in some feature extractors."""
    if key in body:
        return key
    head, _, tail = key.partition(".")
    second, _, rest = tail.partition(".")
    return f"{head}_{second}.{rest}"


def set_limits(model: FasterRCNN, **changes: Any) -> None:
    """Changes thresholds of a built model, for instance ``score`` for evaluation."""
    model.limits = replace(model.limits, **changes)


def device_of(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ResightError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResightError(
            f"device '{name}' cannot be used here", where="train.device", fix=str(error).splitlines()[0]
        ) from error
    return device
