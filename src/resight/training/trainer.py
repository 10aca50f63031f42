"""The training loop."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from ..detection.model import DetectionModel
from ..dialect import training_set
from ..drawing import draw
from ..errors import ResightError, counted
from ..input.dataset import TrainingExample
from ..input.loader import load_batches
from ..io.object_store import StorageError
from ..io.progress import duration, meter
from ..models.checkpoints import Checkpoint
from .checkpointer import Checkpointer
from .distributed import Distributed
from .evaluator import Evaluator
from .learner import Learner, NotFinite
from .metric_logger import MetricLogger
from .plan import Plan
from .preflight import peak_memory
from .state import Control, Pace, State, TrainResult, order_of

log = logging.getLogger(__name__)

LOG_EVERY = 20  # steps between lines of metrics.jsonl

Batches = Generator[list[TrainingExample | ResightError], None, None]


class Diverged(ResightError):
    """The loss, or a gradient, is not a finite number any more."""

    exit_code = 1


@dataclass(eq=False)
class Trainer:
    """Takes the steps of ``plan``, and between them evaluates and saves. ``batches`` are those of this process from
    ``state.batches`` on; what cannot be used is in them as its error."""

    plan: Plan
    state: State
    learner: Learner
    batches: Batches
    evaluator: Evaluator
    checkpointer: Checkpointer
    logger: MetricLogger

    def __post_init__(self) -> None:
        self.config, self.distributed, self.pace = self.plan.config, self.learner.distributed, Pace(self.plan)
        self.began = time.monotonic() - self.state.seconds
        self.clock = self.evaluating = 0.0  # seconds of training and of evaluations, the same in all processes
        self.stopping = self.asked_to_save = False
        self.skipped = 0  # records, by this process, since all agreed
        self.without_image = 0  # batches one after the other
        self.shown = 0.0

    def train(self, control: Control) -> TrainResult:
        """Steps until the plan is fulfilled, patience is out or ``control`` asks to stop."""
        state = self.state
        length = self.config.train.max_minutes or self.plan.steps
        patience = self.config.train.patience or math.inf
        # Closed, the loader ends its workers. An error holds on to whatever is not, and Python would wait for them.
        with meter("training", length) as self.bar, closing(self.batches):
            self.synchronize(control)
            self._show()
            if self.pace.evaluation_is_due(state, self.clock, self.evaluating):  # the run was ended while it evaluated
                self.evaluate(control)
            while self.progress() < 1 and not self.stopping and state.evals_since_best < patience:
                self.step()
                self.synchronize(control)
                if self.pace.evaluation_is_due(state, self.clock, self.evaluating):
                    self.save()
                    self.evaluate(control)
                    self.save()
                if self.asked_to_save or self.checkpointer.is_due(state.step):
                    self.save()
                    self.checkpointer.restart_clock()
            self.save()
            if state.evaluated_at < state.step and not self.stopping:
                self.evaluate(control)
                self.save()
            if not self.stopping:
                self.bar.advance(0, left=0.0)
        return self._result()

    def step(self) -> None:
        state, train = self.state, self.config.train
        began = time.monotonic()
        batches = [self._usable(next(self.batches)) for _ in range(train.accumulate)]
        data_time = time.monotonic() - began
        state.batches += train.accumulate
        try:
            done = self.learner.step(batches, state.step, self.progress())
        except NotFinite as error:
            raise self._diverged(error) from error
        self.without_image = 0 if done.losses else self.without_image + train.accumulate
        if self.without_image >= self.plan.batches.per_epoch:
            raise ResightError("no record of the training split can be used", where=self.plan.train.shards[0])
        state.step += 1
        state.data_time += data_time
        seconds = time.monotonic() - began
        images_per_second = train.batch_size * train.accumulate / seconds
        row = {"loss": sum(done.losses.values()), "learning_rate": done.lr, "gradient_norm": done.gradient_norm}
        row |= {"images_per_second": images_per_second, "waited": data_time / seconds}
        state.recent.append(done.losses | row)
        if state.step % LOG_EVERY == 0 or state.step == 1:
            held = round(peak_memory(self.learner.device) / 1e9, 2)  # of the first process, without its loader's
            self.logger.row(state.step, "train", state.means(), seconds=round(self.seconds(), 1), memory_gb=held)
        self.pace.took("step", seconds, data_time)
        self._show(f"loss {row['loss']:.3f}, rate {done.lr:.1e}, {images_per_second:.1f} images/s")

    def evaluate(self, control: Control) -> None:
        """Evaluates the averaged weights on the validation split and keeps them when they are the best so far; nothing
        is kept where ``control`` asks to stop meanwhile, and a run that goes on evaluates first."""
        state, began, skipped = self.state, time.monotonic(), self.state.skipped

        def on_image(number: int, count: int) -> bool:
            self._show(f"evaluating {number:,}/{count:,}", number / count)
            return not control.stop.is_set()

        shard = self.evaluator.run(self.learner.averaged, self._skip, on_image)
        if shard:
            # A process that is to stop tells the others so before anything is counted.
            self.synchronize(control)
            state.evaluation_seconds += time.monotonic() - began
            if self.stopping:
                state.skipped = skipped
                return
            self.pace.took("evaluation", time.monotonic() - began)
        state.evaluated_at = state.step
        if shard is None or self.evaluator.finish(shard, state, self.seconds()):
            self.checkpointer.save_best(state)

    def save(self) -> None:
        began, self.asked_to_save = time.monotonic(), False
        self.state.seconds = self.seconds()
        self.checkpointer.save(self.state)
        self.pace.took("save", time.monotonic() - began)

    def synchronize(self, control: Control) -> None:
        """All processes stop and save together, and by the clock of the first."""
        control.step = self.state.step
        clock, evaluating = (self.seconds(), self.state.evaluation_seconds) if self.distributed.is_main else (0.0, 0.0)
        saving = control.save.is_set()
        self.clock, self.evaluating, stopping, asked, skipped = self.distributed.all_reduce(
            [clock, evaluating, float(control.stop.is_set()), float(saving), self.skipped]
        )
        if saving:  # one that comes from now on is the next
            control.save.clear()
        self.stopping, self.asked_to_save = stopping > 0, self.asked_to_save or asked > 0
        self.state.skipped += int(skipped)
        self.skipped = 0

    def progress(self) -> float:
        """Share of the training that is done, by the clock where it is to take a number of minutes."""
        by_steps, minutes = self.state.step / self.plan.steps, self.config.train.max_minutes
        return max(by_steps, self.clock / 60 / minutes) if minutes else by_steps

    def seconds(self) -> float:
        """Of training so far, with those before a resumption."""
        return time.monotonic() - self.began

    def _usable(self, batch: list[TrainingExample | ResightError]) -> list[TrainingExample]:
        for error in batch:
            if isinstance(error, ResightError):
                self._skip(error)
        return [example for example in batch if isinstance(example, TrainingExample)]

    def _skip(self, error: ResightError) -> None:
        """A record that cannot be used ends the training, or is counted, as the configuration says."""
        if self.config.data.on_bad_record == "stop" or isinstance(error, StorageError):
            raise error
        self.skipped += 1
        # Other processes than the first tell of nothing less than errors.
        level = logging.WARNING if self.distributed.is_main else logging.ERROR
        log.log(level, "skipped (%d so far): %s", self.state.skipped + self.skipped, error)

    def _show(self, note: str = "", evaluated: float | None = None) -> None:
        """``evaluated``: share of the evaluation under way."""
        state = self.state
        done = self.progress() * (self.config.train.max_minutes or self.plan.steps)
        left = self.pace.left(state.step, state.evaluated_at, self.seconds(), evaluated)
        self.bar.advance(done - self.shown, ", ".join(filter(None, (self.pace.at(state.step), note))), left)
        self.shown = done

    def _diverged(self, error: NotFinite) -> Diverged:
        """The end of the training; draws the batch with its boxes into the folder ``diverged``."""
        run, step = self.checkpointer.run, self.state.step + 1
        folder = run / "diverged"
        for example in error.batch:
            names = [self.plan.classes[label] for label in example.target.labels.tolist()]
            image = example.image if example.resized else self.learner.model.resize(example.image)
            pixels = image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
            picture = draw(pixels, example.target.boxes.numpy(), names)
            with suppress(OSError):  # a full disk is not what this tells of
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / f"record-{example.record}.png")
        losses = ", ".join(f"{name} {value:g}" for name, value in error.losses.items())
        message = f"the {error.what} is not finite at step {step} ({losses}); the batch is in {folder}"
        fix = "Try a lower train.learning_rate or train.clip_norm, a longer train.warmup_steps, and look at the "
        return Diverged(message, where=run, fix=f"{fix}pictures of the batch. The last good checkpoint is kept.")

    def _result(self) -> TrainResult:
        state, run = self.state, self.checkpointer.run
        if self.stopping:
            command = f"resight train --resume -o {shlex.quote(str(run))}"
            message = f"interrupted after step {state.step:,}, saved; continue with\n  {command}"
            return TrainResult(str(run), 75, message, state.best, state.step)
        waiting = state.data_time / max(self.seconds() - state.evaluation_seconds, 1e-9)
        message = f"{counted(state.step, 'step')} in {duration(self.seconds())} ({waiting:.1%} waiting for data)"
        message += f", {state.skipped} records skipped; " if state.skipped else "; "
        if state.best is not None:
            message += f"best {self.config.evaluate.metric} {state.best:.3f} on {self.plan.validation_name}; "
        evaluated = self.plan.validation_name if self.plan.validation else ""
        return TrainResult(str(run), 0, f"{message}run folder {run}", state.best, state.step, evaluated)


def build_trainer(
    plan: Plan,
    model: DetectionModel,
    run: Path,
    logger: MetricLogger,
    resumed: Checkpoint | None,
    distributed: Distributed,
    saved: Callable[[], None],
) -> Trainer:
    """The trainer of ``plan`` with its parts, or of a training that goes on from ``resumed``; ``model`` is on its
    device, ``saved`` is called after each save. Raises ResightError: ``resumed`` is not of this training."""
    config = plan.config.train
    model = model.to(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)
    learner = Learner(model, config, distributed)
    checkpointer = Checkpointer(run, plan, learner, saved)
    state = State(order=order_of(plan), metric=plan.config.evaluate.metric)
    if resumed:
        state = checkpointer.restore(resumed)
        log.info("resumed at step %d", state.step)
    state.precision = config.precision
    if not (config.steps or config.epochs or config.max_minutes):
        state.default_steps = plan.steps
    order = replace(plan.batches, start=state.batches)
    shards = order if distributed.size == 1 else (distributed.shard(batch) for batch in order)
    on_gpu = learner.device.type == "cuda"
    dataset = training_set(plan.train, plan.classes, plan.config, resized=not on_gpu)
    batches = load_batches(dataset, shards, plan.workers, pinned=on_gpu)
    return Trainer(plan, state, learner, batches, Evaluator(plan, run, logger, distributed), checkpointer, logger)
