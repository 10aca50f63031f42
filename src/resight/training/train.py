"""``train``: from a configuration to a run folder with a trained, measured model."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..arguments import check_types
from ..config.toml_text import flat, to_toml, toml_value
from ..config.tree import LENGTHS, Config
from ..detection.model import DetectionModel
from ..dialect import dialect_of, load_config
from ..errors import ResightError, counted
from ..io.object_store import is_remote
from ..io.outputs import is_address
from ..io.progress import listen, speaks_json
from ..io.signals import stop_on_signal
from ..models.build import device_of, float32_products, named_device
from ..models.checkpoints import LAST, Checkpoint, load_checkpoint, weights_digest
from .attempt import Watch, watching
from .choice import as_begun
from .distributed import SINGLE_PROCESS, Distributed, join, launch, processes
from .main_guard import check_main_guard
from .metric_logger import MetricLogger
from .plan import Plan, make_plan
from .preflight import default_step, preflight
from .remote_run import Workplace, check_remote_run, workplace
from .run_folder import METRICS, check_run, describe_run, forget_metrics, lock_run, new_run
from .start import start_model
from .state import Control, TrainResult, order_of
from .trainer import Diverged, build_trainer

log = logging.getLogger(__name__)


def train(
    config: Config,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    dry_run: bool = False,
    devices: int = 1,
    pipeline: str | None = None,
) -> TrainResult:
    """Trains as ``config`` says into the run folder ``out`` (default ``runs/<date>-<time>``), which may be an
    ``s3://`` address.

    In a script, call it under ``if __name__ == "__main__":``: the processes that load the data import the script.

    Args:
        config: what :func:`resight.load_config` gives.
        resume: continue the run in ``out``; starts one where there is none.
        dry_run: stop after the plan.
        devices: processes of this machine that share each batch, each on a GPU of its own where there are GPUs. Under
            ``torchrun`` its processes are the ones, and this is refused.
        pipeline: the text of the `pipeline.config` that ``config`` comes from; the run keeps it for its export.

    Raises:
        ResightError: input, configuration or environment is wrong.
    """
    check_types(locals(), train)
    workers = config.data.workers
    check_main_guard((1 if workers is None else workers) or devices > 1)
    check_devices(devices, config)
    run = _checked_run(out, resume)
    if dry_run:
        return _dry_run(config, run, resume, devices)
    if devices == 1:
        return _run(config, run, resume, pipeline, announced=True)
    result = launch(devices, _in_a_process, log.getEffectiveLevel(), speaks_json(), config, run, resume, pipeline)
    if isinstance(result, Diverged):
        raise result
    return result


def _checked_run(out: str | os.PathLike[str] | None, resume: bool) -> Path | str:
    """The run folder or address, which a training may use."""
    if is_remote(out):
        address = out.rstrip("/")
        check_remote_run(address, resume)
        return address
    if is_address(out):
        fix = "Name a folder, or an s3:// address as a text."
        raise ResightError("no run can be written there", where=out, fix=fix)
    run = Path(out) if out else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    check_run(run, resume)
    return run


def _dry_run(config: Config, run: Path | str, resume: bool, devices: int) -> TrainResult:
    device = device_of(config.train.device)
    last = _last_checkpoint(run) if resume and isinstance(run, Path) else None
    if resume and last is None and isinstance(run, Path):
        config = as_begun(config, run / "config.toml")
    with _arithmetic(config):
        plan = make_plan(config, last, partial(default_step, distributed=SINGLE_PROCESS))
        model, _ = _model_of(plan, last, run)
        time_needed = preflight(plan, model.to(device), taken=last.state if last else None)
    chosen = ", by which the size was chosen" * bool(plan.choice)
    alone = f"\nnote      this is the time of one process, not of {devices}{chosen}" * (devices > 1)
    return TrainResult(str(run), 0, f"run folder {run}\n{plan.text()}\n{time_needed}{alone}\nnothing was trained")


def _in_a_process(level: int, as_json: bool, *request: Any) -> TrainResult | Diverged:
    """``_run`` in a process that ``launch`` started; that a training diverged all of them find at once."""
    listen(as_json=as_json)
    logging.getLogger("resight").setLevel(level)
    try:
        return _run(*request, announced=False)  # ``launch`` does
    except Diverged as error:
        return error
    except ResightError as error:  # ``launch`` knows it by this name
        raise ResightError(error.message, where=error.where, fix=error.fix) from error


def _run(config: Config, run: Path | str, resume: bool, pipeline: str | None, *, announced: bool) -> TrainResult:
    """One attempt at the run, from the first signal that is heeded to the last line of run.json."""
    with (
        join(named_device(config.train.device)) as distributed,
        stop_on_signal(announced=announced) as stop,
        watching(run, Control(stop), distributed) as watch,
    ):
        if watch.over:
            return watch.nothing_left()
        with workplace(run, resume, distributed) as place, _arithmetic(config):
            if place.locked and distributed.is_main:
                last = _last_checkpoint(place.path, tensors=False)
                watch.begin(last.state.get("step", 0) if last else 0)
            result = _train(config, place, resume, pipeline, distributed, watch)
            message = result.message.replace(str(place.path), place.name)
            return watch.result(replace(result, run=place.name, message=message))


def _train(
    config: Config, place: Workplace, resume: bool, pipeline: str | None, distributed: Distributed, watch: Watch
) -> TrainResult:
    run, is_main = place.path, distributed.is_main
    if not is_main:
        logging.getLogger("resight").setLevel(logging.ERROR)
    last = _last_checkpoint(run) if distributed.broadcast(resume and (run / LAST).exists()) else None
    if resume and last is None:
        config = distributed.from_main(lambda: as_begun(config, run / "config.toml"))
    plan = make_plan(config, last, partial(default_step, distributed=distributed))
    log.info("run folder %s\n%s", place.name, plan.text())
    if last is None and resume and (run / METRICS).exists():
        log.warning("%s holds no checkpoint: the training starts over, and so do its metrics", run)
    model, report = _model_of(plan, last, run)
    with _locked(run, last, resume, distributed):
        if is_main:
            if not place.locked:
                watch.begin(last.state["step"] if last else 0)
            watch.describe(to_toml(plan.config), plan.records.digest)
        device = distributed.device(named_device(config.train.device))
        log.info("%s", preflight(plan, model.to(device), distributed, last.state if last else None))
        if last is None:
            stronger = dialect_of(config.model).stronger_models.get(config.model.name)
            if device.type == "cuda" and stronger:
                log.info("on a GPU, a larger pretrained model is worth trying: --model %s", stronger)
            facts = {"device": str(device), "devices": distributed.size, "dataset": plan.records.digest, **report}
            facts |= {"weights": weights_digest(model.state_dict()), "seed": plan.config.train.seed}
            facts |= {"pipeline": pipeline} if pipeline else {}
            if is_main:
                describe_run(run, plan.config, plan.records.label_map, facts)
        step, evaluated_at = (last.state["step"], last.state["evaluated_at"]) if last else (0, 0)
        if is_main:
            forget_metrics(run, step, evaluated_at)
        with closing(MetricLogger(run if is_main else None)) as logger:
            trainer = build_trainer(plan, model, run, logger, last, distributed, place.saved)
            if last:
                log.info("%s", _changes(plan.config, run))
                if (taken := trainer.state.step) >= plan.steps:
                    log.info("the run has taken %s of %s: nothing is left", counted(taken, "step"), f"{plan.steps:,}")
                # Only now: a resumption that is refused must not change what the run says of itself.
                if is_main:
                    describe_run(run, plan.config, plan.records.label_map, None)
            logger.forget_after(step)
            return trainer.train(watch.control)


@contextmanager
def _locked(run: Path, last: Checkpoint | None, resume: bool, distributed: Distributed) -> Iterator[None]:
    """The run folder, new or with ``last`` in it, kept from other trainings."""
    with ExitStack() as stack:

        def lock() -> None:
            if last is None:
                new_run(run, resume)
            stack.enter_context(lock_run(run))
            now = _last_checkpoint(run, tensors=False) if resume else None
            if (now and now.state.get("step")) != (last and last.state.get("step")):
                raise ResightError("another training has just written to this run", where=run, fix="Start again.")

        distributed.from_main(lock)
        yield


def _last_checkpoint(run: Path, tensors: bool = True) -> Checkpoint | None:
    return load_checkpoint(run / LAST, tensors=tensors) if (run / LAST).exists() else None


def _model_of(plan: Plan, last: Checkpoint | None, run: Path | str) -> tuple[DetectionModel, dict[str, Any]]:
    """The model that the training begins with, and a report of the weights it starts from; one that goes on from
    ``last`` has no such report, and gets its weights with the rest of its state. Raises ResightError: that is of other
    classes, another model, or another order of the data."""
    if last is None:
        return start_model(plan.config, plan.start, plan.classes, plan.anchors)
    before, now = last.card.label_map.names, plan.classes
    if before != now:
        message = f"the run was trained on the classes {', '.join(before)}, the data has {', '.join(now)}"
        raise ResightError(message, where=run)
    models = (model.model_dump(exclude={"start"}) for model in (last.card.model, plan.config.model))
    if changed := "; ".join(f"model.{change}" for change in _differences(*models)):
        fix = "Start a new run for that, with another -o."
        raise ResightError(f"cannot resume, the model changed: {changed}", where=run, fix=fix)
    was, is_now = str(last.state.get("order")).split(", "), order_of(plan).split(", ")
    if was != is_now:
        gone, new = (", ".join(a for a in parts if a not in b) for parts, b in ((was, is_now), (is_now, was)))
        message = f"data or order changed: was {gone or 'none'}, now {new or 'none'}"
        fix = f"Start a new run from its weights: --start {shlex.quote(str(run))}"
        raise ResightError(f"cannot resume, {message}", where=run, fix=fix)
    return last.card.build(), {}


def _changes(config: Config, run: Path) -> str:
    """What a run goes on with that is not as it was."""
    before = load_config(run / "config.toml")
    before = before.model_copy(update={"model": before.model.of_earlier_version()})
    was, now = _length(before), _length(config)
    changes = [f"its length was {was} and is now {now}"] if was != now else []
    # Other repeats would have been refused; a run that was stored without a word on them has them settled now.
    told = {"train": {key.removeprefix("train.") for key in LENGTHS}, "data": {"repeat_threshold"}}
    changes += _differences(before.model_dump(exclude=told), config.model_dump(exclude=told))
    return "changed: " + "; ".join(changes) if changes else "its configuration is unchanged"


def _length(config: Config) -> str:
    train = config.train
    steps = counted(train.steps, "step") if train.steps else ""
    epochs = f"{train.epochs:g} epoch{'' if train.epochs == 1 else 's'}" if train.epochs else ""
    minutes = f"{train.max_minutes:g} min" if train.max_minutes else ""
    return ", ".join(filter(None, (steps, epochs, minutes))) or "the default"


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is another in two trees of sections, in words."""
    own, others = flat(before), flat(now)
    changed = [key for key in own | others if own.get(key) != others.get(key)]
    return [f"{key} was {_said(own.get(key))} and is now {_said(others.get(key))}" for key in changed]


def _said(value: Any) -> str:
    return "the default" if value is None else toml_value(value)


@contextmanager
def _arithmetic(config: Config) -> Iterator[None]:
    """Deterministic algorithms on a CPU, and elsewhere where asked for; a GPU multiplies float32 as TF32 where they are
    not. Afterwards as it was."""
    on_cpu = named_device(config.train.device).type == "cpu"
    deterministic = on_cpu or config.train.deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what PyTorch asks for beside the switch
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory it has not written; filling all of it first would cost a sixth of a step.
    settings.fill_uninitialized_memory = False
    try:
        with nullcontext() if on_cpu else float32_products("ieee" if deterministic else "tf32"):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled


def check_devices(devices: int, config: Config) -> None:
    """Raises ResightError: there are not so many, or not as many images in a batch; or torchrun has started processes;
    or PyTorch sees none of the GPUs that a job of AWS Batch was given."""
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "") if "AWS_BATCH_JOB_ID" in os.environ else ""  # set by ECS
    if given not in ("", "void", "none") and config.train.device == "auto" and not torch.cuda.is_available():
        fix = "Launch an image with PyTorch's CUDA build (make image without a TORCH_INDEX for CPUs)."
        message = "PyTorch sees none of the job's GPUs"
        raise ResightError(message, where="train.device", fix=fix)
    if devices > 1 and processes() > 1:
        message = f"torchrun has started {processes()} processes, which share the batches"
        raise ResightError(message, where="--devices", fix="Leave it out, or start without torchrun.")
    gpus = torch.cuda.device_count() if named_device(config.train.device).type == "cuda" else 0
    if gpus and devices > gpus:
        raise ResightError(f"{devices} devices requested, {gpus} available", where="--devices")
    if (sharing := max(devices, processes())) > config.train.batch_size:
        message = f"{sharing} devices share a batch of {config.train.batch_size}"
        raise ResightError(message, where="train.batch_size", fix="Set it to their number or more.")
