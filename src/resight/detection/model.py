"""What training, inference and evaluation know of a model of either dialect, and its weights put into another."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import ResightError, listed
from ..input.target import Target
from .anchors import AnchorSettings
from .boxes import Instances
from .processes import SINGLE_PROCESS, Shared


class DetectionModel(nn.Module, ABC):
    """``model(images, targets) -> losses``; ``model(images) -> list of Instances``."""

    norm_eps: float | None = None  # of its BatchNorm, where that is not the architecture's own

    @property
    @abstractmethod
    def class_heads(self) -> dict[str, bool]:
        """The heads with a row (or four) for each class, by their names, and whether the first is background's."""

    @property
    @abstractmethod
    def anchors(self) -> AnchorSettings:
        """Of its RPN."""

    @abstractmethod
    def resize(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` of any size, uint8 or float -> float at the network's size, without padding."""

    @abstractmethod
    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, with padding, of an image at the network if it is alone in its batch. Where they are the
        same, images may share a batch: in each the same is found."""

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None, shared: Shared = SINGLE_PROCESS
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses when targets are given, detections else."""
        return self.detect(images) if targets is None else self.losses(images, targets, shared)

    @abstractmethod
    def detect(self, images: list[Tensor]) -> list[Instances]:
        """What is in images ``[3, H, W]`` RGB, uint8 or float, of any size: on the CPU, boxes in their own pixels."""

    @abstractmethod
    def proposals(self, image: Tensor) -> Tensor:
        """``[P, 4]`` xyxy: what the first stage proposes in an image ``[3, H, W]`` of any size, in its own pixels."""

    @abstractmethod
    def losses(self, images: list[Tensor], targets: list[Target], shared: Shared = SINGLE_PROCESS) -> dict[str, Tensor]:
        """The losses of images ``[3, H, W]`` that are at the network's size.

        Args:
            targets: on the CPU, wherever the images are.
            shared: where other processes have other images of the same batch.
        """

    @abstractmethod
    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        """Changes the last suppression: the IoU above which the weaker box goes, and whether classes compete."""


def load_detector(
    model: DetectionModel,
    weights: Mapping[str, Tensor],
    where: str,
    had: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> list[str]:
    """Puts a trained detector's weights into ``model``; returns the names of tensors that stay new, at least in part.

    Everything but the class heads must be there and fit. Of the class heads, background and the rows of classes that
    both know by name are taken over, where the names ``had`` by the weights and ``classes`` of the model are given.

    Raises:
        ResightError: the weights are of another architecture; says where they differ.
    """
    own = model.state_dict()
    kinds = {key: key.rpartition(".")[0] for key in own}
    heads = {key: model.class_heads[kind] for key, kind in kinds.items() if kind in model.class_heads}
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked") and key not in weights}
    missing = [key for key in own if key not in weights and key not in counters and key not in heads]
    unfit = [key for key in own if key in weights and key not in heads and weights[key].shape != own[key].shape]
    if missing or unfit:
        what = f"lack {listed(missing, 3)}" if missing else f"have other shapes: {listed(unfit, 3)}"
        raise ResightError(
            f"the weights are of another model than model.name says: they {what}",
            where=where,
            fix="Choose the same model.name, or leave it out to take the start's.",
        )
    model.load_state_dict({key: weights[key] for key in own if key in weights and key not in heads} | counters, False)
    if had is None or classes is None:
        return list(heads)
    rows = [(had.index(name), i) for i, name in enumerate(classes) if name in had]
    with torch.no_grad():
        for key, background in heads.items():
            one_box_for_all_classes = not background and len(own[key]) == len(weights[key]) == 4 and len(classes) > 1
            if one_box_for_all_classes:
                model.get_parameter(key).copy_(weights[key])
                continue
            pairs = [(0, 0), *((a + 1, b + 1) for a, b in rows)] if background else rows
            new = own[key].unflatten(0, (len(classes) + background, -1))
            old = weights[key].unflatten(0, (len(had) + background, -1))
            for source, target in pairs:
                new[target] = old[source]
            model.get_parameter(key).copy_(new.flatten(0, 1))
    return [] if len(rows) == len(classes) else list(heads)
