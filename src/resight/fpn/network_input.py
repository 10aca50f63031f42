"""An image as the network of the FPN dialect takes it, without PyTorch; see ``resize`` and ``batch`` of
``faster_rcnn``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..config.tree import Positive, Section
from ..detection.resize import antialiased, half_pixel, interpolated, taps
from .config import fit_size


class NetworkInput(Section):
    min_size: Positive
    max_size: Positive
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: Positive
    antialias: bool

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """``[H, W, 3]`` uint8 -> batch ``[1, 3, h, w]``, size ``[2]`` and scale ``[4]`` of the exported network."""
        height, width = image.shape[:2]
        rows, columns = size = fit_size(height, width, self.min_size, self.max_size)
        if self.antialias:
            small: Iterable[np.ndarray] = antialiased(image, size)
        else:
            sides = zip((height, width), size, strict=True)
            small = interpolated(image, *(taps(half_pixel(length, wanted), length) for length, wanted in sides))
        padded = (-(-side // self.multiple) * self.multiple for side in size)
        batch = np.zeros((1, 3, *padded), np.float32)
        for plane, normalised, mean, std in zip(small, batch[0, :, :rows, :columns], self.mean, self.std, strict=True):
            np.multiply(plane, np.float32(1 / 255 / std), out=normalised)
            normalised -= np.float32(mean / std)
        scale = np.array([width / columns, height / rows] * 2, np.float32)
        return {"batch": batch, "size": np.array(size, np.float32), "scale": scale}
