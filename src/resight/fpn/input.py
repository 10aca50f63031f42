"""From a record to the input of a network with a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..config.tree import Config
from ..errors import ResightError
from ..input.augment import FlipRule, Sample, augment, crop
from ..input.dataset import boxes_inside
from ..input.sampler import SampleKey
from ..input.target import crop_size, input_size
from ..random_streams import torch_stream
from ..records.example import Record, on_image

# Steps of the scale jitter. A CPU prepares and keeps code for every shape of a convolution, so few shapes are faster
# and smaller than many.
SCALES = 8


class FpnTransform:
    """Crop, scale, flip and colour of ``config.augment``; the image ``[3, H, W]`` stays uint8.

    Raises:
        ResightError: the configuration has TFOD's operations.
    """

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        self.config, self.rule = config, FlipRule.of(classes, config.augment.flip_pairs)
        if config.augment.operations is not None:
            raise ResightError(f"TFOD's operations are not for {config.model.name}", where="augment.operations")

    def __call__(self, record: Record, labels: np.ndarray, image: np.ndarray, key: SampleKey, where: str) -> Sample:
        seed, config = self.config.train.seed, self.config
        generator = torch_stream(seed, "augment", key.epoch, key.record, key.copy)
        sample = to_sample(record, labels, image)
        height, width = sample.image.shape[1:]
        size, (rows, columns) = input_size(height, width, config.model), crop_size(height, width, config.model)
        sample = crop(sample, rows / height, columns / width, generator)
        # One scale for a whole batch: images of one size need no padding.
        low, high = config.augment.scale
        draw = int(torch.randint(SCALES, (), generator=torch_stream(seed, "scale", key.epoch, key.batch)))
        scale = low * math.exp(draw / (SCALES - 1) * math.log(high / low))
        return augment(sample, size, scale, config.augment, self.rule, generator)


def to_sample(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The decoded ``image`` ``[H, W, 3]`` uint8 of the record with the boxes of known classes.

    Boxes without area or with a NaN are left out (``data check`` lists them).
    """
    height, width = image.shape[:2]
    record = on_image(record, height, width)
    boxes, usable = boxes_inside(record.boxes, np.array([width, height, width, height]))
    keep = usable & (labels >= 0)
    return Sample.of(image, boxes[keep], labels[keep], record.crowd[keep])
