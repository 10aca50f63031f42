"""What of an optimizer a checkpoint holds, and older checkpoints that are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ResightError
from .schedule import Momentum

STATES: dict[type, set[str]] = {
    torch.optim.AdamW: {"exp_avg", "exp_avg_sq", "step"},
    torch.optim.SGD: {"momentum_buffer"},
    Momentum: {"velocity"},
}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``<parameter number>.<name>``."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """
    Raises:
        ValueError: the tensors are not those of this optimizer and its parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        # A file knows no memory format; the arithmetic goes on exactly as before only in the parameter's own.
        like = parameters[int(number)]
        value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(number), {})[name] = value
    known = STATES[type(optimizer)]
    if any(values.keys() != known for values in state.values()):
        raise ValueError(f"it is of another optimizer than {type(optimizer).__name__}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def keep_copy(path: Path, step: int, count: int) -> None:
    """Keeps ``path`` as ``step-NNNNNNNN.safetensors`` beside it too, and the ``count`` latest of these."""
    copy = path.with_name(f"step-{step:08}{path.suffix}")
    try:
        copy.unlink(missing_ok=True)
        os.link(path, copy)  # the next save replaces the name and leaves these bytes to the copy
        for old in sorted(path.parent.glob(f"step-*{path.suffix}"))[:-count]:
            old.unlink()
    except OSError as error:
        raise ResightError(f"cannot keep a copy of the checkpoint: {error.strerror}", where=copy) from error
