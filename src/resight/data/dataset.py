"""From records to samples: which records make which batch, and what becomes of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..config import Config, ModelConfig
from ..errors import ResightError
from ..random_streams import numpy_stream, stream_seed, torch_stream
from .augment import FlipRule, Sample, augment
from .example import Record, on_image
from .images import decode
from .records import RecordSplit
from .target import Target, network_size
from .tfod_boxes import tfod_boxes
from .tfod_operations import prepare

# Steps of the scale jitter. A CPU prepares and keeps code for every shape of a convolution, so few shapes are faster
# and smaller than many.
SCALES = 8


@dataclass(frozen=True)
class Item:
    """One place in a batch: the record, and the numbers its draws depend on."""

    epoch: int
    batch: int
    record: int


@dataclass(frozen=True)
class TrainingExample:
    """What a loader worker hands over.

    image ``[3, H, W]`` at the network's size, uint8 or, in the TFOD dialect, float32 0..255.
    """

    image: torch.Tensor
    target: Target
    record: int


def epoch_batches(
    seed: int, epoch: int, sizes: np.ndarray, batch_size: int, shards: np.ndarray | None = None, window: int = 1
) -> list[list[Item]]:
    """The batches of an epoch, a pure function of its arguments.

    Records are permuted, then landscape and portrait images are put in batches of their own, so that little of a batch
    is padding; what is left over of both makes the last ones. Where there are more shards than ``window``, no more than
    so many have their turn at a time, and this is done in one stretch of the order after another.

    Args:
        sizes: ``[N, 2]`` widths and heights of all records.
        shards: ``[N]`` int64, the shard of each; by default one for all.
    """
    mixing = numpy_stream(seed, "batches", epoch)
    mixed: list[list[int]] = []
    for order in _stretches(
        seed, epoch, np.zeros(len(sizes), np.int64) if shards is None else shards, window, batch_size
    ):
        portrait = sizes[order, 1] > sizes[order, 0]
        batches: list[list[int]] = []
        rest: list[int] = []
        for kind in (order[~portrait], order[portrait]):
            full = len(kind) // batch_size * batch_size
            batches += kind[:full].reshape(-1, batch_size).tolist()
            rest += kind[full:].tolist()
        batches += [rest[start : start + batch_size] for start in range(0, len(rest), batch_size)]
        mixed += [batches[place] for place in mixing.permutation(len(batches))]
    return [[Item(epoch, number, record) for record in batch] for number, batch in enumerate(mixed)]


def _stretches(seed: int, epoch: int, shards: np.ndarray, window: int, batch_size: int) -> Iterator[np.ndarray]:
    """The permuted records, cut between batches where the next shard has its turn."""
    draw = numpy_stream(seed, "order", epoch)
    count = int(shards.max(initial=0)) + 1
    if count <= window:
        yield draw.permutation(len(shards))
        return
    # Shard after shard begins; its records are spread evenly over the turns of the window - 1 that follow it.
    turn = draw.permutation(count)[shards] + (window - 1) * draw.random(len(shards))
    order = np.lexsort((draw.random(len(shards)), turn))
    turn = turn[order]
    start = 0
    while start < len(order):
        end = int(np.searchsorted(turn, turn[start] + 1, "right"))
        if end < len(order):
            end = start + max((end - start) // batch_size, 1) * batch_size
        yield order[start:end]
        start = end


class TrainingSet(Dataset[TrainingExample | ResightError]):
    """Records as training sees them. An item that cannot be used is returned as the error that says why."""

    def __init__(self, split: RecordSplit, classes: Sequence[str], config: Config) -> None:
        self.split, self.config = split, config
        self.rule = FlipRule.of(classes, config.augment.flip_pairs)
        if config.augment.operations is not None and not config.model.is_tfod:
            raise ResightError(f"TFOD's operations are not for {config.model.name}", where="augment.operations")

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: Item) -> TrainingExample | ResightError:
        try:
            record = self.split[item.record]
            image = decode(record.encoded, self.split.where(item.record))
            labels = self.split.labels(record)
            if self.config.model.is_tfod:
                record, labels = tfod_boxes(record, labels, where=self.split.where(item.record))
        except ResightError as error:
            return error
        seed, config = self.config.train.seed, self.config
        generator = torch_stream(seed, "augment", item.epoch, item.record)
        if config.model.is_tfod:
            sample = prepare(as_stored(record, labels, image), config, generator)
        else:
            sample = to_sample(record, labels, image)
            size = network_size(sample.image.shape[1], sample.image.shape[2], config.model)
            # One scale for a whole batch: images of one size need no padding.
            low, high = config.augment.scale
            draw = int(torch.randint(SCALES, (), generator=torch_stream(seed, "scale", item.epoch, item.batch)))
            scale = low * math.exp(draw / (SCALES - 1) * math.log(high / low))
            sample = augment(sample, size, scale, config.augment, self.rule, generator)
        target = Target(
            sample.boxes, sample.labels, sample.crowd, stream_seed(seed, "minibatch", item.epoch, item.record)
        )
        return TrainingExample(sample.image.contiguous(), target, item.record)


@dataclass(frozen=True)
class EndlessBatches:
    """The batches of all epochs, from a place on: the one order that training follows."""

    seed: int
    sizes: np.ndarray
    batch_size: int
    start: int = 0  # batches already taken
    shards: np.ndarray | None = None
    window: int = 1

    @property
    def per_epoch(self) -> int:
        return -(-len(self.sizes) // self.batch_size)

    def __iter__(self) -> Iterator[list[Item]]:
        first, skip = divmod(self.start, self.per_epoch)
        for epoch in itertools.count(first):
            batches = epoch_batches(self.seed, epoch, self.sizes, self.batch_size, self.shards, self.window)
            yield from batches[skip if epoch == first else 0 :]


def to_sample(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The decoded ``image`` ``[H, W, 3]`` uint8 of the record with the boxes of known classes.

    Boxes without area or with a NaN are left out (``data check`` lists them).
    """
    height, width = image.shape[:2]
    record = on_image(record, height, width)
    boxes = np.clip(np.nan_to_num(record.boxes), 0, [width, height, width, height]).astype(np.float32)
    keep = (labels >= 0) & np.isfinite(record.boxes).all(1)
    keep &= (boxes[:, 2] - boxes[:, 0] > 0.5) & (boxes[:, 3] - boxes[:, 1] > 0.5)
    return _sample(image, boxes[keep], labels[keep], record.crowd[keep])


def as_stored(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The decoded ``image`` with all boxes of the record, as they are, for the TFOD dialect."""
    return _sample(image, on_image(record, *image.shape[:2]).boxes, labels, record.crowd)


def _sample(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray) -> Sample:
    return Sample(
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(boxes.astype(np.float32)),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(crowd),
    )


def network_boxes(split: RecordSplit, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sizes ``[N, 2]`` (width, height) and centres ``[N, 2]`` of all ordinary boxes at the network's resolution."""
    corners = [np.zeros((0, 4))]
    for record in split.summaries:
        height, width = network_size(record.height, record.width, config)
        scale = np.array([width / record.width, height / record.height] * 2)
        corners.append(record.boxes[~record.crowd] * scale)
    boxes = np.concatenate(corners)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    return boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2


def training_view(
    split: RecordSplit, classes: Sequence[str], config: Config, limit: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[str]]]:
    """The first images of the first epoch as training sees them: file, ``[H, W, 3]`` uint8, boxes xyxy, names."""
    dataset = TrainingSet(split, classes, config)
    sizes = record_sizes(split)
    batches = epoch_batches(
        config.train.seed, 0, sizes, config.train.batch_size, split.shard_numbers, config.data.window
    )
    for item in [item for batch in batches for item in batch][:limit]:
        example = dataset[item]
        if isinstance(example, ResightError):
            raise example
        names = [
            f"{classes[label]} (ignored)" if crowd and not config.model.is_tfod else classes[label]
            for label, crowd in zip(example.target.labels.tolist(), example.target.crowd.tolist(), strict=True)
        ]
        file = split.summaries[item.record].filename
        yield file, example.image.round().to(torch.uint8).permute(1, 2, 0).numpy(), example.target.boxes.numpy(), names


def boxes_beyond(split: RecordSplit, limit: int) -> int:
    """How many boxes of known classes exceed ``limit`` in their images; training with TFOD's limit never sees them."""
    return sum(max(int((split.labels(record) >= 0).sum()) - limit, 0) for record in split.summaries)


def record_sizes(split: RecordSplit) -> np.ndarray:
    """``[N, 2]`` int64 widths and heights."""
    return np.array([[record.width, record.height] for record in split.summaries], dtype=np.int64).reshape(-1, 2)
