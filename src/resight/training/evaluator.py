"""The evaluations of a training: the numbers on the validation split, and whether they are the best so far."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from ..detection.model import DetectionModel
from ..dialect import dialect_of
from ..drawing import draw
from ..errors import ResightError
from ..evaluation.evaluate import evaluation_folder
from ..evaluation.loop import ImageResult, evaluate_images, mean_losses, measure
from ..evaluation.report import about, as_dict
from ..evaluation.saved import to_save, write_evaluation
from ..inference.detector import Detector
from ..models.checkpoints import BEST, ModelMetadata
from .distributed import Distributed
from .metric_logger import MetricLogger
from .plan import Plan
from .state import State

log = logging.getLogger(__name__)

PICTURES = 4  # of the validation split, drawn at every evaluation


@dataclass
class Shard:
    """What this process has of an evaluation; ``pictures`` are its first images."""

    detector: Detector
    results: list[ImageResult] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)


class Evaluator:
    def __init__(self, plan: Plan, run: Path, logger: MetricLogger, distributed: Distributed) -> None:
        self.plan, self.run_folder, self.logger, self.distributed = plan, run, logger, distributed

    def run(
        self, model: DetectionModel, on_error: Callable[[ResightError], None], on_image: Callable[[int, int], bool]
    ) -> Shard | None:
        """What ``model`` finds in this process's share of the images; None without a validation split. ``on_image`` is
        told before each its number, from 1, and their count; where it answers False the evaluation ends."""
        if self.plan.validation is None:
            return None
        model.eval()
        metadata = ModelMetadata.of(model, self.plan.config.model, self.plan.records.label_map)
        detector = Detector.of(model, metadata, next(model.parameters()).device, str(self.run_folder / BEST))
        detector.selected_on = self.plan.validation_name
        shard = Shard(detector)
        own = self.distributed.shard(range(len(self.plan.validation)))
        losses = dialect_of(self.plan.config.model).evaluates_losses
        numbers = count(1)
        wanted = takewhile(lambda _: on_image(next(numbers), len(own)), own)
        images = evaluate_images(shard.detector, self.plan.validation, wanted, on_error=on_error, with_losses=losses)
        for image, result in images:
            shard.results.append(result)
            if len(shard.pictures) < PICTURES:  # always the same
                shard.pictures.append(image)
        model.train()
        return shard

    def finish(self, shard: Shard, state: State, seconds: float) -> bool:
        """Counts and logs what all processes found, notes it in ``state``, and says whether to keep the weights; then
        the evaluation is kept as well, as ``resight evaluate`` would write it."""
        detector, name = shard.detector, self.plan.validation_name
        results = self.distributed.all_gather(shard.results)
        metrics, point = measure(
            [result.truth for result in results],
            [result.detections for result in results],
            self.plan.classes,
            max_detections=self.plan.config.evaluate.max_detections or detector.most.of_a_class,
        )
        for number, (image, result) in enumerate(zip(shard.pictures, shard.results, strict=False)):
            best = result.detections.above(point.score)
            picture = draw(image, best.boxes, best.names, best.scores, labels=len(self.plan.classes) > 1)
            self.logger.picture(f"{name}/{number}", picture, state.step)
        summary, losses = metrics.summary, mean_losses([result.losses for result in results])
        own = dialect_of(detector.config).own_metrics(summary, losses)
        self.logger.row(state.step, name, {**summary, **own}, seconds=round(seconds, 1))
        first, better = state.best is None, state.note_evaluation(summary[state.metric])
        numbers = (f"{key} {summary[key]:.3f}" for key in ("mAP", "AP50", "AP75") if summary[key] is not None)
        log.info("step %d: %s on %s%s", state.step, ", ".join(numbers), name, ", the best so far" if better else "")
        if better or first:
            state.score = point.score
            if self.distributed.is_main:
                told = about(detector, self.plan.records, name) | ({detector.config.dialect: own} if own else {})
                kept = to_save(as_dict(metrics, point, losses=losses, **told), detector, results)
                write_evaluation(evaluation_folder(self.run_folder, name), kept)
        return better or first
