"""The pictures on which an export is compared with its model: the user's own, where they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ResightError, counted
from ..evaluation.evaluate import data_of, run_folder
from ..inference.detector import Detector
from ..random_streams import numpy_stream
from ..records.reader import RecordSplit, open_configured

SPLITS = ("val", "test", "train")
SAMPLE = 4  # records
RATIOS = 3  # of width to height, at the least
APART = 1.05  # ratios that differ by this factor are two


@dataclass(frozen=True)
class Pictures:
    """``images`` ``[H, W, 3]`` uint8 RGB, and where they are from, in words."""

    images: list[np.ndarray]
    source: str


def pictures_of(model: str | os.PathLike[str], data: str | os.PathLike[str] | None, detector: Detector) -> Pictures:
    """A sample of the records in ``data``, by default those of the run, in three shapes at the least; one black picture
    and one in which nothing is found, if a plain one is such. Generated pictures where there are no records.

    Raises:
        ResightError: ``data`` cannot be read.
    """
    try:
        source, _ = data_of(model, run_folder(model), data)
        records = open_configured(source)
        split = next(records.splits[name] for name in SPLITS if len(records.splits.get(name, ())))
        images = sample(split)
        told = f"{counted(len(images), 'picture')} of '{split.name}' in {records.path or model}"
    except (ResightError, StopIteration) as error:
        if data is not None:
            raise error if isinstance(error, ResightError) else ResightError("holds no images", where=data) from error
        images, told = (
            probe_images()[:-1],
            "generated pictures (no picture of the model's own records can be read: --data RECORDS)",
        )
    images += cropped(images)
    plain = [np.full(images[0].shape, value, np.uint8) for value in (0, 128, 255)]
    empty = next((image for image in plain if not len(detector.detect_whole(image))), plain[1])
    return Pictures([*images, plain[0], *([empty] if empty.any() else [])], told)


def sample(split: RecordSplit) -> list[np.ndarray]:
    """Images of the split from the narrowest to the widest."""
    sizes = split.sizes.clip(min=1)
    order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SAMPLE).round().astype(int))]
    return [split.pixels(index, split[index]) for index in chosen.tolist()]


def cropped(images: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The middle of the first image in other shapes, as many as are missing."""
    ratios: list[float] = []
    for image in images:
        ratio = image.shape[1] / image.shape[0]
        if all(max(ratio / other, other / ratio) > APART for other in ratios):
            ratios.append(ratio)
    height, width = images[0].shape[:2]
    missing = max(RATIOS - len(ratios), 0)
    for rows, columns in [(height, max(width // 2, 1)), (max(height // 2, 1), width)][:missing]:
        y, x = (height - rows) // 2, (width - columns) // 2
        yield images[0][y : y + rows, x : x + columns]


def probe_images() -> list[np.ndarray]:
    """Images of several sizes on which two models are compared: coloured rectangles on noise, and a blank one."""
    images = []
    for number, (height, width) in enumerate([(240, 320), (480, 704), (400, 300), (333, 500), (97, 211)]):
        draw = numpy_stream(0, "probe image", number)
        image = draw.normal(128, 25, (height, width, 3))
        for _ in range(12):
            y, x = draw.integers(0, height - 16), draw.integers(0, width - 16)
            h, w = draw.integers(8, max(height // 3, 9)), draw.integers(8, max(width // 3, 9))
            image[y : y + h, x : x + w] = draw.integers(0, 256, 3)
        images.append(image.clip(0, 255).astype(np.uint8))
    return [*images, np.zeros((120, 160, 3), np.uint8)]
