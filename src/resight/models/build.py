"""From a configuration to a model."""

from __future__ import annotations

from dataclasses import replace

import timm
import torch
from torch import nn

from ..config.most_detections import MostDetections
from ..config.tree import TFOD_MODELS, ModelConfig, TfodConfig
from ..detection.anchors import AnchorSettings
from ..detection.folding import example, fold_batchnorm
from ..detection.heads import ConvFCHead, FPNBoxPredictor, RPNHead, TwoMLPHead, as_channels_last
from ..errors import ResightError, listed, nearest
from ..fpn import backbones
from ..fpn.faster_rcnn import FasterRCNN, InputSettings, RCNNConfig
from ..tfod.faster_rcnn import TfodRCNN
from ..tfod.parts import anchor_settings

Model = FasterRCNN | TfodRCNN

TORCHVISION = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
SCORE_FLOOR = 0.001  # detections below can hardly move a COCO number


def default_anchors(name: str, tfod: TfodConfig | None = None) -> AnchorSettings:
    """The anchors a model has when they are not fitted to a data set; TFOD's models always have their own."""
    if name in TFOD_MODELS:
        return anchor_settings(tfod or TfodConfig())
    if name.startswith("fasterrcnn_resnet50"):
        return AnchorSettings(((32,), (64,), (128,), (256,), (512,)))
    if name.startswith("fasterrcnn_mobilenet"):
        return AnchorSettings(((32, 64, 128, 256, 512),) * 3)
    return AnchorSettings(((16, 23), (32, 45), (64, 91), (128, 181)))


def level_strides(name: str) -> list[int]:
    """Nominal strides of the pyramid's levels, the pooled one included."""
    if name in TFOD_MODELS:
        return [16]
    if name.startswith("fasterrcnn_resnet50"):
        return [4, 8, 16, 32, 64]
    return [32, 32, 64] if name.startswith("fasterrcnn_mobilenet") else [8, 16, 32, 64]


def check_name(name: str) -> None:
    """
    Raises:
        ResightError: no model is called ``name``.
    """
    if name in (*TORCHVISION, *TFOD_MODELS) or timm.is_model(name):
        return
    known = [*TORCHVISION, *TFOD_MODELS, *timm.list_models()]
    example_names = "For instance tf_efficientnet_lite0, resnet50 or fasterrcnn_resnet50_fpn_v2."
    raise ResightError(f"unknown model '{name}'", where="model.name", fix=nearest(name, known) or example_names)


def build_model(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> Model:
    """The model with random weights, on the CPU.

    Args:
        num_classes: without background.
        anchors: of the RPN; by default the model's own.

    Raises:
        ResightError: the name is not known, or has no features at the strides needed.
    """
    if config.is_tfod:
        return _tfod_model(config, num_classes)
    name, anchors = config.name, anchors or default_anchors(config.name)
    most = MostDetections.of(config).image
    inputs = InputSettings(config.min_size, config.max_size)
    limits = RCNNConfig()
    check_name(name)
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
        proposals = (2000, 150) if "_320_" in name else (2000, 1000)
        limits = RCNNConfig(rpn_score=0.05, rpn_pre_nms_top_n=proposals, rpn_post_nms_top_n=proposals)
    else:
        backbone = backbones.timm_backbone(name, config.freeze)
        inputs = InputSettings(config.min_size, config.max_size, *_mean_std(name), antialias=True)
        rpn_head = RPNHead(backbone.out_channels, anchors.per_location)
        box_head, width = TwoMLPHead(backbone.out_channels, 7, 512), 512
        limits = _light(most)
    # Each detection needs a proposal, of which one of torchvision's models has 150.
    (first, before), (second, after) = limits.rpn_pre_nms_top_n, limits.rpn_post_nms_top_n
    after = max(after, most)
    limits = replace(limits, score=SCORE_FLOOR, detections=most, rpn_post_nms_top_n=(second, after))
    limits = replace(limits, rpn_pre_nms_top_n=(first, max(before, after // 2)))
    model = FasterRCNN(backbone, rpn_head, box_head, FPNBoxPredictor(width, num_classes), inputs, anchors, limits)
    model.eval()
    fold_batchnorm(model.backbone, example((1, 3, 64, 64)))
    if name == "fasterrcnn_resnet50_fpn_v2":
        fold_batchnorm(nn.Sequential(*list(box_head.children())[:4]), example((1, 256, 7, 7)))
    as_channels_last(model)
    return model.train()


def _light(most: int) -> RCNNConfig:
    """Fewer proposals and a narrower head than torchvision's: on a CPU they cost half of a step and bring nothing
    measurable on sets with a handful of objects an image. In inference they grow with the detections, above 100."""
    more = max(most / RCNNConfig.detections, 1)
    before, after = (1000, round(500 * more)), (500, round(300 * more))
    return RCNNConfig(rpn_pre_nms_top_n=before, rpn_post_nms_top_n=after, box_batch=128)


def _tfod_model(config: ModelConfig, num_classes: int) -> TfodRCNN:
    model = TfodRCNN(config, num_classes)
    as_channels_last(model)
    return model.train()


def _mean_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    known = timm.get_pretrained_cfg(name)
    if known is None:
        return InputSettings.mean, InputSettings.std
    return tuple(known.mean), tuple(known.std)


def device_of(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ResightError: the device does not exist here, or does not work.
    """
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    chosen = ("cuda" if len(there) > 1 else "cpu") if name == "auto" else name
    if chosen not in there and not (chosen == "cuda" and len(there) > 1):
        raise ResightError(f"there is no device '{name}' here", where="device", fix=f"Choose auto or {listed(there)}.")
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ResightError(f"the device cannot be used: {str(error).splitlines()[0]}", where=chosen) from error
    return torch.device(chosen)
