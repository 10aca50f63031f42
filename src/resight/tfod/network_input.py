"""An image as the network of the TFOD dialect takes it, without PyTorch; see ``resize`` and ``batch`` of
``faster_rcnn``."""

from __future__ import annotations

import numpy as np

from ..config.tree import Positive, Section
from ..detection.resize import interpolated, taps
from .config import fit_size

Color = tuple[float, float, float]


class NetworkInput(Section):
    min_size: Positive
    max_size: Positive
    fixed_size: tuple[Positive, Positive] | None
    mean: Color
    pad_value: Color | None  # None: no padding

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """``[H, W, 3]`` uint8 -> batch ``[1, 3, h, w]`` and size ``[2]`` of the exported network."""
        size = self.fixed_size or fit_size(image.shape[0], image.shape[1], self.min_size, self.max_size)
        places = (
            taps(np.arange(wanted, dtype=np.float32) * np.float32(length / wanted), length)
            for length, wanted in zip(image.shape, size, strict=False)
        )
        batch = small = interpolated(image, *places)
        if self.pad_value is not None:
            batch = np.empty((3, self.max_size, self.max_size), np.float32)
            batch[:] = np.array(self.pad_value, np.float32)[:, None, None]
            batch[:, : size[0], : size[1]] = small
        batch = batch - np.array(self.mean, np.float32)[:, None, None]
        return {"batch": np.ascontiguousarray(batch[None]), "size": np.array(size, np.float32)}
