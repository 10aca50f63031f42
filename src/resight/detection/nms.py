"""Non-maximum suppression that keeps equal scores in order; the other dialect's is torchvision's ``batched_nms``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms


def stable_nms(boxes: Tensor, scores: Tensor, limit: int, iou: float, least: float, equal: bool = False) -> Tensor:
    """Greedy suppression: indices of at most ``limit`` of ``boxes`` ``[N, 4]``, best first, ties in order.

    Args:
        iou: a box goes whose IoU with a better one is more than this (``equal``: this or more).
        least: boxes count whose score is more than this.
    """
    bound = np.float32(iou)  # the IoU is of single precision too
    if equal:
        bound = np.nextafter(bound, np.float32(-1))
    candidates = torch.where(scores > least)[0]
    candidates = candidates[scores[candidates].sort(descending=True, stable=True).indices]
    # What is kept of the best K does not depend on the rest, so a part of them is tried first.
    count = 8 * limit
    while True:
        part = candidates[:count]
        kept = part[nms(boxes[part], scores[part], float(bound))]
        if len(kept) >= limit or count >= len(candidates):
            return kept[:limit]
        count *= 4
