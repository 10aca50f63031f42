"""Which reference box answers for which object, and which of them make the minibatch of a stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torchvision.ops import box_iou

from .boxes import area
from .transfers import sent

NEGATIVE, IGNORED = -1, -2


@dataclass(frozen=True)
class Minibatch:
    """Of the reference boxes of B images, N of each: one image after the other, of each the positives first.

    index ``[S]`` int64 in ``[B, N]`` as if it were flat, and the image ``[S]`` of each; ``taken`` are how many
    positives and how many negatives of each image, 2 * B numbers.
    """

    index: Tensor
    image: Tensor
    taken: list[int]

    @property
    def sizes(self) -> list[int]:
        """Of each image."""
        return [positives + negatives for positives, negatives in zip(self.taken[::2], self.taken[1::2], strict=True)]

    def positives(self, values: Tensor) -> Tensor:
        """Of ``values`` ``[S, ...]`` those of positives."""
        return torch.cat(values.split(self.taken)[::2])


# Matches [B, N], most boxes of an image, largest share of positives, a generator for each image.
Sampler = Callable[[Tensor, int, float, Sequence[Generator]], Minibatch]


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
    iou, own = box_iou(crowd, boxes), area(boxes)
    inside = iou / (1 + iou) * (own + area(crowd)[:, None]) / own.clamp(min=1e-6)
    return torch.where((matches == NEGATIVE) & (inside >= 0.5).any(dim=0), IGNORED, matches)


def balanced_places(
    positive: Tensor, negative: Tensor, size: int, share: float, generators: Sequence[Generator]
) -> tuple[Tensor, list[int]]:
    """Of each image at most ``size`` reference boxes, and of these at most ``share`` positive.

    Counts are read from the device, which is waited for once, and ranks are drawn on the CPU by each image's generator:
    the draw is the same on every device.

    Args:
        positive, negative: ``[B, N]`` bool.

    Returns: places in ``[B, 2, N]`` (of each image the positives, then the negatives) as if it were flat, int64
        ascending, and how many there are of each image and kind, 2 * B numbers.
    """
    masks = torch.stack([positive, negative], 1)
    counts = iter(masks.sum(2).flatten().tolist())
    ranks, taken, before = [], [], 1
    for generator in generators:
        room = int(size * share)
        for count in (next(counts), next(counts)):
            number = min(count, room)
            drawn = torch.randperm(count, generator=generator)[:number].sort().values if number < count else None
            ranks.append(before + (torch.arange(count) if drawn is None else drawn))
            taken.append(number)
            before, room = before + count, size - number
    return torch.searchsorted(masks.flatten().cumsum(0), sent(torch.cat(ranks), masks.device)), taken


def balanced_minibatch(matches: Tensor, size: int, share: float, generators: Sequence[Generator]) -> Minibatch:
    """:func:`balanced_places` by the matches ``[B, N]`` int64 that :func:`match` gives."""
    places, taken = balanced_places(matches >= 0, matches == NEGATIVE, size, share, generators)
    count = max(matches.shape[1], 1)
    image = places // (2 * count)
    return Minibatch(image * count + places % count, image, taken)


def indices_of(masks: Tensor) -> list[Tensor]:
    """Of each row of ``masks`` ``[R, N]`` bool where it is true, ascending; the device is waited for once."""
    counts = masks.sum(1).tolist()
    ranks = torch.arange(1, sum(counts) + 1, device=masks.device)
    places = torch.searchsorted(masks.flatten().cumsum(0), ranks)
    return list((places % max(masks.shape[1], 1)).split(counts))
