"""From records to samples: what becomes of each record on its way into training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ..config.tree import Config, ModelConfig
from ..errors import ResightError
from ..random_streams import stream_seed
from ..records.example import Record
from ..records.reader import RecordSplit
from .augment import Sample, Unresized
from .sampler import BatchSampler, SampleKey, image_classes, repeat_factors
from .target import Target, to_input_frame


@dataclass(frozen=True)
class TrainingExample:
    """What a loader worker hands over; image ``[3, H, W]`` at the network's size, uint8 or, TFOD's, float32 0..255. One
    that is not ``resized`` has its own size, for the model's ``resize``."""

    image: torch.Tensor
    target: Target
    record: int
    resized: bool = True

    def pin_memory(self) -> TrainingExample:
        """With its image where a GPU copies from without waiting; the target, which is small, stays."""
        return replace(self, image=self.image.pin_memory())


class Transform(Protocol):
    """How an image and its boxes become the network's input, and a target for the losses."""

    def __call__(self, record: Record, labels: np.ndarray, image: np.ndarray, key: SampleKey, where: str) -> Sample:
        """
        Args:
            labels: ``[N]`` int64, the classes of the record's boxes; -1 is no known one.
            image: ``[H, W, 3]`` uint8, the record's, decoded.
            where: the record is.

        Raises:
            ResightError: the record cannot be used.
        """


class TrainingSet(Dataset[TrainingExample | ResightError]):
    """Records as training sees them. An item that cannot be used is returned as the error that says why."""

    def __init__(self, split: RecordSplit, transform: Transform, seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: SampleKey) -> TrainingExample | ResightError:
        split = self.split
        try:
            record = split[item.record]
            image = split.pixels(item.record, record)
            sample = self.transform(record, split.labels(record), image, item, split.where(item.record))
        except ResightError as error:
            return error
        seed = stream_seed(self.seed, "minibatch", item.epoch, item.record, item.copy)
        target = Target(sample.boxes, sample.labels, sample.crowd, seed)
        return TrainingExample(sample.image.contiguous(), target, item.record, not isinstance(sample, Unresized))


def training_batches(split: RecordSplit, config: Config) -> BatchSampler:
    """The batches that training takes, from its first step on."""
    sizes, repeats = split.sizes, None
    if config.model.tile:
        sizes = np.minimum(sizes, config.model.tile)
    if threshold := repeat_threshold(split, config):
        repeats = repeat_factors(split.box_records, split.box_labels, len(split), threshold)
    seed, size, window = config.train.seed, config.train.batch_size, config.data.window
    return BatchSampler(seed, sizes, size, shards=split.shard_numbers, window=window, repeats=repeats)


def repeat_threshold(split: RecordSplit, config: Config) -> float:
    """The share of the images below which a class is oversampled; 0: none is.

    Where nothing is set it is the model's default, but no more than the share of the commonest class: of many classes
    that are all as frequent none is rare.
    """
    if (threshold := config.data.repeat_threshold) is not None:
        return threshold
    _, classes = image_classes(split.box_records, split.box_labels)
    shares = np.bincount(classes) / max(len(split), 1)
    present = shares[shares > 0]
    # Of four digits, which the order in a checkpoint has, too.
    threshold = math.floor(1e4 * min(config.model.repeat_threshold, present.max(initial=0.0))) / 1e4
    return threshold if (present < threshold).any() else 0.0


def finite_boxes(split: RecordSplit) -> np.ndarray:
    """``[M]`` bool: whether each box of the index is finite."""
    return np.isfinite(split.index.boxes["boxes"]).all(1)


def usable_boxes(split: RecordSplit) -> np.ndarray:
    """``[M]`` bool: whether each box of the index is finite and has an area in its image."""
    return boxes_inside(split.index.boxes["boxes"], np.tile(split.sizes, 2)[split.box_records])[1]


def boxes_inside(boxes: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``boxes`` ``[N, 4]`` cut off at the sides of their images, ``limits`` (width, height, width, height) in pixels,
    and which of them are finite and have an area there."""
    cut = np.clip(np.nan_to_num(boxes), 0, limits).astype(np.float32)
    return cut, np.isfinite(boxes).all(1) & (cut[:, 2:] - cut[:, :2] > 0.5).all(1)


def ordinary_boxes(split: RecordSplit) -> np.ndarray:
    """``[M]`` bool: whether each box of the index is usable, of a known class, and no crowd."""
    return usable_boxes(split) & (split.box_labels >= 0) & ~split.index.boxes["crowd"]


def network_boxes(split: RecordSplit, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sizes ``[N, 2]`` (width, height) and centres ``[N, 2]`` of the ordinary boxes at the network's resolution."""
    keep = ordinary_boxes(split)
    return to_input_frame(split.index.boxes["boxes"][keep], split.sizes[split.box_records[keep]], config)
