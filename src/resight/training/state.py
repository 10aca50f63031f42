"""What a training remembers beside tensors, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from .plan import Plan


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
    waited: float = 0.0
    metric: str = ""
    best: float | None = None
    score: float | None = None
    evaluated_at: int = 0
    without_gain: int = 0
    evaluation_seconds: float = 0.0
    skipped: int = 0
    order: str = ""  # what the order of the records follows from
    recent: list[dict[str, float]] = field(default_factory=list)  # steps since the last line of metrics.jsonl
    loss_scale: dict[str, float] = field(default_factory=dict)


def order_of(plan: Plan) -> str:
    """All that decides which records make which step."""
    train, window = plan.config.train, plan.config.data.window
    return (
        f"data {plan.records.digest}, {len(plan.train)} images, seed {train.seed}, "
        f"batch_size {train.batch_size}, accumulate {train.accumulate}"
        + (f", window {window}" if len(plan.train.shards) > window else "")
        + (f", repeat_threshold {repeat:g}" if (repeat := plan.config.data.repeat_threshold) else "")
    )
