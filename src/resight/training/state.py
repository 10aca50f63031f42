"""What a training remembers beside tensors, how long it takes, what may be asked of it, and how it ends."""

from __future__ import annotations

import math
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from ..config.defaults import EVALUATED
from ..dialect import dialect_of
from ..inference.tiles import forward_passes
from ..models.build import named_device
from .plan import Plan

RECENT = 50  # steps by which the next ones are judged
_STORED_AS = {"data_time": "waited", "evals_since_best": "without_gain"}  # what checkpoints call them


@dataclass
class Control:
    """Between the loop of a training and what watches it from outside."""

    stop: threading.Event = field(default_factory=threading.Event)  # after the step; an evaluation ends at once
    save: threading.Event = field(default_factory=threading.Event)  # after the step, and go on; the loop clears it
    step: int = 0  # how many the training has taken


@dataclass(frozen=True)
class TrainResult:
    """How a training ended: exit code 0 done, 1 at a limit of the run, 75 interrupted; both with its state saved.
    ``evaluated`` is the split whose evaluation the run keeps, "" where there is none."""

    run: str
    exit_code: int
    message: str
    best: float | None = None
    steps: int = 0
    evaluated: str = ""

    def text(self) -> str:
        return self.message


@dataclass
class State:
    """What changes while training, beside tensors."""

    step: int = 0
    batches: int = 0
    seconds: float = 0.0
    data_time: float = 0.0  # seconds of waiting for batches
    metric: str = ""
    best: float | None = None
    score: float | None = None
    evaluated_at: int = 0
    evals_since_best: int = 0
    evaluation_seconds: float = 0.0
    skipped: int = 0
    order: str = ""  # what the order of the records follows from
    recent: list[dict[str, float]] = field(default_factory=list)  # steps since the last line of metrics.jsonl
    loss_scale: dict[str, float] = field(default_factory=dict)
    precision: str = ""  # of the arithmetic; "" in runs of versions that did not note it
    default_steps: int = 0  # of the whole training, where nothing says how long it is

    def to_json(self) -> dict[str, Any]:
        return {_STORED_AS.get(name, name): value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> State:
        """Raises TypeError if it is not a training's."""
        names = {key: name for name, key in _STORED_AS.items()}
        return cls(**{names.get(key, key): value for key, value in stored.items()})

    def means(self) -> dict[str, float]:
        """Of the steps since the last call; a loss that a step does not have counts as 0."""
        recent, self.recent = self.recent, []
        return {name: sum(row.get(name, 0.0) for row in recent) / len(recent) for name in recent[-1]}

    def note_evaluation(self, value: float | None) -> bool:
        """Whether ``value`` of the metric, None if there was no object to find, is the best so far."""
        better = value is not None and (self.best is None or value > self.best)
        self.evals_since_best = 0 if better else self.evals_since_best + (value is not None)
        self.best = value if better else self.best
        return better


class Pace:
    """Steps between evaluations, and the seconds of what a training does.

    An evaluation comes once in ``evaluate.every`` epochs, or less often where it would take more than a tenth of the
    time: to evaluate an image costs half as much as to train on it, with the losses as much. That is counted and not
    timed: equal runs evaluate at equal steps. On a GPU, where it costs more than that, it is ``timed`` too, unless
    equal runs are asked for.
    """

    def __init__(self, plan: Plan) -> None:
        config = plan.config
        cost = 1.0 if dialect_of(config.model).evaluates_losses else 0.5
        sizes = plan.validation.sizes.tolist() if plan.validation else []
        seen = sum(forward_passes(height, width, config.model.tile) for width, height in sizes)
        self.epoch = plan.batches.per_epoch / config.train.accumulate  # steps
        epochs = max(config.evaluate.every, EVALUATED * cost * seen / plan.batches.places)
        self.interval = epochs * self.epoch if plan.validation else math.inf  # steps
        self.evaluation_steps = cost * seen / (config.train.batch_size * config.train.accumulate)  # as long as these
        self.steps = plan.steps
        self.minutes = config.train.max_minutes
        self.timed = named_device(config.train.device).type == "cuda" and not config.train.deterministic
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def evaluation_is_due(self, state: State, clock: float, evaluating: float) -> bool:
        """After ``clock`` seconds of training, ``evaluating`` of them spent on evaluations, the same in all
        processes."""
        too_much = self.timed and EVALUATED * evaluating > clock
        return state.step - state.evaluated_at >= self.interval and not too_much

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
        ``clock``: seconds of training so far; ``evaluated``: share that is done of the evaluation under way."""
        if not self._seconds["step"]:
            return None
        one = fmean(self._seconds["step"])
        save = fmean(self._seconds["save"] or [0.0])
        whole = fmean(self._seconds["evaluation"] or [self.evaluation_steps * one]) + 2 * save
        gone = whole * (evaluated or 0.0)
        # The last one comes at the end, wherever the others fall.
        interval = max(self.interval, EVALUATED * whole / one) if self.timed else self.interval
        evaluations = math.ceil((self.steps - evaluated_at) / interval)
        seconds = (self.steps - step) * one + evaluations * whole - gone + save
        if not self.minutes:
            return seconds
        by_clock, under_way = 60 * self.minutes - clock, whole - gone if evaluated is not None else 0.0
        last = whole if self.evaluation_steps and by_clock > under_way else 0.0
        return min(seconds, max(by_clock, under_way) + last + save)


def order_of(plan: Plan) -> str:
    """All that decides which records make which step."""
    train, window = plan.config.train, plan.config.data.window
    return (
        f"data {plan.records.digest}, {len(plan.train)} images, seed {train.seed}, "
        f"batch_size {train.batch_size}, accumulate {train.accumulate}"
        + (f", window {window}" if len(plan.train.shards) > window else "")
        + (f", repeat_threshold {repeat:g}" if (repeat := plan.config.data.repeat_threshold) else "")
    )
