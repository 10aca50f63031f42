"""Anchors: their shapes, their grid, fitting them to a data set, and the recall they can reach."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_BOXES = 20_000  # that anchors are fitted to
POSITIVE = 0.7  # IoU with an object from which an anchor is a positive (Ren et al. 2015, section 3.1.2)


@dataclass(frozen=True)
class AnchorSettings:
    """Shapes of the anchors of each feature level.

    ``sizes[level]`` are square roots of areas in pixels of the network input, ``ratios`` are height / width, shared
    by all levels. An anchor of size s and ratio r is ``s / sqrt(r)`` wide and ``s * sqrt(r)`` high.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_location(self) -> int:
        return len(self.sizes[0]) * len(self.ratios)

    def cell_anchors(self, level: int) -> Tensor:
        """``[A, 4]`` xyxy around the origin, rounded to whole pixels; ratio varies slowest (torchvision's order)."""
        sizes = torch.tensor(self.sizes[level], dtype=torch.float32)
        root = torch.sqrt(torch.tensor(self.ratios, dtype=torch.float32))
        widths = ((1 / root)[:, None] * sizes[None]).view(-1)
        heights = (root[:, None] * sizes[None]).view(-1)
        return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def grid_anchors(cell_anchors: Tensor, grid: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """``[gh * gw * A, 4]`` xyxy float32: ``cell_anchors`` ``[A, 4]`` centred at ``stride * (x, y)``, y slowest."""
    y = torch.arange(grid[0], device=cell_anchors.device) * stride[0]
    x = torch.arange(grid[1], device=cell_anchors.device) * stride[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (shifts + cell_anchors).reshape(-1, 4)


def reachable_iou(sizes: np.ndarray, centers: np.ndarray, settings: AnchorSettings, strides: list[int]) -> np.ndarray:
    """The best IoU that any anchor of the grid has with each box.

    Args:
        sizes: ``[N, 2]`` widths and heights in pixels of the network input.
        centers: ``[N, 2]`` x and y of the centres.

    Returns: ``[N]`` float64. The anchor nearest to the centre is the best of its shape.
    """
    best = np.zeros(len(sizes))
    areas = sizes[:, 0] * sizes[:, 1]
    for level, stride in enumerate(strides):
        offset = np.abs(centers - np.round(centers / stride) * stride)
        for cell in settings.cell_anchors(level).numpy():
            anchor = cell[2:] - cell[:2]
            # Overlap along one axis of two intervals whose centres are `offset` apart.
            overlap = np.minimum(np.minimum(sizes, anchor), np.maximum((sizes + anchor) / 2 - offset, 0))
            inter = overlap[:, 0] * overlap[:, 1]
            best = np.maximum(best, inter / (areas + anchor.prod() - inter))
    return best


def fit_anchors(sizes: np.ndarray, centers: np.ndarray, strides: list[int], per_level: int = 3) -> AnchorSettings:
    """Anchors that suit the training boxes ``sizes`` ``[N, 2]`` (width, height) in pixels of the network input.

    Three ratios, the means that k-means finds of log(height / width), so that shapes of which there are few have one,
    too; ``per_level`` sizes a level, half an octave apart where six octaves hold all levels, the next level going on
    where one ends; the smallest is the one with the best mean reachable IoU. What is beyond POSITIVE gains nothing
    there: an anchor is a positive anyway, and small boxes need those anchors more. Of very many boxes a part, spread
    evenly over them, is looked at.
    """
    every = -(-len(sizes) // MOST_BOXES) or 1
    sizes, centers = sizes[::every], centers[::every]
    octaves = min(max(per_level / 2, 1), 6 / len(strides))  # of a level

    def candidate(smallest: float, ratios: tuple[float, ...]) -> AnchorSettings:
        levels = [
            tuple(round(smallest * 2 ** (octaves * (level + i / per_level)), 1) for i in range(per_level))
            for level in range(len(strides))
        ]
        return AnchorSettings(tuple(levels), ratios)

    if len(sizes) == 0:
        return candidate(2.0 * strides[0], AnchorSettings.ratios)
    low, mid, high = _means(np.log(sizes[:, 1] / sizes[:, 0]))
    # Scale jitter, crops and boxes not yet seen want some width around what the training set happens to hold.
    ratios = tuple(round(float(np.exp(r)), 3) for r in (min(low, mid - 0.3), mid, max(high, mid + 0.3)))
    options = [candidate(strides[0] * factor, ratios) for factor in np.geomspace(0.75, 8, 15)]
    reached = [np.minimum(reachable_iou(sizes, centers, option, strides), POSITIVE).mean() for option in options]
    return options[int(np.argmax(reached))]


def _means(values: np.ndarray) -> np.ndarray:
    """``[3]``, ascending: the means of k-means with three groups of ``values`` ``[N]``, from their sixths (Lloyd)."""
    means = np.quantile(values, [1 / 6, 1 / 2, 5 / 6])
    for _ in range(100):
        own = np.abs(values[:, None] - means).argmin(1)
        before, means = means, np.array([values[own == k].mean() if k in own else means[k] for k in range(3)])
        if (means == before).all():
            break
    return np.sort(means)
