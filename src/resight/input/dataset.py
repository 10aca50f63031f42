"""From records to samples: what becomes of each record on its way into training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..config.tree import Config, ModelConfig
from ..errors import ResightError
from ..random_streams import stream_seed, torch_stream
from ..records.example import Record, on_image
from ..records.reader import RecordSplit
from ..tfod.boxes import tfod_boxes
from ..tfod.operations import prepare
from .augment import FlipRule, Sample, augment, crop
from .sampler import BatchSampler, SampleKey, repeat_factors
from .target import Target, crop_size, input_size, to_input_frame

# Steps of the scale jitter. A CPU prepares and keeps code for every shape of a convolution, so few shapes are faster
# and smaller than many.
SCALES = 8


@dataclass(frozen=True)
class TrainingExample:
    """What a loader worker hands over.

    image ``[3, H, W]`` at the network's size, uint8 or, in the TFOD dialect, float32 0..255.
    """

    image: torch.Tensor
    target: Target
    record: int


class TrainingSet(Dataset[TrainingExample | ResightError]):
    """Records as training sees them. An item that cannot be used is returned as the error that says why."""

    def __init__(self, split: RecordSplit, classes: Sequence[str], config: Config) -> None:
        self.split, self.config = split, config
        self.rule = FlipRule.of(classes, config.augment.flip_pairs)
        if config.augment.operations is not None and not config.model.is_tfod:
            raise ResightError(f"TFOD's operations are not for {config.model.name}", where="augment.operations")

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: SampleKey) -> TrainingExample | ResightError:
        try:
            record = self.split[item.record]
            image = self.split.pixels(item.record, record)
            labels = self.split.labels(record)
            if self.config.model.is_tfod:
                record, labels = tfod_boxes(record, labels, where=self.split.where(item.record))
        except ResightError as error:
            return error
        seed, config = self.config.train.seed, self.config
        place = (item.epoch, item.record, item.copy)
        generator = torch_stream(seed, "augment", *place)
        if config.model.is_tfod:
            sample = prepare(as_stored(record, labels, image), config, generator)
        else:
            sample = to_sample(record, labels, image)
            height, width = sample.image.shape[1:]
            size = input_size(height, width, config.model)
            rows, columns = crop_size(height, width, config.model)
            sample = crop(sample, rows / height, columns / width, generator)
            # One scale for a whole batch: images of one size need no padding.
            low, high = config.augment.scale
            draw = int(torch.randint(SCALES, (), generator=torch_stream(seed, "scale", item.epoch, item.batch)))
            scale = low * math.exp(draw / (SCALES - 1) * math.log(high / low))
            sample = augment(sample, size, scale, config.augment, self.rule, generator)
        target = Target(sample.boxes, sample.labels, sample.crowd, stream_seed(seed, "minibatch", *place))
        return TrainingExample(sample.image.contiguous(), target, item.record)


def training_batches(split: RecordSplit, config: Config) -> BatchSampler:
    """The batches that training takes, from its first step on."""
    sizes, threshold = split.sizes, config.data.repeat_threshold
    labels = np.split(split.box_labels, split.index.starts[1:-1]) if threshold else []
    return BatchSampler(
        config.train.seed,
        np.minimum(sizes, config.model.tile) if config.model.tile else sizes,
        config.train.batch_size,
        shards=split.shard_numbers,
        window=config.data.window,
        repeats=repeat_factors(labels, len(split.label_map.names), threshold) if threshold else None,
    )


def to_sample(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The decoded ``image`` ``[H, W, 3]`` uint8 of the record with the boxes of known classes.

    Boxes without area or with a NaN are left out (``data check`` lists them).
    """
    height, width = image.shape[:2]
    record = on_image(record, height, width)
    boxes, usable = _inside(record.boxes, np.array([width, height, width, height]))
    keep = usable & (labels >= 0)
    return _sample(image, boxes[keep], labels[keep], record.crowd[keep])


def _inside(boxes: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``boxes`` ``[N, 4]`` cut off at the sides of their images, ``limits`` (width, height, width, height) in pixels,
    and which of them are finite and have an area there."""
    cut = np.clip(np.nan_to_num(boxes), 0, limits).astype(np.float32)
    return cut, np.isfinite(boxes).all(1) & (cut[:, 2:] - cut[:, :2] > 0.5).all(1)


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
    """Sizes ``[N, 2]`` (width, height) and centres ``[N, 2]`` of the ordinary boxes of known classes at the network's
    resolution."""
    keep = usable_boxes(split) & (split.box_labels >= 0) & ~split.index.boxes["crowd"]
    return to_input_frame(split.index.boxes["boxes"][keep], split.sizes[split.box_records[keep]], config)


def usable_boxes(split: RecordSplit) -> np.ndarray:
    """``[M]`` bool: whether each box of the index is finite and has an area in its image."""
    return _inside(split.index.boxes["boxes"], np.tile(split.sizes, 2)[split.box_records])[1]


def training_view(
    split: RecordSplit, classes: Sequence[str], config: Config, limit: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[str]]]:
    """The first ``limit`` images that training takes, as it sees them: file, ``[H, W, 3]`` uint8, boxes xyxy, names."""
    dataset = TrainingSet(split, classes, config)
    for item in itertools.islice(itertools.chain.from_iterable(training_batches(split, config)), limit):
        example = dataset[item]
        if isinstance(example, ResightError):
            raise example
        names = [
            f"{classes[label]} (ignored)" if crowd and not config.model.is_tfod else classes[label]
            for label, crowd in zip(example.target.labels.tolist(), example.target.crowd.tolist(), strict=True)
        ]
        file = split.index.strings["filename"][item.record]
        yield file, example.image.round().to(torch.uint8).permute(1, 2, 0).numpy(), example.target.boxes.numpy(), names


def boxes_beyond(split: RecordSplit, limit: int) -> int:
    """How many boxes of known classes exceed ``limit`` in their images; training with TFOD's limit never sees them."""
    return int(np.maximum(np.bincount(split.box_records[split.box_labels >= 0]) - limit, 0).sum())
