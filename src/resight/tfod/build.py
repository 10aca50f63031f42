"""From a configuration to a model of the TFOD dialect."""

from __future__ import annotations

from ..config.tree import ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.heads import as_channels_last
from ..errors import ResightError, listed
from .faster_rcnn import TfodRCNN
from .parts import anchor_settings
from .specs import SPECS


def default_anchors(config: ModelConfig) -> AnchorSettings:
    """The model's anchors; they are always those of its configuration."""
    return anchor_settings(config.tfod)


def level_strides(config: ModelConfig) -> list[int]:
    """The stride of the one feature map."""
    return [SPECS[config.name].stride]


def check_name(name: str) -> None:
    """
    Raises:
        ResightError: no model of this dialect is called ``name``.
    """
    if name not in SPECS:
        raise ResightError(f"unknown model '{name}'", where="model.name", fix=f"There are {listed(SPECS)}.")


def build_tfod(config: ModelConfig, num_classes: int) -> TfodRCNN:
    """The model with random weights, on the CPU; ``num_classes`` is without background."""
    model = TfodRCNN(config, num_classes)
    as_channels_last(model)
    return model.train()
