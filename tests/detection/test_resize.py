"""Resizing without PyTorch gives what PyTorch gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resight.detection.resize import antialiased, half_pixel, interpolated, taps

SIZES = [((97, 61), (40, 25)), ((40, 61), (133, 77)), ((1, 50), (3, 7)), ((50, 1), (50, 1)), ((30, 400), (1, 64))]


@pytest.mark.parametrize(("size", "wanted"), SIZES)
@pytest.mark.parametrize("filtered", [True, False])
def test_it_is_pytorchs(size, wanted, filtered):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    own = F.interpolate(planes, size=wanted, mode="bilinear", align_corners=False, antialias=filtered)[0]
    if filtered:
        found = antialiased(image, wanted)
    else:
        found = interpolated(image, *(taps(half_pixel(*each), each[0]) for each in zip(size, wanted, strict=True)))
    assert [(plane.dtype, plane.shape) for plane in found] == [(np.float32, wanted)] * 3
    assert np.abs(np.stack(found) - own.numpy()).max() <= 2e-3  # of 255
