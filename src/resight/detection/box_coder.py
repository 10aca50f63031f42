"""Boxes as offsets from reference boxes (R-CNN parametrisation, Girshick et al. 2014, appendix C)."""

import math

import torch
from torch import Tensor

# A log-size beyond this would scale a 16 px anchor past 1000 px; torchvision clamps decoding at the same value.
MAX_LOG_SCALE = math.log(1000.0 / 16)

Weights = tuple[float, float, float, float]


def encode(boxes: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """Offsets of ``boxes`` from ``references``, both ``[N, 4]`` xyxy: ``[N, 4]`` (dx, dy, dw, dh) times weights."""
    wx, wy, ww, wh = weights
    widths, heights = references[:, 2] - references[:, 0], references[:, 3] - references[:, 1]
    box_widths, box_heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    dx = wx * (boxes[:, 0] + 0.5 * box_widths - (references[:, 0] + 0.5 * widths)) / widths
    dy = wy * (boxes[:, 1] + 0.5 * box_heights - (references[:, 1] + 0.5 * heights)) / heights
    return torch.stack([dx, dy, ww * torch.log(box_widths / widths), wh * torch.log(box_heights / heights)], dim=1)


def decode(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """The boxes that ``deltas`` ``[..., 4]`` mean beside ``references`` ``[..., 4]`` xyxy: ``[..., 4]`` xyxy."""
    wx, wy, ww, wh = weights
    widths, heights = references[..., 2] - references[..., 0], references[..., 3] - references[..., 1]
    center_x = deltas[..., 0] / wx * widths + references[..., 0] + 0.5 * widths
    center_y = deltas[..., 1] / wy * heights + references[..., 1] + 0.5 * heights
    half_width = 0.5 * widths * torch.exp((deltas[..., 2] / ww).clamp(max=MAX_LOG_SCALE))
    half_height = 0.5 * heights * torch.exp((deltas[..., 3] / wh).clamp(max=MAX_LOG_SCALE))
    return torch.stack(
        [center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height], dim=-1
    )
