"""Bilinear resizing without PyTorch, for engines that are given the network's input."""

from __future__ import annotations

import numpy as np
from PIL import Image

Taps = tuple[np.ndarray, np.ndarray, np.ndarray]  # of each new pixel: the old one before it, the one after, the way


def taps(at: np.ndarray, length: int) -> Taps:
    """
    Args:
        at: ``[N]`` float32, where the new pixels lie among ``length`` old ones.
    """
    before = np.minimum(np.floor(at), np.float32(length - 1))
    after = np.minimum(before + 1, np.float32(length - 1))
    return before.astype(np.int64), after.astype(np.int64), at - before


def interpolated(image: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """``[H, W, 3]`` uint8 -> ``[3, h, w]`` float32 of the same range."""
    left, right, across = columns
    top, bottom, down = rows
    used = slice(top.min(), bottom.max() + 1)
    top, bottom, image = top - used.start, bottom - used.start, image[used]
    small = image.take(left, 1).astype(np.float32)
    small += (image.take(right, 1) - small) * across[:, None]
    upper = small.take(top, 0)
    upper += (small.take(bottom, 0) - upper) * down[:, None, None]
    return upper.transpose(2, 0, 1)


def half_pixel(length: int, wanted: int) -> np.ndarray:
    """``[wanted]`` float32: where the new pixels lie if the borders of both images are the same."""
    step = np.float32(length) / np.float32(wanted)
    return np.maximum((np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5), np.float32(0))


def antialiased(image: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """``[H, W, 3]`` uint8 -> three planes ``size`` float32 of the same range, by a triangle as wide as the step."""
    planes = (Image.fromarray(image[..., i].astype(np.float32)) for i in range(3))
    return [np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes]
