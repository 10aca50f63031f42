"""How TFOD brings an image to the network's size: TensorFlow 1's bilinear interpolation, without half-pixel centres."""

from __future__ import annotations

import torch
from torch import Tensor


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
