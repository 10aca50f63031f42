"""What goes to the device without waiting for it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``. A copy from pinned memory takes its turn on a GPU; any other is waited for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def in_one_copy(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors, of any shapes and types, on ``device``. Integers must be below 2**24."""
    if device.type == "cpu":
        return [each.to(device) for each in tensors]
    parts = sent(torch.cat([each.flatten() for each in tensors]), device).split([each.numel() for each in tensors])
    return [part.view(each.shape).to(each.dtype) for part, each in zip(parts, tensors, strict=True)]
