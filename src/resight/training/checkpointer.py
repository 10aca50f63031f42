"""The checkpoints of a run: the last one holds all that the training needs to go on, the best one is the model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..detection.model import DetectionModel
from ..errors import ResightError
from ..models.checkpoints import BEST, LAST, Checkpoint, ModelMetadata, save_checkpoint
from .learner import Learner
from .optim import optimizer_tensors, restore_optimizer
from .plan import Plan
from .state import State


class Checkpointer:
    """Writes what ``learner`` holds into the run folder, and reads it from there; the first process alone writes, and
    calls ``saved`` after each save of the last checkpoint."""

    def __init__(self, run: Path, plan: Plan, learner: Learner, saved: Callable[[], None]) -> None:
        self.run, self.plan, self.learner, self.saved = run, plan, learner, saved
        self.restart_clock()

    def restart_clock(self) -> None:
        """``checkpoint.every_minutes`` counts from now; saves around an evaluation do not change that."""
        self._counts_from = time.monotonic()

    def is_due(self, step: int) -> bool:
        every = self.plan.config.checkpoint
        by_steps = every.every_steps and step % every.every_steps == 0
        return bool(by_steps) or time.monotonic() - self._counts_from > 60 * every.every_minutes

    def save(self, state: State) -> None:
        """Writes the last checkpoint, and its copy where older ones are kept."""
        learner, keep = self.learner, self.plan.config.checkpoint.keep
        state.loss_scale = learner.scaler.state_dict()
        if not learner.distributed.is_main:
            return
        tensors = _named("model", learner.model.state_dict())
        if learner.ema:
            trained = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
            own = learner.ema.model.state_dict()
            tensors |= _named("ema", {name: value for name, value in own.items() if name in trained})
        tensors |= _named("optimizer", optimizer_tensors(learner.optimizer))
        self._write(LAST, learner.model, state, tensors, state.to_json())
        if keep:
            _keep_copy(self.run / LAST, state.step, keep)
        self.saved()

    def save_best(self, state: State) -> None:
        if self.learner.distributed.is_main:
            model = self.learner.averaged
            told = {"step": state.step, "selected_on": self.plan.validation_name, "best": state.best}
            self._write(BEST, model, state, _named("model", model.state_dict()), told)

    def restore(self, checkpoint: Checkpoint) -> State:
        """Puts the tensors of ``checkpoint`` where they belong; returns the state of its training. Raises ResightError:
        it lacks something, or is of another optimizer."""
        learner = self.learner
        try:
            learner.model.load_state_dict(checkpoint.part("model"))
            if learner.ema:
                learner.ema.model.load_state_dict(checkpoint.weights())
            restore_optimizer(learner.optimizer, checkpoint.part("optimizer"))
            state = State.from_json(checkpoint.state)
            if state.loss_scale:
                learner.scaler.load_state_dict(state.loss_scale)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise ResightError(f"the training cannot continue from it: {error}", where=self.run / LAST) from error
        if state.metric != self.plan.config.evaluate.metric:
            state.best, state.evals_since_best = None, 0
        state.metric = self.plan.config.evaluate.metric
        return state

    def _write(
        self, name: str, model: DetectionModel, state: State, tensors: dict[str, Tensor], told: dict[str, Any]
    ) -> None:
        metadata = ModelMetadata.of(model, self.plan.config.model, self.plan.records.label_map, state.score)
        save_checkpoint(self.run / name, Checkpoint(metadata, tensors, told), self.plan.config)


def _named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for name, value in tensors.items()}


def _keep_copy(path: Path, step: int, count: int) -> None:
    """Keeps ``path`` as ``step-NNNNNNNN.safetensors`` beside it too, and the ``count`` latest of these."""
    copy = path.with_name(f"step-{step:08}{path.suffix}")
    try:
        copy.unlink(missing_ok=True)
        os.link(path, copy)  # the next save replaces the name and leaves these bytes to the copy
        for old in sorted(path.parent.glob(f"step-*{path.suffix}"))[:-count]:
            old.unlink()
    except OSError as error:
        raise ResightError(f"cannot keep a copy of the checkpoint: {error.strerror}", where=copy) from error
