"""Images as training sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch

from ..config.tree import Config
from ..dialect import training_set
from ..errors import ResightError
from ..input.dataset import training_batches
from ..records.reader import RecordSplit


def training_view(
    split: RecordSplit, classes: Sequence[str], config: Config, limit: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[str]]]:
    """The first ``limit`` images that training takes, as it sees them: file, ``[H, W, 3]`` uint8, boxes xyxy, names."""
    dataset = training_set(split, classes, config)
    for item in islice(chain.from_iterable(training_batches(split, config)), limit):
        example = dataset[item]
        if isinstance(example, ResightError):
            raise example
        labels, crowd = example.target.labels.tolist(), example.target.crowd.tolist()
        names = [
            f"{classes[label]} (ignored)" if ignored else classes[label]
            for label, ignored in zip(labels, crowd, strict=True)
        ]
        file = split.index.strings["filename"][item.record]
        yield file, example.image.round().to(torch.uint8).permute(1, 2, 0).numpy(), example.target.boxes.numpy(), names
