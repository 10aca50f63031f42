"""Augmentation: what training changes in an image, and with it in its boxes.

The operations are ``torchvision.transforms.v2``'s; every factor is drawn here, from a generator of the image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from ..config.tree import AugmentConfig

# At the beginning of a word or of a hump of it: "turnLeft", "keep_right", but not "bright".
LEFT_RIGHT = re.compile(r"(?<![A-Za-z])(?:left|right|LEFT|RIGHT)|(?:Left|Right)")


@dataclass(frozen=True)
class Sample:
    """One image on its way into training.

    image ``[3, H, W]`` uint8 RGB (TFOD's operations: float32 0..255), boxes ``[N, 4]`` float32 xyxy in its pixels,
    labels ``[N]`` int64 from 0, crowd ``[N]`` bool (neither object nor background; to TFOD an object).
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray) -> Sample:
        """Of an image ``[H, W, 3]`` uint8, which is not copied."""
        return cls(
            torch.from_numpy(image).permute(2, 0, 1),
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(labels.astype(np.int64)),
            torch.from_numpy(crowd),
        )


class Unresized(Sample):
    """One whose image is left to the model to resize; its boxes are in the pixels that it will have there."""


def suggest_flip_pairs(classes: Sequence[str]) -> dict[str, str]:
    """``{"turnLeft": "turnRight"}`` for the classes whose names say so."""
    sides = ("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")
    swapped = {**dict(sides), **{right: left for left, right in sides}}
    known = set(classes)
    left = sorted(name for name in known if "left" in name.lower())
    pairs = {name: LEFT_RIGHT.sub(lambda found: swapped[found[0]], name) for name in left}
    return {name: other for name, other in pairs.items() if other in known and other != name}


@dataclass(frozen=True)
class FlipRule:
    """``partner[class]`` is the class seen in a mirror; -1 where a left/right class has none."""

    partner: tuple[int, ...]

    @classmethod
    def of(cls, classes: Sequence[str], pairs: Mapping[str, str]) -> FlipRule:
        both = {**pairs, **{right: left for left, right in pairs.items()}}
        index = {name: i for i, name in enumerate(classes)}
        own = {name: -1 if LEFT_RIGHT.search(name) else place for name, place in index.items()}
        return cls(tuple(index.get(both[name], -1) if name in both else own[name] for name in classes))


def augment(
    sample: Sample, size: tuple[int, int], scale: float, config: AugmentConfig, rule: FlipRule, generator: Generator
) -> Sample:
    """The sample as training sees it.

    Args:
        size: height and width that the whole image has at the network's resolution.
        scale: factor on that size. The result is never larger than ``config.crop`` of ``size``: of a larger image a
            window is cut out that keeps at least one box whole.
    """
    height, width = (max(round(side * scale), 1) for side in size)
    rows = min(height, max(round(size[0] * config.crop), 32))
    columns = min(width, max(round(size[1] * config.crop), 32))
    sample = resize(crop(sample, rows / height, columns / width, generator), rows, columns)
    if torch.rand((), generator=generator) < config.flip:
        sample = flip(sample, rule)
    return replace(sample, image=jitter_color(sample.image, config.color, generator))


def crop(sample: Sample, share_y: float, share_x: float, generator: Generator) -> Sample:
    """A random window of that share of the image, with a box of those that fit, chosen at random, inside whole.

    Of ten places the one that cuts the fewest boxes is taken. A box of which less than three quarters stay is marked
    crowd where a tenth or more stays, and dropped where less does.
    """
    _, height, width = sample.image.shape
    rows, columns = max(round(height * share_y), 1), max(round(width * share_x), 1)
    if (rows, columns) == (height, width):
        return sample
    places = torch.rand(10, 2, generator=generator, dtype=torch.float64)
    low, high = torch.zeros(2), torch.tensor([float(width - columns), float(height - rows)])
    if len(sample.boxes):
        # Windows begin at whole pixels; between these two places each box lies inside whole.
        first = torch.minimum((sample.boxes[:, 2:] - torch.tensor([columns, rows])).ceil().clamp(min=0), high)
        last = torch.minimum(sample.boxes[:, :2].floor(), high)
        fitting = torch.where((first <= last).all(1) & ~sample.crowd)[0]
        # Where all are larger than the window, any place that meets one will do.
        choice = fitting if len(fitting) else torch.arange(len(sample.boxes))
        chosen = choice[torch.randint(len(choice), (), generator=generator)]
        low, high = torch.minimum(first[chosen], last[chosen]), torch.maximum(first[chosen], last[chosen])
    corners = (low + places * (high - low)).floor().to(torch.int64)
    best, fewest = sample, math.inf
    for x, y in corners.tolist():
        window = _window(sample, x, y, columns, rows)
        cut = float(window.crowd.sum()) + 0.01 * (len(sample.boxes) - len(window.boxes))
        if cut < fewest:
            best, fewest = window, cut
        if cut == 0:
            break
    return best


def _window(sample: Sample, x: int, y: int, width: int, height: int) -> Sample:
    shifted = sample.boxes - torch.tensor([x, y, x, y], dtype=sample.boxes.dtype)
    limits = torch.tensor([width, height, width, height], dtype=shifted.dtype)
    inside = torch.minimum(shifted.clamp(min=0), limits)
    share = area(inside) / area(shifted).clamp(min=1e-6)
    keep = share >= 0.1
    crowd = sample.crowd | (share < 0.75)
    image = sample.image[:, y : y + height, x : x + width]
    return Sample(image, inside[keep], sample.labels[keep], crowd[keep])


def area(boxes: Tensor) -> Tensor:
    """``[N]`` areas of xyxy boxes; 0 where a side is negative."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def resize(sample: Sample, height: int, width: int) -> Sample:
    """The sample at another size; the image bilinear with antialiasing."""
    _, old_height, old_width = sample.image.shape
    if (old_height, old_width) == (height, width):
        return sample
    factors = torch.tensor([width / old_width, height / old_height] * 2, dtype=sample.boxes.dtype)
    image = F.resize(sample.image, [height, width], antialias=True)
    # Rounding must not carry a box over the border.
    boxes = torch.minimum(sample.boxes * factors, torch.tensor([width, height] * 2, dtype=sample.boxes.dtype))
    return replace(sample, image=image, boxes=boxes)


def flip(sample: Sample, rule: FlipRule) -> Sample:
    """The mirror image with classes changed by ``rule``; the sample itself where a class of it has no mirror class."""
    partner = torch.tensor(rule.partner, dtype=torch.int64)[sample.labels] if len(sample.labels) else sample.labels
    return sample if bool((partner < 0).any()) else replace(mirror(sample), labels=partner)


def mirror(sample: Sample) -> Sample:
    """The mirror image, with the same classes."""
    x1, y1, x2, y2 = sample.boxes.unbind(1)
    width = sample.image.shape[2]
    return replace(sample, image=sample.image.flip(2), boxes=torch.stack([width - x2, y1, width - x1, y2], 1))


def jitter_color(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation by factors of up to ``1 + strength``, hue by up to a 20th of a turn."""
    draw = torch.rand(5, generator=generator, dtype=torch.float64)
    if strength == 0 or draw[4] < 0.2:
        return image
    brightness, contrast, saturation = (math.exp((2 * float(d) - 1) * math.log(1 + strength)) for d in draw[:3])
    image = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, brightness), contrast), saturation)
    # Hue costs as much as everything else together, so only a quarter of the images pay for it.
    return F.adjust_hue(image, (8 * float(draw[3]) - 1) * 0.1 * strength) if draw[3] < 0.25 else image
