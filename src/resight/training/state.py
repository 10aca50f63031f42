"""What a training remembers beside tensors, what may be asked of it while it runs, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import Plan

_STORED_AS = {"data_time": "waited", "evals_since_best": "without_gain"}  # what checkpoints call them


@dataclass
class Control:
    """Between the loop of a training and what watches it from outside.

    Args:
        stop: asks to end after the step, with the state saved. An evaluation ends at once and is made again later.
        save: asks to save after the step and to go on; the loop clears it. An evaluation under way has its state saved.
        step: how many the training has taken.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    save: threading.Event = field(default_factory=threading.Event)
    step: int = 0


@dataclass(frozen=True)
class TrainResult:
    """How a training ended: exit code 0 done, 1 at a limit of the run, 75 interrupted; both with its state saved."""

    run: str
    exit_code: int
    message: str
    best: float | None = None
    steps: int = 0

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


def order_of(plan: Plan) -> str:
    """All that decides which records make which step."""
    train, window = plan.config.train, plan.config.data.window
    return (
        f"data {plan.records.digest}, {len(plan.train)} images, seed {train.seed}, "
        f"batch_size {train.batch_size}, accumulate {train.accumulate}"
        + (f", window {window}" if len(plan.train.shards) > window else "")
        + (f", repeat_threshold {repeat:g}" if (repeat := plan.config.data.repeat_threshold) else "")
    )
