"""What a training is going to do, worked out before its first step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..data.augment import HANDED, suggest_flip_pairs
from ..data.dataset import EndlessBatches, network_boxes, record_sizes
from ..data.records import Records, RecordSplit, open_records
from ..errors import ResightError
from ..models.anchors import AnchorSettings, fit_anchors, reachable_iou
from ..models.build import build_model, default_anchors, level_strides, load_matching, load_pretrained
from ..models.faster_rcnn import FasterRCNN
from ..models.heads import count_parameters
from .schedule import base_rate

LEAST_STEPS, MOST_STEPS, EPOCHS = 1_000, 50_000, 40


@dataclass(frozen=True)
class Plan:
    """A training ready to begin: everything resolved, nothing yet done."""

    config: Config
    records: Records
    classes: tuple[str, ...]
    train: RecordSplit
    watch: RecordSplit | None  # the split that training evaluates on
    watch_name: str
    steps: int
    batches: EndlessBatches
    anchors: AnchorSettings
    recall: tuple[float, float]  # share of training boxes with a reachable IoU of .5 and of .7
    notes: tuple[str, ...]

    def text(self) -> str:
        config, counts = self.config, self.counts()
        size = f"{config.model.min_size}-{config.model.max_size} px"
        length = f"{self.steps:,} steps of {config.train.batch_size * config.train.accumulate} images"
        if config.train.max_minutes:
            length = f"{config.train.max_minutes:g} minutes, at most {length}"
        rate = base_rate(config.train)
        rows = [
            f"model     {config.model.name}, {size}, start: {config.model.start}",
            f"data      {len(self.train):,} images to train on"
            + (f", {len(self.watch):,} to watch ({self.watch_name})" if self.watch else ", none to watch"),
            f"training  {length} = {self.steps / self.batches.per_epoch * config.train.accumulate:.1f} epochs, "
            f"{config.train.optimizer} at {rate:.2g}",
            f"anchors   {'fitted' if config.model.anchors == 'fit' else 'default'}, smallest "
            f"{min(self.anchors.sizes[0]):g} px; {self.recall[0]:.1%} of the boxes can be reached at IoU .5, "
            f"{self.recall[1]:.1%} at .7",
            f"classes   {', '.join(f'{name} {counts[name]:,}' for name in self.classes)}",
        ]
        return "\n".join([*rows, *(f"note      {note}" for note in self.notes)])

    def counts(self) -> Counter[str]:
        """Training boxes of each class."""
        counts: Counter[str] = Counter()
        for record in self.train.summaries:
            counts.update(self.classes[label] for label in self.train.labels(record) if label >= 0)
        return counts


def make_plan(config: Config) -> Plan:
    """
    Raises:
        ResightError: no data, an empty training split, options that contradict each other.
    """
    data = config.data
    if not data.path and not data.train:
        raise ResightError("no data", where="data.path", fix="Name a records folder with --data RECORDS.")
    records = open_records(
        data.path,
        train=data.train,
        val=data.val,
        test=data.test,
        label_map=data.label_map,
        as_stored=data.as_stored,
        on_bad=data.on_bad_record,
    )
    train = records.splits.get("train")
    if train is None or len(train) == 0:
        raise ResightError("there are no records to train on", where=data.path or data.train)
    if config.train.epochs and config.train.steps:
        raise ResightError("epochs and steps are both given; one decides", where="train.epochs")
    classes = records.label_map.names
    watch_name = next((name for name in ("val", "test") if len(records.splits.get(name) or ())), "")
    config, notes = _flip_pairs(config, classes)
    batches = EndlessBatches(config.train.seed, record_sizes(train), config.train.batch_size)
    if watch_name == "test":
        notes.append("there is no val split, so the test split is watched and the best checkpoint chosen on it")
    sizes, centers = network_boxes(train, config.model.min_size, config.model.max_size)
    if len(sizes) == 0:
        raise ResightError("no training image has a box", where=train.shards[0])
    strides = level_strides(config.model.name)
    anchors = default_anchors(config.model.name)
    if config.model.anchors == "fit":
        anchors = fit_anchors(sizes, centers, strides, per_level=len(anchors.sizes[0]))
    iou = reachable_iou(sizes, centers, anchors, strides)
    plan = Plan(
        config,
        records,
        classes,
        train,
        records.splits[watch_name] if watch_name else None,
        watch_name,
        _steps(config, batches.per_epoch),
        batches,
        anchors,
        (float((iou >= 0.5).mean()), float((iou >= 0.7).mean())),
        tuple(notes),
    )
    empty = [name for name in classes if plan.counts()[name] == 0]
    if empty:
        note = f"no training box of {', '.join(empty)}"
        plan = Plan(**{**plan.__dict__, "notes": (*plan.notes, note)})
    return plan


def _steps(config: Config, per_epoch: int) -> int:
    """Optimizer steps of the whole training; without a word 40 epochs, but 1,000 steps at least and 50,000 at most."""
    train = config.train
    a_pass = per_epoch / train.accumulate
    if train.steps:
        return train.steps
    if train.epochs:
        return max(round(train.epochs * a_pass), 1)
    if train.max_minutes:
        return MOST_STEPS
    return min(max(round(EPOCHS * a_pass), LEAST_STEPS), MOST_STEPS)


def _flip_pairs(config: Config, classes: tuple[str, ...]) -> tuple[Config, list[str]]:
    augment = config.augment
    unknown = [name for pair in augment.flip_pairs.items() for name in pair if name not in classes]
    if unknown:
        raise ResightError(f"no class is called {', '.join(unknown)}", where="augment.flip_pairs")
    if not augment.flip:
        return config, []
    pairs = augment.flip_pairs or suggest_flip_pairs(classes)
    config = config.model_copy(update={"augment": augment.model_copy(update={"flip_pairs": pairs})})
    notes = []
    if pairs:
        notes.append("a flip exchanges " + ", ".join(f"{left} and {right}" for left, right in pairs.items()))
    paired = {*pairs, *pairs.values()}
    alone = [name for name in classes if HANDED.search(name) and name not in paired]
    if alone:
        notes.append(f"images with {', '.join(alone)} are not flipped: no class is their mirror image")
    return config, notes


def start_model(plan: Plan) -> tuple[FasterRCNN, dict[str, Any]]:
    """The model with the weights it starts from, and a report of them."""
    config = plan.config.model
    model = build_model(config, len(plan.classes), plan.anchors)
    start = config.start
    report: dict[str, Any] = {"start": start}
    if start == "pretrained":
        report["start"] = load_pretrained(model, config.name)
    elif start != "none":
        from .checkpoints import load_checkpoint
        from .run_folder import find_checkpoint

        path = find_checkpoint(start)
        report |= {"start": str(path), "new": load_matching(model, load_checkpoint(path).weights())}
    report["parameters"], report["trained"] = count_parameters(model)
    return model, report
