"""What one step of a training changes: weights, optimizer and moving average, in whatever precision and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config.tree import TrainConfig
from ..detection.model import DetectionModel
from ..input.dataset import TrainingExample
from ..input.target import Target
from .distributed import SINGLE_PROCESS, Distributed
from .optim import ModelEMA, build_optimizer, lr_at, set_lr

Batch = Sequence[TrainingExample]


class NotFinite(ArithmeticError):
    """``what``, the loss or the gradient, is not a finite number for ``batch``."""

    def __init__(self, what: str, batch: Batch, losses: Mapping[str, float]) -> None:
        self.what, self.batch, self.losses = what, batch, losses
        super().__init__(what)


class Step(NamedTuple):
    """One step: its losses (none where no process had an image), learning rate and norm before clipping."""

    losses: dict[str, float]
    lr: float
    gradient_norm: float


class Learner:
    """Takes the steps of a training."""

    def __init__(self, model: DetectionModel, config: TrainConfig, distributed: Distributed = SINGLE_PROCESS) -> None:
        self.model, self.optimizer, self.config = model, build_optimizer(model, config), config
        self.distributed, self.parallel = distributed, distributed.parallel(model)
        self.device = next(model.parameters()).device
        self.ema = ModelEMA(model, config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")

    @property
    def averaged(self) -> DetectionModel:
        """The model with the averaged weights, where they are averaged."""
        return self.ema.model if self.ema else self.model

    def step(self, batches: Sequence[Batch], number: int, progress: float) -> Step:
        """One update from this process's share of the accumulated ``batches``, after ``number`` steps. Raises
        NotFinite, and no weight has changed then."""
        lr = lr_at(self.config, number, progress)
        set_lr(self.optimizer, lr)
        losses = self.backward(batches)
        norm = self.clip_gradients() if losses else 0.0
        # A step would spoil every weight. With a loss scale too large it is left out and the scale made smaller.
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < 1):
            raise NotFinite("gradient", [example for batch in batches for example in batch], losses)
        if losses:
            self.update(number, norm)
        return Step(losses, lr, norm)

    def backward(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Adds up the gradients of the batches, each by its share of the images; returns the losses."""
        counts = self.distributed.all_reduce([len(batch) for batch in batches])
        used = [(batch, count) for batch, count in zip(batches, counts, strict=True) if count]
        totals: dict[str, float] = {}
        for number, (batch, count) in enumerate(used, start=1):
            weight = count / sum(counts)
            # Gradients cross between processes once a step.
            with self.parallel.no_sync() if self.distributed.size > 1 and number < len(used) else nullcontext():
                losses = self._losses(batch)
                loss = torch.stack(list(losses.values())).sum()
                means = [float(value.detach()) / self.distributed.size for value in losses.values()]
                values = dict(zip(losses, self.distributed.all_reduce(means), strict=True))
                if not all(map(math.isfinite, values.values())):
                    raise NotFinite("loss", batch, values)
                self.scaler.scale(loss * weight).backward()
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + weight * value
        return totals

    def _losses(self, examples: Batch) -> dict[str, Tensor]:
        images = [example.image.to(self.device) for example in examples]
        targets = [example.target for example in examples]
        if not images:  # the other processes have some, and wait for the gradients of this one
            images, targets = [torch.zeros(3, 1, 1, device=self.device)], [Target.empty()]
        processes = replace(self.distributed, has_images=bool(examples))
        with autocast(self.config.precision, self.device):
            losses = self.parallel(images, targets, processes)
        return losses if examples else {name: 0 * value for name, value in losses.items()}

    def clip_gradients(self) -> float:
        """Clips; the norm before."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or float("inf")))

    def update(self, number: int, norm: float) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema and math.isfinite(norm):
            self.ema.update(number)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """In which the model computes its losses."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
