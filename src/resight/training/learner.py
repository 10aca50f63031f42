"""What one step of a training changes: weights, optimizer and moving average, in whatever precision and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.tree import TrainConfig
from ..detection.model import DetectionModel
from ..input.dataset import TrainingExample
from ..input.target import Target
from ..models.build import autocast
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


class Pass(NamedTuple):
    """Forward and backward of one batch: its share of the step's images, and its losses on the device."""

    batch: Batch
    weight: float
    losses: dict[str, Tensor]


class Learner:
    """Takes the steps of a training."""

    def __init__(self, model: DetectionModel, config: TrainConfig, distributed: Distributed = SINGLE_PROCESS) -> None:
        self.model, self.optimizer, self.config = model.train(), build_optimizer(model, config), config
        self.distributed, self.parallel = distributed, distributed.parallel(model)
        self.device = next(model.parameters()).device
        self.ema = ModelEMA(model, config.ema) if config.ema else None
        if config.compile:  # in place: its weights keep their names
            model.get_submodule("backbone").compile()
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
        passes = self.backward(batches)
        if not passes:
            return Step({}, lr, 0.0)
        losses, norm = self.read(passes, self.clip_gradients())
        rows = list(zip(passes, losses, strict=True))
        totals = {name: sum(one.weight * values[name] for one, values in rows) for name in losses[0]}
        bad = [("loss", one.batch, values) for one, values in rows if not all(map(math.isfinite, values.values()))]
        if not math.isfinite(norm):
            bad.append(("gradient", [example for batch in batches for example in batch], totals))
        # A step would spoil every weight. With a loss scale too large it is left out and the scale made smaller.
        if bad and not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
            raise NotFinite(*bad[0])
        self.update(number, norm)
        return Step(totals, lr, norm)

    def backward(self, batches: Sequence[Batch]) -> list[Pass]:
        """Adds up the gradients of the batches that any process has images of, each by its share of the images."""
        counts = self.distributed.all_reduce([len(batch) for batch in batches])
        used = [(batch, count / sum(counts)) for batch, count in zip(batches, counts, strict=True) if count]
        passes = []
        for number, (batch, weight) in enumerate(used, start=1):
            # Gradients cross between processes once a step.
            with self.parallel.no_sync() if self.distributed.size > 1 and number < len(used) else nullcontext():
                losses = self._losses(batch)
                self.scaler.scale(torch.stack(list(losses.values())).sum() * weight).backward()
            passes.append(Pass(batch, weight, {name: value.detach() for name, value in losses.items()}))
        return passes

    def read(self, passes: Sequence[Pass], norm: Tensor) -> tuple[list[dict[str, float]], float]:
        """The losses of each pass over all processes, and the norm: the device is waited for once."""
        *values, read = torch.stack([value for one in passes for value in one.losses.values()] + [norm]).tolist()
        means = iter(self.distributed.all_reduce([value / self.distributed.size for value in values]))
        return [{name: next(means) for name in one.losses} for one in passes], read

    def _losses(self, examples: Batch) -> dict[str, Tensor]:
        sent = [(example.image.to(self.device, non_blocking=True), example.resized) for example in examples]
        images = [image if resized else self.model.resize(image) for image, resized in sent]
        targets = [example.target for example in examples]
        if not images:  # the other processes have some, and wait for the gradients of this one
            images, targets = [torch.zeros(3, 1, 1, device=self.device)], [Target.empty()]
        processes = replace(self.distributed, has_images=bool(examples))
        with autocast(self.config.precision, self.device):
            losses = self.parallel(images, targets, processes)
        return losses if examples else {name: 0 * value for name, value in losses.items()}

    def clip_gradients(self) -> Tensor:
        """Clips; the norm before, on the device."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or float("inf"))

    def update(self, number: int, norm: float) -> None:
        finite = math.isfinite(norm)
        if finite:  # else a fused optimizer would make its state of memory that nobody has written
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema and finite:
            self.ema.update(number)
