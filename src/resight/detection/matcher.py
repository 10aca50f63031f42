"""Which reference box answers for which object, and which of them enter the loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVE, IGNORED = -1, -2


def match(iou: Tensor, positive: float, negative: float, allow_low_quality_matches: bool) -> Tensor:
    """Object index of every reference box, or NEGATIVE, or IGNORED (Ren et al. 2015, section 3.1.2).

    Args:
        iou: ``[G, N]`` IoU of G objects and N reference boxes; G may be 0.
        positive, negative: at ``positive`` or more a match, below ``negative`` background, between ignored.
        allow_low_quality_matches: each object also keeps the boxes that overlap it most, ties included, at any IoU
            (as torchvision names it).

    Returns: ``[N]`` int64.
    """
    if iou.shape[0] == 0:
        return torch.full((iou.shape[1],), NEGATIVE, dtype=torch.int64, device=iou.device)
    best, nearest = iou.max(dim=0)
    matches = torch.where(best >= positive, nearest, torch.where(best < negative, NEGATIVE, IGNORED))
    if allow_low_quality_matches and iou.shape[1]:
        forced = (iou == iou.max(dim=1, keepdim=True).values).any(dim=0)
        matches = torch.where(forced, nearest, matches)
    return matches


def ignore_crowd(matches: Tensor, boxes: Tensor, crowd: Tensor) -> Tensor:
    """``matches`` ``[N]`` with background boxes that lie at least half inside a ``crowd`` ``[C, 4]`` box IGNORED."""
    if len(crowd) == 0:
        return matches
    iou = box_iou(crowd, boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    crowd_area = (crowd[:, 2] - crowd[:, 0]) * (crowd[:, 3] - crowd[:, 1])
    inside = iou / (1 + iou) * (area + crowd_area[:, None]) / area.clamp(min=1e-6)
    return torch.where((matches == NEGATIVE) & (inside >= 0.5).any(dim=0), IGNORED, matches)


def sample(matches: Tensor, size: int, positive_fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A minibatch of reference boxes, at most ``size`` and of these at most the fraction positive.

    The draw is made on the CPU by ``generator``, so it is the same on every device.

    Returns: indices ``[P]`` of the positives and ``[Q]`` of the negatives, int64, ascending.
    """
    positives = torch.where(matches >= 0)[0]
    negatives = torch.where(matches == NEGATIVE)[0]
    num_positive = min(len(positives), int(size * positive_fraction))
    num_negative = min(len(negatives), size - num_positive)
    return _draw(positives, num_positive, generator), _draw(negatives, num_negative, generator)


def _draw(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if count == len(items):
        return items
    chosen = torch.randperm(len(items), generator=generator)[:count].to(items.device)
    return items[chosen].sort().values
