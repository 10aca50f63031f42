"""Boxes ``[..., 4]``, float xyxy in pixels of the image they are in, their suppression, and what a model found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, nms

MOST_AT_ONCE = 2**14  # boxes that a GPU compares each with each, in double precision, which most are slow at
FARTHEST = 1e7  # pixels; suppression takes a box that reaches further to end there


@dataclass(frozen=True)
class Instances:
    """What was detected in one image: boxes ``[N, 4]`` xyxy, scores ``[N]``, labels ``[N]`` int64 from 0."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def area(boxes: Tensor) -> Tensor:
    """``[...]`` square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """``boxes`` cut to the window ``[0, width] x [0, height]``."""
    x = boxes[..., 0::2].clamp(min=0, max=width)
    y = boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def windows_of(images: Sequence[Tensor]) -> Tensor:
    """``[B, 4]`` float32 on the CPU: width, height, width and height of each image ``[3, H, W]``."""
    return torch.tensor([[image.shape[2], image.shape[1]] * 2 for image in images], dtype=torch.float32)


def within(boxes: Tensor, windows: Tensor) -> Tensor:
    """``boxes`` ``[B, N, 4]`` cut to their image's window ``[B, 4]``."""
    return torch.minimum(boxes.clamp(min=0), windows[:, None].to(boxes.dtype))


def at_rows(boxes: Tensor, rows: Tensor) -> Tensor:
    """``[B, M, 4]``: of ``boxes`` ``[B, N, 4]`` those in ``rows`` ``[B, M]``."""
    return boxes.gather(1, rows[..., None].expand(-1, -1, 4))


def big_enough(boxes: Tensor, side: float) -> Tensor:
    """``[...]`` bool: both sides are ``side`` pixels or more."""
    return (boxes[..., 2] - boxes[..., 0] >= side) & (boxes[..., 3] - boxes[..., 1] >= side)


def rescale(boxes: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Boxes of an image of ``size`` (height, width) in the pixels of the same image at size ``to``."""
    y, x = to[0] / size[0], to[1] / size[1]
    return boxes * torch.tensor([x, y, x, y], dtype=boxes.dtype, device=boxes.device)


def nms_of_groups(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Greedy suppression among the boxes of each group; a GPU is waited for once.

    Args:
        boxes, scores, groups: ``[N, 4]``, ``[N]`` and ``[N]`` int64 from 0.
        iou: a box goes whose IoU with a better one is more than this.

    Returns: ``[K]`` int64, indices of what is kept, best first.
    """
    if boxes.device.type == "cpu" or not len(boxes):
        return batched_nms(boxes, scores, groups, iou)
    # torchvision moves groups apart in single precision, which rounds boxes, or waits for each of many.
    boxes = boxes.double()
    step = boxes.nan_to_num().abs().amax() + 1
    return nms(boxes.add((groups * step)[:, None], alpha=2), scores.double(), iou)


def stable_nms(boxes: Tensor, scores: Tensor, limit: int, iou: float, least: float, equal: bool = False) -> Tensor:
    """Greedy suppression: indices of at most ``limit`` of ``boxes`` ``[N, 4]``, best first, equal scores in order.

    Args:
        iou: a box goes whose IoU with a better one is more than this (``equal``: this or more).
        least: boxes count whose score is more than this.
    """
    candidates = torch.where(scores > least)[0]
    candidates = candidates[scores[candidates].sort(descending=True, stable=True).indices]
    # What is kept of the best K does not depend on the rest, so a part of them is tried first.
    count = 8 * limit
    while True:
        part = candidates[:count]
        kept = part[nms(boxes[part], scores[part], _bound(iou, equal))]
        if len(kept) >= limit or count >= len(candidates):
            return kept[:limit]
        count *= 4


def grouped_nms(boxes: Tensor, scores: Tensor, limit: int, iou: float, least: float, equal: bool = False) -> Tensor:
    """As :func:`stable_nms` of each of S sets of boxes ``[S, N, 4]`` with scores ``[S, N]``.

    Returns: ``[S, limit]`` int64 indices into each set, -1 beyond the last.
    """
    if boxes.device.type != "cpu":
        return nms_at_once(boxes, scores, limit, iou, least, equal)
    kept = scores.new_full((len(boxes), limit), -1, dtype=torch.int64)
    for row, box, score in zip(kept, boxes, scores, strict=True):
        found = stable_nms(box, score, limit, iou, least, equal)
        row[: len(found)] = found
    return kept


def nms_at_once(boxes: Tensor, scores: Tensor, limit: int, iou: float, least: float, equal: bool = False) -> Tensor:
    """:func:`grouped_nms` for a GPU, which is waited for twice, again where a set has few boxes that are kept."""
    boxes, allowed = boxes.clamp(-FARTHEST, FARTHEST), scores > least
    order = torch.where(allowed, scores, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    number, size = allowed.sum(1), order.shape[1]
    count = min(8 * limit, size)
    while True:
        part = order[:, :count]
        kept = _kept(at_rows(boxes, part), _bound(iou, equal)) & allowed.gather(1, part)
        # What is kept of the best K does not depend on the rest.
        if count == size or not bool(((kept.sum(1) < limit) & (number > count)).any()):
            break
        count = min(4 * count, size)
    first = front(kept)[:, :limit]
    found = torch.where(kept.gather(1, first), part.gather(1, first), -1)
    return F.pad(found, (0, limit - found.shape[1]), value=-1)


def _kept(boxes: Tensor, bound: float) -> Tensor:
    """``[S, N]`` bool, which of S sets of boxes ``[S, N, 4]``, best first, are kept."""
    kept = []
    for sets in boxes.split(max(MOST_AT_ONCE // max(boxes.shape[1], 1), 1)):
        number = torch.arange(sets.shape[0] * sets.shape[1], device=boxes.device)
        chosen = nms_of_groups(sets.flatten(0, 1).double(), -number.double(), number // max(sets.shape[1], 1), bound)
        kept.append(torch.zeros_like(number, dtype=torch.bool).index_fill(0, chosen, True).view(sets.shape[:2]))
    return torch.cat(kept)


def _bound(iou: float, equal: bool) -> float:
    bound = np.float32(iou)  # the IoU is of single precision too
    return float(np.nextafter(bound, np.float32(-1)) if equal else bound)


def front(chosen: Tensor) -> Tensor:
    """``[..., N]`` int64, the order that puts ``chosen`` ``[..., N]`` before the others, else as they are."""
    return (~chosen).to(torch.uint8).sort(dim=-1, stable=True).indices
