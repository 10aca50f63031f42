"""The training loop and what it holds: model, averaged weights, optimizer, state, logs."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ..detection.model import DetectionModel
from ..dialect import dialect_of, training_set
from ..drawing import draw
from ..errors import ResightError, counted
from ..evaluation.coco import CocoMetrics
from ..evaluation.loop import ImageResult, evaluate_images, mean_losses, measure
from ..evaluation.operating_point import OperatingPoint
from ..inference.detector import Detector
from ..input.dataset import TrainingExample
from ..input.loader import load_batches
from ..input.target import Target
from ..io.object_store import StorageError
from ..io.progress import Meter, duration, meter
from ..models.checkpoints import BEST, LAST, Checkpoint, ModelMetadata, save_checkpoint
from ..types import Detections
from .control import Control
from .distributed import SINGLE_PROCESS, Distributed, NoImages
from .diverged import ADVICE, Diverged, write_batch
from .journal import MetricLogger
from .optimizer_state import keep_copy, optimizer_tensors, restore_optimizer
from .pace import Pace
from .plan import Plan
from .preflight import arithmetic, peak_memory
from .schedule import ModelEMA, build_optimizer, lr_at, set_lr
from .state import State, TrainResult, order_of

log = logging.getLogger(__name__)

LOG_EVERY = 20  # steps between lines of metrics.jsonl
PICTURES = 4  # of the watched split, drawn at every evaluation


class Trainer:
    """The loop and what it holds: model, averaged weights, optimizer, state, logs."""

    def __init__(
        self,
        plan: Plan,
        model: DetectionModel,
        run: Path,
        device: torch.device,
        distributed: Distributed = SINGLE_PROCESS,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.saved = saved  # called after each save
        self.plan, self.run_folder, self.device, self.distributed = plan, run, device, distributed
        self.config = plan.config
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=layout)
        self.parallel = distributed.parallel(self.model)
        self.averaged = ModelEMA(self.model, self.config.train.ema) if self.config.train.ema else None
        self.optimizer = build_optimizer(self.model, self.config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.train.precision == "float16")
        self.state = State(order=order_of(plan), metric=self.config.evaluate.metric)
        self.started = time.monotonic()
        self.clock = 0.0  # seconds of training, the same in all processes
        self.stopping = self.asked_to_save = False
        self.skipped = 0  # records, by this process, since all agreed
        self.without_image = 0  # batches one after the other
        self.pace = Pace(plan)
        self.journal = MetricLogger(run if distributed.is_main else None)
        self.shown = 0.0

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def run(self, control: Control) -> TrainResult:
        """Steps until the plan is fulfilled, patience is out or ``control`` asks to stop."""
        self.model.train()
        self.journal.forget_after(self.state.step)
        saved_at = time.monotonic()
        length = self.config.train.max_minutes or self.plan.steps
        # Closed, the loader ends its workers. An error holds on to whatever is not, and Python would wait for them.
        with meter("training", length) as bar, closing(self._batches()) as batches:
            self._agree(control)
            self._show(bar)
            if self._due():  # the run was ended while it evaluated
                self._evaluate(control, bar)
            while self.progress() < 1 and not self.stopping and not self._out_of_patience():
                self._step(batches, bar)
                self._agree(control)
                if self._due():
                    self.save()
                    self._evaluate(control, bar)
                    self.save()
                every = self.config.checkpoint
                by_steps = every.every_steps and self.state.step % every.every_steps == 0
                if self.asked_to_save or by_steps or time.monotonic() - saved_at > 60 * every.every_minutes:
                    self.save()
                    saved_at = time.monotonic()
            self.save()
            if self.state.evaluated_at < self.state.step and not self.stopping:
                self._evaluate(control, bar)
                self.save()
            if not self.stopping:
                bar.advance(0, left=0.0)
        if self.stopping:
            command = f"resight train --resume -o {shlex.quote(str(self.run_folder))}"
            return self._result(75, f"interrupted after step {self.state.step:,}, saved; continue with\n  {command}")
        return self._result(0, self._closing())

    def _agree(self, control: Control) -> None:
        """All processes stop and save together, and by the clock of the first."""
        control.step = self.state.step
        clock = self.seconds() if self.distributed.is_main else 0.0
        saving = control.save.is_set()
        self.clock, stopping, asked, skipped = self.distributed.all_reduce(
            [clock, float(control.stop.is_set()), float(saving), self.skipped]
        )
        if saving:  # one that comes from now on is the next
            control.save.clear()
        self.stopping, self.asked_to_save = stopping > 0, self.asked_to_save or asked > 0
        self.state.skipped += int(skipped)
        self.skipped = 0

    def progress(self) -> float:
        """Share of the training that is done, by the clock where it is to take a number of minutes."""
        by_steps = self.state.step / self.plan.steps
        minutes = self.config.train.max_minutes
        return max(by_steps, self.clock / 60 / minutes) if minutes else by_steps

    def _show(self, bar: Meter, note: str = "", evaluated: float | None = None) -> None:
        """``evaluated``: share of the evaluation under way."""
        state, minutes = self.state, self.config.train.max_minutes
        done = self.progress() * (minutes or self.plan.steps)
        epoch = state.step / self.pace.epoch
        steps, epochs = f"step {state.step:,}", f"epoch {epoch:,.1f}"
        if not minutes:
            steps, epochs = (
                f"{steps}/{self.plan.steps:,}",
                f"{epochs}/{self.plan.steps / self.pace.epoch:,.1f}".removesuffix(".0"),
            )
        left = self.pace.left(state.step, state.evaluated_at, self.seconds(), evaluated)
        bar.advance(done - self.shown, ", ".join(filter(None, (steps, epochs, note))), left)
        self.shown = done

    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started

    def _batches(self) -> Generator[list[TrainingExample | ResightError], None, None]:
        dataset = training_set(self.plan.train, self.plan.classes, self.config)
        order = replace(self.plan.batches, start=self.state.batches)
        parts = order if self.distributed.size == 1 else (self.distributed.shard(batch) for batch in order)
        return load_batches(dataset, parts, self.config.data.workers)

    def _step(self, batches: Iterator[list[TrainingExample | ResightError]], bar: Meter) -> None:
        config, state = self.config.train, self.state
        began = time.monotonic()
        rate = lr_at(config, state.step, self.progress())
        set_lr(self.optimizer, rate)
        waiting = time.monotonic()
        parts = [self._usable(next(batches)) for _ in range(config.accumulate)]
        waited = time.monotonic() - waiting
        state.batches += config.accumulate
        totals = self._backward(parts)
        norm = self._gradient_norm() if totals else 0.0
        # A step would spoil every weight. With a loss scale too large it is left out and the scale made smaller.
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < 1):
            self._diverged("gradient", [example for part in parts for example in part], totals)
        if totals:
            self._update(norm)
        state.step += 1
        state.waited += waited
        totals |= {"loss": sum(totals.values()), "learning_rate": rate, "gradient_norm": norm}
        took = time.monotonic() - began
        totals |= {"images_per_second": config.batch_size * config.accumulate / took, "waited": waited / took}
        state.recent.append(totals)
        if state.step % LOG_EVERY == 0 or state.step == 1:
            self._log()
        self.pace.took("step", took, waited)
        self._show(bar, f"loss {totals['loss']:.3f}, rate {rate:.1e}, {totals['images_per_second']:.1f} images/s")

    def _backward(self, parts: list[list[TrainingExample]]) -> dict[str, float]:
        """Adds up the gradients of the parts of a step, each by its share of the images; returns the losses."""
        counts = self.distributed.all_reduce([len(part) for part in parts])
        self.without_image = 0 if any(counts) else self.without_image + len(parts)
        if self.without_image >= self.plan.batches.per_epoch:
            raise ResightError("no record of the training split can be used", where=self.plan.train.shards[0])
        used = [(part, count) for part, count in zip(parts, counts, strict=True) if count]
        totals: dict[str, float] = {}
        for number, (part, count) in enumerate(used):
            weight = count / sum(counts)
            # Gradients cross between processes once a step.
            with self.parallel.no_sync() if self.distributed.size > 1 and number < len(used) - 1 else nullcontext():
                losses = self._losses(part)
                loss = torch.stack(list(losses.values())).sum()
                values = self.distributed.all_reduce(
                    [float(value.detach()) / self.distributed.size for value in losses.values()]
                )
                named = dict(zip(losses, values, strict=True))
                if not all(map(math.isfinite, values)):
                    self._diverged("loss", part, named)
                self.scaler.scale(loss * weight).backward()
            for name, value in named.items():
                totals[name] = totals.get(name, 0.0) + weight * value
        return totals

    def _usable(self, batch: list[TrainingExample | ResightError]) -> list[TrainingExample]:
        examples = []
        for item in batch:
            if isinstance(item, TrainingExample):
                examples.append(item)
                continue
            self._skip(item)
        return examples

    def _skip(self, error: ResightError) -> None:
        """A record that cannot be used ends the training, or is counted, as the configuration says."""
        if self.config.data.on_bad_record == "stop" or isinstance(error, StorageError):
            raise error
        self.skipped += 1
        # Other processes than the first tell of nothing less than errors.
        level = logging.WARNING if self.distributed.is_main else logging.ERROR
        log.log(level, "skipped (%d so far): %s", self.state.skipped + self.skipped, error)

    def _losses(self, examples: list[TrainingExample]) -> dict[str, Tensor]:
        images = [example.image.to(self.device) for example in examples]
        targets = [example.target for example in examples]
        if not images:  # the other processes have some, and wait for the gradients of this one
            images, targets = [torch.zeros(3, 1, 1, device=self.device)], [Target.empty()]
        with arithmetic(self.config.train.precision, self.device):
            losses = self.parallel(images, targets, self.distributed if examples else NoImages(self.distributed))
        return losses if examples else {name: 0 * value for name, value in losses.items()}

    def _gradient_norm(self) -> float:
        """The norm before clipping; clips."""
        self.scaler.unscale_(self.optimizer)
        limit = self.config.train.clip_norm
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf")))

    def _update(self, norm: float) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged and math.isfinite(norm):
            self.averaged.update(self.state.step)

    def _due(self) -> bool:
        return self.state.step - self.state.evaluated_at >= self.pace.interval

    def _evaluate(self, control: Control, bar: Meter) -> None:
        """Measures the averaged weights on the watched split and keeps them when they are the best so far.

        Where ``control`` asks to stop meanwhile nothing is kept, and a run that goes on evaluates first.
        """
        state, validation = self.state, self.plan.validation
        began, skipped = time.monotonic(), state.skipped
        model = self.averaged.model if self.averaged else self.model
        if validation is None:
            state.evaluated_at = state.step
            self._save_best(model)
            return
        model.eval()
        card = ModelMetadata.of(model, self.config.model, self.plan.records.label_map)
        detector = Detector.of(model, card, self.device)

        shown: list[tuple[np.ndarray, Detections]] = []  # always of the same images
        results: list[ImageResult] = []
        own = self.distributed.shard(range(len(validation)))
        dialect = dialect_of(self.config.model)
        images = evaluate_images(detector, validation, own, on_error=self._skip, with_losses=dialect.evaluates_losses)
        for number, (image, result) in enumerate(images, start=1):
            self._show(bar, f"evaluating {number:,}/{len(own):,}", number / len(own))
            results.append(result)
            if len(shown) < PICTURES:
                shown.append((image, result.detections))
            if control.stop.is_set():  # the others are told of it before anything is counted
                break
        model.train()
        self._agree(control)
        state.evaluation_seconds += time.monotonic() - began
        if not self.stopping:
            self.pace.took("evaluation", time.monotonic() - began)
        if self.stopping:
            state.skipped = skipped
            return
        state.evaluated_at = state.step
        most = self.config.evaluate.max_detections or detector.most.of_a_class
        results = self.distributed.all_gather(results)
        metrics, point = measure(
            [result.truth for result in results],
            [result.detections for result in results],
            self.plan.classes,
            max_detections=most,
        )
        for number, (image, detections) in enumerate(shown):
            best = detections.above(point.score)
            picture = draw(image, best.boxes, best.names, best.scores, labels=len(self.plan.classes) > 1)
            self.journal.picture(f"{self.plan.validation_name}/{number}", picture, state.step)
        means = mean_losses([result.losses for result in results])
        self._keep(
            model, metrics, point, dialect_of(detector.config).own_metrics(metrics.summary, means).get("tfod", {})
        )

    def _keep(
        self, model: DetectionModel, metrics: CocoMetrics, point: OperatingPoint, tfod: Mapping[str, float | None]
    ) -> None:
        state, name = self.state, self.config.evaluate.metric
        summary = metrics.summary
        value = summary[name]
        better = value is not None and (state.best is None or value > state.best)
        state.without_gain = 0 if better else state.without_gain + (value is not None)
        self.journal.row(state.step, self.plan.validation_name, {**summary, **tfod}, seconds=round(self.seconds(), 1))
        log.info(
            "step %d: %s on %s%s",
            state.step,
            ", ".join(f"{key} {summary[key]:.3f}" for key in ("mAP", "AP50", "AP75") if summary[key] is not None),
            self.plan.validation_name,
            ", the best so far" if better else "",
        )
        if better or state.best is None:
            state.best = value
            state.score = point.score
            self._save_best(model)

    def _save_best(self, model: DetectionModel) -> None:
        if not self.distributed.is_main:
            return
        card = ModelMetadata.of(model, self.config.model, self.plan.records.label_map, self.state.score)
        tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
        state = {"step": self.state.step, "selected_on": self.plan.validation_name, "best": self.state.best}
        save_checkpoint(self.run_folder / BEST, Checkpoint(card, tensors, state), self.config)

    def save(self) -> None:
        """Writes the last checkpoint: all that the training needs to go on."""
        self.asked_to_save = False
        began = time.monotonic()
        self.state.seconds, self.started = self.seconds(), began
        self.state.loss_scale = self.scaler.state_dict()
        if not self.distributed.is_main:
            return
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged:
            trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
            own = self.averaged.model.state_dict()
            tensors |= {f"ema.{key}": value for key, value in own.items() if key in trained}
        tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors(self.optimizer).items()}
        card = ModelMetadata.of(self.model, self.config.model, self.plan.records.label_map, self.state.score)
        save_checkpoint(self.run_folder / LAST, Checkpoint(card, tensors, vars(self.state)), self.config)
        if self.config.checkpoint.keep:
            keep_copy(self.run_folder / LAST, self.state.step, self.config.checkpoint.keep)
        self.saved()
        self.pace.took("save", time.monotonic() - began)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from ``checkpoint``.

        Raises:
            ResightError: it lacks something, or is of another optimizer.
        """
        try:
            self.model.load_state_dict(checkpoint.part("model"))
            if self.averaged:
                self.averaged.model.load_state_dict(checkpoint.weights())
            restore_optimizer(self.optimizer, checkpoint.part("optimizer"))
            self.state = State(**checkpoint.state)
            if self.state.loss_scale:
                self.scaler.load_state_dict(self.state.loss_scale)
            if self.state.metric != self.config.evaluate.metric:
                self.state.best, self.state.without_gain = None, 0
            self.state.metric = self.config.evaluate.metric
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise ResightError(f"the training cannot go on from it: {error}", where=self.run_folder / LAST) from error
        log.info("resumed at step %d", self.state.step)

    def _log(self) -> None:
        """One line of metrics.jsonl: the means over the steps since the last."""
        recent, self.state.recent = self.state.recent, []
        mean = {name: sum(row.get(name, 0.0) for row in recent) / len(recent) for name in recent[-1]}
        held = round(peak_memory(self.device) / 1e9, 2)  # of the first process, without its loader's
        self.journal.row(self.state.step, "train", mean, seconds=round(self.seconds(), 1), memory_gb=held)

    def _diverged(self, what: str, examples: list[TrainingExample], values: dict[str, float]) -> NoReturn:
        """Writes the batch out and stops; the last checkpoint is from before."""
        text = ", ".join(f"{name} {value:g}" for name, value in values.items())
        folder = write_batch(self.run_folder / "diverged", examples, self.plan.classes)
        raise Diverged(
            f"the {what} is not finite at step {self.state.step + 1} ({text}); the batch is in {folder}",
            where=self.run_folder,
            fix=ADVICE,
        )

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return bool(patience) and self.state.without_gain >= patience

    def _result(self, code: int, message: str) -> TrainResult:
        return TrainResult(str(self.run_folder), code, message, self.state.best, self.state.step)

    def _closing(self) -> str:
        state = self.state
        best = (
            f"best {self.config.evaluate.metric} {state.best:.3f} on {self.plan.validation_name}; "
            if state.best is not None
            else ""
        )
        waiting = state.waited / max(self.seconds() - state.evaluation_seconds, 1e-9)
        skipped = f", {state.skipped} records skipped" if state.skipped else ""
        return (
            f"{counted(state.step, 'step')} in {duration(self.seconds())} ({waiting:.1%} waiting for data){skipped}; "
            f"{best}run folder {self.run_folder}"
        )
