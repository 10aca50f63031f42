"""The minibatch of a stage: which reference boxes enter its losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .matcher import NEGATIVE

# Matches [N], most boxes, largest share of positives, generator -> indices of positives and of negatives.
Sampler = Callable[[Tensor, int, float, Generator], tuple[Tensor, Tensor]]


def balanced_sample(matches: Tensor, size: int, share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """At most ``size`` reference boxes and of these at most ``share`` positive.

    The draw is made on the CPU by ``generator``, so it is the same on every device.

    Args:
        matches: ``[N]`` int64, as :func:`.matcher.match` gives them.

    Returns: indices ``[P]`` of the positives and ``[Q]`` of the negatives, int64, ascending.
    """
    positives = torch.where(matches >= 0)[0]
    negatives = torch.where(matches == NEGATIVE)[0]
    num_positive = min(len(positives), int(size * share))
    num_negative = min(len(negatives), size - num_positive)
    return _draw(positives, num_positive, generator), _draw(negatives, num_negative, generator)


def _draw(items: Tensor, count: int, generator: Generator) -> Tensor:
    if count == len(items):
        return items
    chosen = torch.randperm(len(items), generator=generator)[:count].to(items.device)
    return items[chosen].sort().values
