"""How TFOD brings an image to the network's size: TensorFlow 1's bilinear interpolation, without half-pixel centres."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config.tree import ModelConfig


def tfod_size(height: int, width: int, config: ModelConfig) -> tuple[int, int]:
    """Height and width at the network, without padding, of an image ``height`` x ``width`` (TFOD dialect only)."""
    if config.tfod is not None and config.tfod.fixed_size is not None:
        return config.tfod.fixed_size
    short, long = config.min_size, config.max_size
    # A square image is taken as a portrait. All in single precision, and halves go to the even number.
    wanted = (short, long) if height < width else (long, short)
    scale = min(np.float32(wanted[0]) / np.float32(height), np.float32(wanted[1]) / np.float32(width))
    rows, columns = np.rint(scale * np.float32(height)), np.rint(scale * np.float32(width))
    return max(int(rows), 1), max(int(columns), 1)


def tfod_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``[3, H, W]`` uint8 or float -> ``[3, *size]`` float of the same range (0..255 in this dialect)."""
    image = image if image.is_floating_point() else image.to(torch.float32)
    if tuple(image.shape[1:]) == tuple(size):
        return image
    top, bottom, down = _neighbours(image.shape[1], size[0], image)
    left, right, across = _neighbours(image.shape[2], size[1], image)
    upper, lower = image[:, top], image[:, bottom]
    upper = upper[:, :, left] + (upper[:, :, right] - upper[:, :, left]) * across
    lower = lower[:, :, left] + (lower[:, :, right] - lower[:, :, left]) * across
    return upper + (lower - upper) * down[:, None]


def _neighbours(length: int, wanted: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each new pixel: the old one before it, the one after it, and how far it lies between them."""
    at = torch.arange(wanted, device=like.device, dtype=torch.float32) * torch.tensor(length / wanted)
    before = at.floor().clamp(max=length - 1)
    after = (before + 1).clamp(max=length - 1)
    return before.long(), after.long(), (at - before).to(like.dtype)
