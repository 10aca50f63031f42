"""What a model is given beside an image, and the size an image has at the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.tree import ModelConfig


@dataclass(frozen=True)
class Target:
    """The objects of one image, in pixels of the tensor that goes into the model.

    boxes ``[N, 4]`` float32 xyxy, labels ``[N]`` int64 from 0, crowd ``[N]`` bool; ``seed`` makes the minibatch draws.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    seed: int = 0

    @classmethod
    def empty(cls) -> Target:
        """Of an image without objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))

    def to(self, device: torch.device) -> Target:
        return Target(self.boxes.to(device), self.labels.to(device), self.crowd.to(device), self.seed)


def crop_size(height: int, width: int, config: ModelConfig) -> tuple[int, int]:
    """Height and width of what training takes of an image: all of it, or a tile."""
    tile = config.tile or max(height, width)
    return min(height, tile), min(width, tile)


def input_size(height: int, width: int, config: ModelConfig) -> tuple[int, int]:
    """Height and width at the network of what training takes of an image, as the model's dialect has it."""
    return config.fit_size(*crop_size(height, width, config))


def input_sizes(images: np.ndarray, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """``[K, 2]`` heights and widths at the network of the different sizes among ``images`` ``[N, 2]`` (width, height),
    and ``[K]`` how many images have each: of many images few differ in size."""
    kinds, counts = np.unique(images, axis=0, return_counts=True)
    return np.array([input_size(int(height), int(width), config) for width, height in kinds]), counts


def input_scale(height: int, width: int, config: ModelConfig) -> tuple[float, float]:
    """Factors, down and across, from pixels of an image to pixels at the network."""
    (rows, columns), (down, across) = input_size(height, width, config), crop_size(height, width, config)
    return rows / down, columns / across


def to_input_frame(boxes: np.ndarray, images: np.ndarray, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sizes ``[N, 2]`` (width, height) and centres ``[N, 2]`` at the network of ``boxes`` ``[N, 4]`` (xyxy pixels) in
    images of the sizes ``[N, 2]`` (width, height)."""
    # Of many images few differ in size, and sorting one number is faster than sorting pairs.
    kinds, which = np.unique(images.astype(np.int64) @ (1 << 32, 1), return_inverse=True)
    sizes = [divmod(kind, 1 << 32) for kind in kinds.tolist()]
    scales = [input_scale(height, width, config)[::-1] * 2 for width, height in sizes]
    corners = boxes * np.array(scales).reshape(-1, 4)[which]
    return corners[:, 2:] - corners[:, :2], (corners[:, 2:] + corners[:, :2]) / 2
