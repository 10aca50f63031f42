"""How often a training evaluates, and how long it still takes: steps, evaluations and saves by what they have taken."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from statistics import fmean
from typing import Literal

from ..dialect import dialect_of
from ..inference.tiles import forward_passes
from .plan import Plan
from .state import State

RECENT = 50  # steps by which the next ones are judged


class Pace:
    """Steps between evaluations, and the seconds of what a training does.

    An evaluation comes once in ``evaluate.every`` epochs, or less often where the validation split is large beside the
    training split. To evaluate an image costs about half as much as to train on it, so a fifth of the images is a tenth
    of the time; with the losses, which the TFOD dialect takes too, about as much. That is counted and not timed: equal
    runs evaluate at equal steps.
    """

    def __init__(self, plan: Plan) -> None:
        config = plan.config
        cost = 1.0 if dialect_of(config.model).evaluates_losses else 0.5
        sizes = plan.validation.sizes.tolist() if plan.validation else []
        seen = sum(forward_passes(height, width, config.model.tile) for width, height in sizes)
        self.epoch = plan.batches.per_epoch / config.train.accumulate  # steps
        epochs = max(config.evaluate.every, 10 * cost * seen / len(plan.train))
        self.interval = epochs * self.epoch if plan.validation else math.inf  # steps
        self.evaluation_steps = cost * seen / (config.train.batch_size * config.train.accumulate)  # as long as these
        self.steps = plan.steps
        self.minutes = config.train.max_minutes
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def evaluation_is_due(self, state: State) -> bool:
        return state.step - state.evaluated_at >= self.interval

    def at(self, step: int) -> str:
        """``step 30/1,000, epoch 1.5/50``, without the ends where minutes decide."""
        if self.minutes:
            return f"step {step:,}, epoch {step / self.epoch:,.1f}"
        epochs = f"epoch {step / self.epoch:,.1f}/{self.steps / self.epoch:,.1f}".removesuffix(".0")
        return f"step {step:,}/{self.steps:,}, {epochs}"

    def took(self, what: Literal["step", "evaluation", "save"], seconds: float, waited: float = 0.0) -> None:
        """One more of its kind has taken so long; ``waited`` for its batches, which the first step does for all."""
        known = self._seconds[what]
        known.append(seconds if known else seconds - waited)

    def in_minutes(self, minutes: float) -> int:
        """Steps that ``minutes`` hold, with the evaluations between them."""
        one = fmean(self._seconds["step"])
        return min(round(60 * minutes / (one + self.evaluation_steps * one / self.interval)), self.steps)

    def left(self, step: int, evaluated_at: int, clock: float = 0.0, evaluated: float | None = None) -> float | None:
        """Seconds until the training ends, its last evaluation and saves included; None before the first step.

        Args:
            step: steps that are taken.
            evaluated_at: the step of the last evaluation.
            clock: seconds of training so far, by which one of so many minutes ends.
            evaluated: share that is done of the evaluation under way.
        """
        if not self._seconds["step"]:
            return None
        one = fmean(self._seconds["step"])
        save = fmean(self._seconds["save"] or [0.0])
        whole = fmean(self._seconds["evaluation"] or [self.evaluation_steps * one]) + 2 * save
        gone = whole * (evaluated or 0.0)
        # The last one comes at the end, wherever the others fall.
        evaluations = math.ceil((self.steps - evaluated_at) / self.interval)
        seconds = (self.steps - step) * one + evaluations * whole - gone + save
        if not self.minutes:
            return seconds
        by_clock, under_way = 60 * self.minutes - clock, whole - gone if evaluated is not None else 0.0
        last = whole if self.evaluation_steps and by_clock > under_way else 0.0
        return min(seconds, max(by_clock, under_way) + last + save)
