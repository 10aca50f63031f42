"""From a configuration to a model of either dialect."""

from __future__ import annotations

import torch

from ..config.tree import ModelConfig
from ..detection.anchors import AnchorSettings
from ..errors import ResightError, listed
from ..fpn import build as fpn
from ..fpn.faster_rcnn import FasterRCNN
from ..tfod import build as tfod
from ..tfod.faster_rcnn import TfodRCNN
from ..tfod.specs import SPECS as TFOD_SPECS

Model = FasterRCNN | TfodRCNN


def default_anchors(config: ModelConfig) -> AnchorSettings:
    """The anchors a model has when they are not fitted to a data set; TFOD's models always have their own."""
    return (tfod if config.is_tfod else fpn).default_anchors(config)


def level_strides(config: ModelConfig) -> list[int]:
    """Nominal strides of the feature maps that carry anchors, the pooled one included."""
    return (tfod if config.is_tfod else fpn).level_strides(config)


def check_name(name: str) -> None:
    """
    Raises:
        ResightError: no model is called ``name``.
    """
    if name not in TFOD_SPECS:
        fpn.check_name(name, TFOD_SPECS)


def build_model(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> Model:
    """The model with random weights, on the CPU.

    Args:
        num_classes: without background.
        anchors: of the RPN; by default the model's own.

    Raises:
        ResightError: the name is not known, or has no features at the strides needed.
    """
    if config.is_tfod:
        return tfod.build_tfod(config, num_classes)
    check_name(config.name)
    return fpn.build_fpn(config, num_classes, anchors)


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
