"""What a training is going to do, worked out before its first step."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..config.defaults import EPOCHS, MAX_STEPS, MIN_STEPS
from ..config.tree import Config, ModelConfig
from ..detection.anchors import AnchorSettings, reachable_iou
from ..dialect import anchors_for, dialect_of
from ..errors import ResightError, counted, listed
from ..input.dataset import finite_boxes, network_boxes, repeat_threshold, training_batches
from ..input.loader import worker_count
from ..input.sampler import BatchSampler, image_classes
from ..io.object_store import is_remote
from ..models.build import named_device
from ..models.checkpoints import Checkpoint
from ..records.reader import Records, RecordSplit, open_configured
from .choice import Choice, choose, is_open
from .optim import base_lr
from .reach_notes import reach_notes
from .start import Start, find_start

MIN_SIZE = 32  # pixels: the stride of the coarsest features
MAX_SIZE = 16_384  # pixels
SMALL = 2  # strides of the finest features: smaller objects are hardly found
NOTED = 0.05  # share of the boxes


@dataclass(frozen=True)
class Plan:
    """A training ready to begin: everything resolved, nothing yet done."""

    config: Config
    records: Records
    classes: tuple[str, ...]
    train: RecordSplit
    validation: RecordSplit | None  # the split that training evaluates on
    steps: int
    batches: BatchSampler
    anchors: AnchorSettings
    recall: tuple[float, float]  # share of training boxes with a reachable IoU of .5 and of .7
    counts: Mapping[str, tuple[int, int]]  # class -> training images with it and boxes of it
    start: Start | None  # trained weights to start from
    notes: tuple[str, ...]
    choice: Choice | None = None  # of the input size for the minutes given

    @property
    def workers(self) -> int:
        """Processes that load the batches."""
        return worker_count(self.config.data.workers, named_device(self.config.train.device))

    @property
    def validation_name(self) -> str:
        return self.validation.name if self.validation else ""

    def text(self) -> str:
        config = self.config
        size = f"{config.model.min_size}-{config.model.max_size} px"
        length = counted(self.steps, "step") + f" ({self.epochs(self.steps)})"
        if minutes := config.train.max_minutes:
            bounded = config.train.steps or config.train.epochs
            length = f"{minutes:g} min, at most {length}" if bounded else f"{minutes:g} min"
        batch = counted(config.train.batch_size * config.train.accumulate, "image")
        held_out = f"{len(self.validation):,} for validation ({self.validation_name})" if self.validation else ""
        rate = base_lr(config.train)
        reached = f"anchor recall {self.recall[0]:.1%} at IoU .5, {self.recall[1]:.1%} at IoU .7"
        classes = (f"{name} {boxes:,} in {images:,} images" for name, (images, boxes) in self.counts.items())
        rows = [
            f"model     {config.model.name}, {size}, start: {config.model.start}",
            f"data      {counted(len(self.train), 'image')} to train on, {held_out or 'none for validation'}",
            f"training  {length} in batches of {batch}, {config.train.optimizer}, learning rate {rate:.2g}"
            + f", {config.train.precision}" * (config.train.precision != "float32"),
            f"anchors   from {min(self.anchors.sizes[0]):g} px; {reached}",
            f"classes   {', '.join(classes)}",
        ]
        if self.choice:
            rows.insert(1, f"size      {self.choice.text()}")
        return "\n".join([*rows, *(f"note      {note}" for note in self.notes)])

    def epochs(self, steps: int) -> str:
        """``3.4 epochs``: so many passes over the data are ``steps``."""
        passes = steps / self.batches.per_epoch * self.config.train.accumulate
        return f"{passes:,.0f} epochs" if passes >= 100 else f"{passes:.1f} epochs"


def make_plan(
    config: Config, resumed: Checkpoint | None = None, default_step: Callable[[Config], float | None] | None = None
) -> Plan:
    """The plan of a training, which goes on from ``resumed`` instead of from ``model.start``. Raises ResightError: no
    data, an empty training split, options that contradict each other.

    Args:
        default_step: measures the seconds that a step of the default takes here, by which the input size is chosen for
            the minutes given; without, and where a training is resumed, none is chosen.
    """
    config = _with_precision(_checked(config), resumed)
    records = open_configured(config.data)
    if dialect_of(config.model).classes_by_id:
        records = records.by_id()
    train, classes = _training_split(records, config), records.label_map.names
    validation, notes = _validation_split(records)
    choice = None
    if default_step and resumed is None and is_open(config):
        if seconds := default_step(config):
            config, choice = choose(config, train, seconds, evaluated=validation is not None)
        else:
            notes.append(
                "no input size was chosen for the minutes given: a step of the default does not fit into memory"
            )
    start, config = find_start(config, resumed)
    config = _with_repeats(config, train, resumed)
    config, flip_notes = dialect_of(config.model).prepare_plan(config, classes, train)
    dialect, batches = dialect_of(config.model), training_batches(train, config)
    sizes, centers = network_boxes(train, config.model)
    if len(sizes) == 0:
        raise ResightError("no training image has a box of a known class", where=train.shards[0])
    strides = dialect.level_strides(config.model)
    trained = resumed.card.anchors if resumed is not None else start and start.anchors
    anchors = trained or anchors_for(config.model, sizes, centers)
    iou = reachable_iou(sizes, centers, anchors, strides)
    counts, unknown = _counts(train, classes)
    notes = [*flip_notes, *notes, *_batch_notes(config, train, batches)]
    notes += _size_notes(config.model, sizes, iou, strides[0]) + reach_notes(train, iou, config.model)
    notes += _box_notes(config, train, validation)
    notes += _crowded_notes(config, train, validation) + _data_notes(records, counts, unknown)
    return Plan(
        config=config,
        records=records,
        classes=classes,
        train=train,
        validation=validation,
        steps=_steps(config, len(train), batches.per_epoch, resumed),
        batches=batches,
        anchors=anchors,
        recall=(float((iou >= 0.5).mean()), float((iou >= 0.7).mean())),
        counts=counts,
        start=start,
        notes=tuple(notes),
        choice=choice,
    )


def _checked(config: Config) -> Config:
    """``config`` with absolute paths: a run is resumed and evaluated from any folder."""
    data = config.data
    if not data.path and not data.train:
        raise ResightError("no data", where="data.path", fix="Name a records folder with --data RECORDS.")
    dialect_of(config.model).check_name(config.model.name)
    if config.model.min_size < MIN_SIZE:
        raise ResightError(f"is {config.model.min_size} px, and the minimum is {MIN_SIZE}", where="model.min_size")
    if config.model.max_size > MAX_SIZE:
        raise ResightError(f"is {config.model.max_size} px, and the maximum is {MAX_SIZE:,}", where="model.max_size")
    if data.path:
        return config.model_copy(update={"data": data.model_copy(update={"path": _absolute(data.path)})})
    globs = {name: tuple(map(_absolute, getattr(data, name))) for name in ("train", "val", "test")}
    data = data.model_copy(update={**globs, "label_map": data.label_map and _absolute(data.label_map)})
    return config.model_copy(update={"data": data})


def _with_precision(config: Config, resumed: Checkpoint | None) -> Config:
    """``config`` with the arithmetic that ``train.precision = "auto"`` means: that which a run began with, else
    bfloat16 where model and GPU are made for it."""
    if config.train.precision != "auto":
        return config
    precision = "float32"
    if resumed is not None:
        precision = resumed.state.get("precision") or precision
    elif dialect_of(config.model).bfloat16 and named_device(config.train.device).type == "cuda":
        precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else precision
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})


def _with_repeats(config: Config, train: RecordSplit, resumed: Checkpoint | None) -> Config:
    """``config`` with the ``data.repeat_threshold`` that is meant where none is set: that which a run began with, else
    the default for these classes."""
    threshold = repeat_threshold(train, config)
    if config.data.repeat_threshold is None and resumed is not None:
        began = re.search(r"repeat_threshold ([\d.e-]+)", str(resumed.state.get("order")))
        threshold = float(began[1]) if began else 0.0
    return config.model_copy(update={"data": config.data.model_copy(update={"repeat_threshold": threshold})})


def _training_split(records: Records, config: Config) -> RecordSplit:
    """The split to train on; checks it, and what the configuration says of the data and the training's length."""
    data, classes = config.data, records.label_map.names
    train = records.splits.get("train")
    if train is None or len(train) == 0:
        raise ResightError("there are no records to train on", where=data.path or listed(data.train))
    train.check_window(data.window)
    if config.train.epochs and config.train.steps:
        raise ResightError("set epochs or steps, not both", where="train.epochs")
    if data.num_classes not in (None, len(classes)):
        known = f"{counted(len(classes), 'class', 'classes')} ({listed(classes)})"
        message = f"the label map has {known}, and data.num_classes is {data.num_classes}"
        where = data.label_map or data.path or listed(data.train)
        raise ResightError(message, where=where, fix="Make the two agree.")
    return train


def _validation_split(records: Records) -> tuple[RecordSplit | None, list[str]]:
    """The split to evaluate on, "val" or else "test", and notes of it; None without a box to find."""
    split = next((records.splits[name] for name in ("val", "test") if len(records.splits.get(name) or ())), None)
    if split is None:
        return None, ["no validation split: the last weights are saved as best"]
    if not ((split.box_labels >= 0) & ~split.index.boxes["crowd"]).any():
        return None, [f"the {split.name} split has no boxes: no validation; the last weights are saved as best"]
    if split.name == "test":
        return split, ["no val split: the test split validates and chooses the best checkpoint; scores are optimistic"]
    return split, []


def _batch_notes(config: Config, train: RecordSplit, batches: BatchSampler) -> list[str]:
    notes = []
    if config.train.batch_size > batches.places:
        repeats = f", {batches.places:,} with repeats" * (batches.places > len(train))
        notes.append(f"train.batch_size is larger than the training set: a batch is all {len(train):,} images{repeats}")
    if batches.repeats is not None and (more := batches.repeats.max()) >= 1.05:
        notes.append(f"images with rare classes are repeated, up to {more:.1f} times an epoch (data.repeat_threshold)")
    return notes


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _counts(train: RecordSplit, classes: tuple[str, ...]) -> tuple[dict[str, tuple[int, int]], int]:
    """Images with and boxes of each class, and the number of boxes whose class the label map does not know."""
    labels = train.box_labels
    known = labels >= 0
    boxes = np.bincount(labels[known], minlength=len(classes))
    images = np.bincount(image_classes(train.box_records, labels)[1], minlength=len(classes))
    return dict(zip(classes, zip(images.tolist(), boxes.tolist(), strict=True), strict=True)), int((~known).sum())


def _size_notes(model: ModelConfig, sizes: np.ndarray, iou: np.ndarray, stride: int) -> list[str]:
    """Of boxes, ``sizes`` ``[N, 2]`` in pixels of the network's input, with the best ``iou`` ``[N]`` within reach."""
    small, beyond = np.sqrt(sizes.prod(1)) < SMALL * stride, iou < 0.5
    found = []
    if small.mean() >= NOTED:
        found.append(f"{small.mean():.0%} of the boxes are smaller than {SMALL * stride} px at training size")
    if beyond.mean() >= NOTED:
        found.append(f"{beyond.mean():.0%} of the boxes have no anchor with IoU >= .5")
    if not found:
        return []
    remedy = f"--size {2 * model.min_size},{2 * model.max_size} helps, at the cost of time"
    return [f"{' and '.join(found)}: {remedy}{dialect_of(model).size_remedy.format(model.max_size)}"]


def _box_notes(config: Config, train: RecordSplit, validation: RecordSplit | None) -> list[str]:
    """The boxes that are passed over: those without numbers, and in training, though not in TFOD's, without area."""
    notes, passed_over = [], [(train, *dialect_of(config.model).trained_boxes(train))]
    if validation:
        passed_over.append((validation, finite_boxes(validation), "corners that are not finite"))
    for split, taken, why in passed_over:
        if not taken.all():
            number = counted(int((~taken).sum()), f"{split.name} box", f"{split.name} boxes")
            notes.append(f"left out: {number} with {why}; the first in {split.where(split.box_records[~taken][0])}")
    return notes


def _crowded_notes(config: Config, train: RecordSplit, validation: RecordSplit | None) -> list[str]:
    """Images with more objects than the trained model would report, and a number of detections that has no effect."""
    most, notes = config.model.most, []
    for split in filter(None, (train, validation)):
        keep = (split.box_labels >= 0) & ~split.index.boxes["crowd"]
        images, labels = split.box_records[keep], split.box_labels[keep]
        if crowded := most.crowded(images, labels, split.index.strings["filename"].__getitem__):
            notes.append(f"{split.name}: {crowded[0]}")
    if (counted_most := config.evaluate.max_detections or 0) > most.of_a_class:
        notes.append(f"evaluate.max_detections = {counted_most:,} is more than an image can have ({most.limit})")
    return notes


def _data_notes(records: Records, counts: Mapping[str, tuple[int, int]], unknown: int) -> list[str]:
    """What is wrong with the data and does not stop the training."""
    notes = []
    if empty := [name for name, (_, boxes) in counts.items() if not boxes]:
        notes.append(f"no training box of {listed(empty)}")
    if unknown:
        notes.append(f"{unknown:,} training boxes are of classes that the label map does not have, and are left out")
    for kind, count in Counter(problem.kind for problem in records.problems).most_common():
        first = next(problem for problem in records.problems if problem.kind == kind)
        notes.append(f"{kind}: {count:,}, the first: {first.where}: {first.message}")
    return notes


def _steps(config: Config, images: int, per_epoch: int, resumed: Checkpoint | None = None) -> int:
    """Optimizer steps of the whole training; by default as many as 40 passes over the ``images`` take, which repeats do
    not make longer, but 1,000 at least and 50,000 at most; of a resumed one as many as it began with."""
    train = config.train
    if train.steps:
        return train.steps
    if train.epochs:
        return max(round(train.epochs * per_epoch / train.accumulate), 1)
    if train.max_minutes:
        return MAX_STEPS
    if resumed is not None and (began := resumed.state.get("default_steps")):
        return int(began)
    batches = -(-images // train.batch_size)
    if resumed is not None and getattr(resumed.card.model, "heads", 1) == 1:
        batches = per_epoch  # versions that did not note the length counted repeats as long as models had one box head
    return min(max(round(EPOCHS * batches / train.accumulate), MIN_STEPS), MAX_STEPS)
