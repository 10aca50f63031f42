"""Learning rate, optimizer and its state in a checkpoint, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.tree import TrainConfig
from ..detection.model import DetectionModel

LONGEST_WARMUP = 0.1  # of the training
BACKBONE_RATE = 0.3  # of the learning rate: pretrained weights need smaller steps than new heads


def base_lr(config: TrainConfig) -> float:
    """The learning rate after warm-up: by default .005 per 2 images for SGD (linear in the batch, Goyal et al. 2017),
    .0005 at 8 images for AdamW (square root, as its steps do not grow with the gradient)."""
    if config.learning_rate is not None:
        return config.learning_rate
    images = config.batch_size * config.accumulate
    return 0.0025 * images if config.optimizer != "adamw" else 0.0005 * math.sqrt(images / 8)


def lr_at(config: TrainConfig, step: int, progress: float) -> float:
    """Learning rate of the update after ``step`` updates, ``progress`` 0..1 of the way through the training.

    With ``warmup_rate`` as TFOD counts (docs/tfod-semantics.md, section 15): the first update of a warm-up has that
    very rate, and the cosine begins where the warm-up and ``hold_steps`` end.
    """
    base, begin, warmup = base_lr(config), config.warmup_rate, config.warmup_steps
    if begin is None:
        # A training of few steps is not spent on warming up.
        rise = min(1.0, max((step + 1) / warmup, progress / LONGEST_WARMUP)) if warmup else 1.0
        return rise * _decayed(config, base, step, progress)
    if step < warmup:
        return begin if config.warmup == "constant" else begin + (base - begin) / warmup * step
    return _decayed(config, base, step, progress)


def _decayed(config: TrainConfig, base: float, step: int, progress: float) -> float:
    length, warmup = config.schedule_steps, config.warmup_steps
    if config.schedule == "cosine":
        if length is not None:
            begin = warmup + config.hold_steps
            if step > length or step <= begin:
                return base if step <= length else 0.0
            progress = (step - begin) / (length - begin)
        return base * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if config.schedule == "steps":
        return next((rate for first, rate in reversed(config.milestones) if step >= first), base)
    if config.schedule == "exponential" and length is not None:
        times = max(step - warmup, 0) / length
        return max(base * config.decay ** (math.floor(times) if config.staircase else times), config.least_rate)
    return base


class Momentum(torch.optim.Optimizer):
    """Stochastic gradient descent whose velocity holds the rate: ``v = m v - rate g; w = w + v``.

    Keras's and so TFOD's rule (docs/tfod-semantics.md, section 15). ``torch.optim.SGD`` multiplies the velocity by the
    rate of the day, which differs wherever the rate changes.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
            velocities = [self.state[weight]["velocity"] for weight in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, [weight.grad for weight in weights], alpha=-group["lr"])
            torch._foreach_add_(weights, velocities)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """One group for each pair of (backbone body or not, decayed or not), with TFOD's optimizer one for all, without
    decay; ``scale`` multiplies the learning rate."""
    if config.optimizer == "momentum":
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return Momentum([{"params": trained, "scale": 1.0}], base_lr(config), config.momentum)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone.body."), parameter.ndim > 1), []).append(parameter)
    usual = 0.05 if config.optimizer == "adamw" else 1e-4
    decay = usual if config.weight_decay is None else config.weight_decay
    options = [
        {"params": group, "scale": BACKBONE_RATE if body else 1.0, "weight_decay": decay if decayed else 0.0}
        for (body, decayed), group in sorted(groups.items())
    ]
    # One kernel for all weights. On a CPU the bits stay those of the separate operations.
    on_gpu = next(model.parameters()).device.type == "cuda"
    kernels: dict[str, Any] = {"fused": True} if on_gpu else {"foreach": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=base_lr(config), momentum=config.momentum, **kernels)
    return torch.optim.AdamW(options, lr=base_lr(config), **kernels)


def state_bytes(model: nn.Module, config: TrainConfig, processes: int) -> int:
    """What a training holds beside weights and gradients: the optimizer's state, averaged weights, and with several
    processes the buckets in which gradients cross."""
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    copies = (2 if config.optimizer == "adamw" else 1) + (processes > 1)
    averaged = sum(value.nbytes for value in model.state_dict().values()) if config.ema else 0
    return copies * trained + averaged


_STATES: dict[type, set[str]] = {
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
    """Raises ValueError, and others: the tensors are not those of this optimizer and its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        # A file knows no memory format; the arithmetic goes on exactly as before only in the parameter's own.
        like = parameters[int(number)]
        value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(number), {})[name] = value
    known = _STATES[type(optimizer)]
    if any(values.keys() != known for values in state.values()):
        raise ValueError(f"it is of another optimizer than {type(optimizer).__name__}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class ModelEMA:
    """An exponential moving average of the trained weights; young averages forget faster."""

    def __init__(self, model: DetectionModel, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.model.requires_grad_(False)
        self.decay = decay
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        self._pairs: list[tuple[Tensor, Tensor]] = [(mine, theirs) for mine, theirs in pairs if theirs.requires_grad]
        self._statistics = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._statistics:
            torch._foreach_copy_([own for own, _ in self._statistics], [other for _, other in self._statistics])
        mine, theirs = [a for a, _ in self._pairs], [b.detach() for _, b in self._pairs]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
