"""From a record to the input of a network of TFOD's, and which of its boxes TFOD trains and measures on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..config.tree import Config
from ..errors import ResightError, listed
from ..input.augment import Sample
from ..input.sampler import SampleKey
from ..random_streams import torch_stream
from ..records.example import Record, on_image
from ..records.reader import RecordSplit
from .config import TfodModelConfig
from .operations import apply_operations
from .parts import tfod_resize


class TfodTransform:
    """What TFOD gives the network: all operations, its resizing, and the first ``max_boxes`` of the boxes; the image
    ``[3, H, W]`` is float32 0..255."""

    def __init__(self, config: Config) -> None:
        assert isinstance(config.model, TfodModelConfig)
        self.model, self.seed, self.operations = config.model, config.train.seed, config.augment.operations or ()

    def __call__(self, record: Record, labels: np.ndarray, image: np.ndarray, key: SampleKey, where: str) -> Sample:
        generator = torch_stream(self.seed, "augment", key.epoch, key.record, key.copy)
        sample = to_sample(*tfod_boxes(record, labels, where=where), image)
        sample = replace(sample, image=sample.image.to(torch.float32))
        sample = apply_operations(self.operations, sample, generator)
        height, width = sample.image.shape[1:]
        rows, columns = self.model.fit_size(height, width)
        boxes = sample.boxes * torch.tensor([columns / width, rows / height] * 2)
        most = self.model.tfod.max_boxes
        pixels = tfod_resize(sample.image, (rows, columns))
        return Sample(pixels, boxes[:most], sample.labels[:most], sample.crowd[:most])


def tfod_boxes(
    record: Record, labels: np.ndarray, limit: int | None = None, where: str = ""
) -> tuple[Record, np.ndarray]:
    """The record with the boxes that TFOD takes, and their class indices.

    Boxes of unknown classes and with a NaN are left out, then all beyond the first ``limit``. What remains passes as it
    is, also without area or outside the image. An area that the record states does not count: it is the box's own.

    Args:
        labels: ``[N]`` int64; -1 is no known class.

    Raises:
        ResightError: a box ends before it begins.
    """
    kept = np.flatnonzero((labels >= 0) & np.isfinite(record.boxes).all(1))
    boxes = record.boxes[kept]
    if turned := kept[(boxes[:, 2:] < boxes[:, :2]).any(1)].tolist():
        shown = listed((f"{number + 1} {record.boxes[number].tolist()}" for number in turned), 3)
        message = f"a box ends before it begins (x1, y1, x2, y2 in pixels): box {shown}"
        fix = "Fix the records; `resight data check` lists all of them."
        raise ResightError(message, where=where or record.filename, fix=fix)
    kept = kept[:limit]
    columns = {name: getattr(record, name)[kept] for name in ("boxes", "label_ids", "difficult", "crowd", "occluded")}
    texts = tuple(record.label_texts[number] for number in kept)
    own = np.full(len(kept), np.nan, np.float32)
    return replace(record, label_texts=texts, area=own, **columns), labels[kept]


def to_sample(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The decoded ``image`` with all boxes of the record as they are; a crowd is an object like any other."""
    boxes = on_image(record, *image.shape[:2]).boxes
    return Sample.of(image, boxes, labels, np.zeros(len(boxes), bool))


def boxes_beyond(split: RecordSplit, limit: int) -> int:
    """How many boxes of known classes exceed ``limit`` in their images; training with TFOD's limit never sees them."""
    return int(np.maximum(np.bincount(split.box_records[split.box_labels >= 0]) - limit, 0).sum())
