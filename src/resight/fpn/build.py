"""From a configuration to a model of the FPN dialect."""

from __future__ import annotations

from dataclasses import replace

import timm
from torch import nn

from ..config.tree import TFOD_MODELS, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.folding import example, fold_batchnorm
from ..detection.heads import ConvFCHead, FPNBoxPredictor, RPNHead, TwoMLPHead, as_channels_last
from ..errors import ResightError, nearest
from . import backbones
from .faster_rcnn import POOL_SIZE, RPN, FasterRCNN, InputSettings, RCNNConfig, RoIHeads
from .specs import TORCHVISION, FPNSpec, spec_of

SCORE_FLOOR = 0.001  # detections below can hardly move a COCO number


def default_anchors(config: ModelConfig) -> AnchorSettings:
    """The anchors of the model where they are not fitted to a data set."""
    return AnchorSettings(spec_of(config.name).anchor_sizes)


def level_strides(config: ModelConfig) -> list[int]:
    """Nominal strides of the pyramid's levels, the pooled one included."""
    return list(spec_of(config.name).strides)


def check_name(name: str) -> None:
    """
    Raises:
        ResightError: no model of this dialect is called ``name``.
    """
    if name in TORCHVISION or timm.is_model(name):
        return
    known = [*TORCHVISION, *TFOD_MODELS, *timm.list_models()]
    example_names = "For instance tf_efficientnet_lite0, resnet50 or fasterrcnn_resnet50_fpn_v2."
    raise ResightError(f"unknown model '{name}'", where="model.name", fix=nearest(name, known) or example_names)


def build_fpn(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> FasterRCNN:
    """The model with random weights, on the CPU.

    Args:
        num_classes: without background.
        anchors: of the RPN; by default the model's own.

    Raises:
        ResightError: the name is not known, or has no features at the strides needed.
    """
    check_name(config.name)
    spec = spec_of(config.name)
    anchors = anchors or default_anchors(config)
    # In this order: a seed makes the same weights of each part for ever.
    backbone = _backbone(spec, config.freeze)
    rpn = RPN(RPNHead(spec.pyramid_channels, anchors.per_location, spec.rpn_depth))
    box_head = (ConvFCHead if spec.norm else TwoMLPHead)(spec.pyramid_channels, POOL_SIZE, spec.box_width)
    roi_heads = RoIHeads(box_head, FPNBoxPredictor(spec.box_width, num_classes))
    model = FasterRCNN(backbone, rpn, roi_heads, _rcnn_config(spec, config, anchors))
    model.eval()
    fold_batchnorm(model.backbone, example((1, 3, 64, 64)))
    if spec.norm:
        fold_batchnorm(nn.Sequential(*list(box_head.children())[:4]), example((1, spec.pyramid_channels, 7, 7)))
    as_channels_last(model)
    return model.train()


def _backbone(spec: FPNSpec, freeze: int) -> backbones.Backbone:
    if spec.backbone == "resnet50":
        return backbones.resnet50(spec.norm, freeze)
    if spec.backbone == "mobilenet_v3_large":
        return backbones.mobilenet_v3_large(freeze)
    return backbones.timm_backbone(spec.name, freeze, spec.pyramid_channels)


def _rcnn_config(spec: FPNSpec, config: ModelConfig, anchors: AnchorSettings) -> RCNNConfig:
    """Each detection needs a proposal, of which a model may have fewer by default than detections are asked for."""
    inputs = InputSettings(config.min_size, config.max_size, antialias=spec.backbone == "timm")
    if spec.backbone == "timm" and (known := timm.get_pretrained_cfg(spec.name)):
        inputs = replace(inputs, mean=tuple(known.mean), std=tuple(known.std))
    detections = config.most.image
    (pre_training, pre), (post_training, post) = spec.rpn_pre_nms_top_n, spec.rpn_post_nms_top_n
    pre_factor, post_factor = spec.top_n_per_detection
    return RCNNConfig(
        inputs,
        anchors,
        rpn_pre_nms_top_n=(pre_training, max(pre, int(pre_factor * detections))),
        rpn_post_nms_top_n=(post_training, max(post, post_factor * detections)),
        rpn_score=spec.rpn_score,
        box_batch=spec.box_batch,
        score=SCORE_FLOOR,
        detections=detections,
    )
