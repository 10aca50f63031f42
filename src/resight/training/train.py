"""``train``: from a configuration to a run folder with a trained, measured model."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..config import Config, ModelConfig
from ..errors import ResightError
from ..models.build import device_of
from ..models.checkpoints import LAST, Checkpoint, load_checkpoint, weights_digest
from .loop import Training, TrainResult, order_of
from .plan import Plan, make_plan, start_model
from .preflight import preflight
from .run_folder import METRICS, describe_run, forget_metrics, hold, new_run

log = logging.getLogger(__name__)


def train(config: Config, out: str | Path | None = None, *, resume: bool = False, dry_run: bool = False) -> TrainResult:
    """Trains as ``config`` says into the run folder ``out`` (default ``runs/<date>-<time>``).

    Args:
        resume: continue the run in ``out``; starts one where there is none.
        dry_run: stop after the plan.

    Raises:
        ResightError: input, configuration or environment is wrong.
    """
    run = Path(out) if out else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    device = device_of(config.train.device)
    if dry_run:
        plan = make_plan(config)
        _be_deterministic(config)
        time_needed = preflight(plan, start_model(plan)[0].to(device))
        return TrainResult(str(run), 0, f"run folder {run}\n{plan.text()}\n{time_needed}\nnothing was trained")
    with _signals() as stop:
        return _train(config, run, resume, device, stop)


def _train(config: Config, run: Path, resume: bool, device: torch.device, stop: threading.Event) -> TrainResult:
    plan = make_plan(config)
    log.info("run folder %s\n%s", run, plan.text())
    _be_deterministic(config)
    if resume and (run / LAST).exists():
        with hold(run):
            return _go_on(plan, run, device, stop)
    if resume and (run / METRICS).exists():
        log.warning("%s holds no checkpoint: the training begins again, and so do its metrics", run)
    model, report = start_model(plan)
    new_run(run, resume)
    with hold(run):
        start = weights_digest(model.state_dict())
        facts = {"device": str(device), "dataset": plan.records.digest, "weights": start, **report}
        log.info("%s", preflight(plan, model.to(device)))
        if device.type == "cuda" and config.model.name == ModelConfig().name:
            log.info("on a GPU a stronger start pays: --model fasterrcnn_resnet50_fpn_v2")
        describe_run(run, plan.config, plan.records.label_map, facts | {"seed": config.train.seed})
        forget_metrics(run, 0)
        with Training(plan, model, run, device) as training:
            return training.run(stop)


def _go_on(plan: Plan, run: Path, device: torch.device, stop: threading.Event) -> TrainResult:
    last = load_checkpoint(run / LAST)
    _check_same(plan, last, run)
    model = last.card.build()
    log.info("%s", preflight(plan, model.to(device)))
    forget_metrics(run, last.state.get("step", 0))
    with Training(plan, model, run, device) as training:
        training.restore(last)
        # Only now: a resumption that is refused must not change what the run says of itself.
        describe_run(run, plan.config, plan.records.label_map, None)
        return training.run(stop)


def _check_same(plan: Plan, last: Checkpoint, run: Path) -> None:
    """
    Raises:
        ResightError: the run that is to go on is of other classes, another model, or another order of the data.
    """
    before, now = last.card.label_map.names, plan.classes
    if before != now:
        raise ResightError(
            f"the run was trained on the classes {', '.join(before)}, the data has {', '.join(now)}", where=run
        )
    changed = [
        f"model.{key} was {value!r} and is now {getattr(plan.config.model, key)!r}"
        for key, value in last.card.model
        if key != "start" and value != getattr(plan.config.model, key)
    ]
    if changed:
        raise ResightError(
            f"a run goes on with the model it has; {'; '.join(changed)}", where=run, fix="Start another run for that."
        )
    if last.state.get("order") != order_of(plan):
        raise ResightError(
            f"a run goes on with the data it has; that was {last.state.get('order')}, now it is {order_of(plan)}",
            where=run,
            fix=f"Start another run from its weights: --start {run}",
        )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """SIGTERM and the first Ctrl-C ask to stop after the step; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _be_deterministic(config: Config) -> None:
    on_cpu = device_of(config.train.device).type == "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what PyTorch asks for beside the switch
    torch.use_deterministic_algorithms(on_cpu or config.train.deterministic)
    # Nothing here reads memory it has not written; filling all of it first would cost a sixth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
