"""What training, inference and evaluation know of a model of either dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from ..input.target import Target
from .anchors import AnchorSettings
from .processes import SINGLE_PROCESS, Shared


class DetectionModel(nn.Module, ABC):
    """``model(images, targets) -> losses``; ``model(images) -> list of Instances``."""

    # Heads with a row (or four) for each class, by their names, and whether the first is background's.
    class_heads: ClassVar[dict[str, bool]]
    norm_eps: float | None = None  # of its BatchNorm, where that is not the architecture's own

    @property
    @abstractmethod
    def anchors(self) -> AnchorSettings:
        """Of its RPN."""

    @abstractmethod
    def resize(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` of any size, uint8 or float -> float at the network's size, without padding."""

    @abstractmethod
    def losses(self, images: list[Tensor], targets: list[Target], shared: Shared = SINGLE_PROCESS) -> dict[str, Tensor]:
        """The losses of images ``[3, H, W]`` that are at the network's size."""

    @abstractmethod
    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        """Changes the last suppression: the IoU above which the weaker box goes, and whether classes compete."""
