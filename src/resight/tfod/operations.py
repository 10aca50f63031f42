"""TFOD's augmentations, under its names and with its options, of images of float32 0..255 in their own size.

Each is a draw from the generator and a pure function of what was drawn. As in TFOD a flip knows nothing of classes that
have a left and a right, and crowd boxes are boxes like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from ..config.tree import Operation
from ..input.augment import Sample, area, mirror

CROP_ATTEMPTS = 100


def apply_operations(operations: Sequence[Operation], sample: Sample, generator: Generator) -> Sample:
    """The sample, of an image ``[3, H, W]`` float32 0..255, after all operations, which may change H and W."""
    for operation in operations:
        sample = _apply(operation.name, operation.values, sample, generator)
    return sample


def _apply(name: str, options: Mapping[str, float], sample: Sample, generator: Generator) -> Sample:
    height, width = sample.image.shape[1:]
    if name in COLORS:
        draw = _uniform(options.get("min_delta", -options["max_delta"]), options["max_delta"], generator)
        return replace(sample, image=COLORS[name](sample.image, draw))
    if name == "random_square_crop_by_scale":
        return square_crop(sample, *draw_square(height, width, options, generator))
    chance = _uniform(0, 1, generator)
    if name in FLIPS:
        return FLIPS[name](sample) if chance < options["probability"] else sample
    if chance < options["random_coef"]:
        return sample
    window = draw_window(sample.boxes, height, width, options, generator)
    return crop(sample, window, options["overlap_thresh"], bool(options["clip_boxes"]))


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(low: int, end: int, generator: Generator) -> int:
    """From ``low`` to ``end - 1``, ``low`` if that is empty."""
    return int(torch.randint(low, max(end, low + 1), (), generator=generator))


# Colours: of an image float32 0..255, cut to that range.


def adjust_hue(image: Tensor, delta: float) -> Tensor:
    """Hue turned by ``delta`` of a whole turn."""
    # torchvision takes half a turn at most, either way.
    return _bounded(F.adjust_hue(image / 255, delta - round(delta)))


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Each channel stretched about its own mean."""
    image = image / 255
    mean = image.mean((1, 2), keepdim=True)
    return _bounded((image - mean) * factor + mean)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Saturation of the HSV colour times ``factor``, 1 at the most, with hue and value as they are."""
    image = image / 255
    value = image.amax(0)
    # With hue and value fixed, each channel's distance from the value is proportional to the saturation, and the
    # largest of them may grow to the value itself.
    largest = (value - image.amin(0)).clamp(min=torch.finfo(image.dtype).tiny)
    return _bounded(value - (value - image) * torch.minimum(value / largest, torch.tensor(max(factor, 0.0))))


def adjust_brightness(image: Tensor, delta: float) -> Tensor:
    """``delta`` of the whole range added."""
    return _bounded(image / 255 + delta)


def _bounded(image: Tensor) -> Tensor:
    return (image * 255).clamp(0, 255)


COLORS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "random_adjust_hue": adjust_hue,
    "random_adjust_contrast": adjust_contrast,
    "random_adjust_saturation": adjust_saturation,
    "random_adjust_brightness": adjust_brightness,
}


def flip_vertical(sample: Sample) -> Sample:
    """The image upside down."""
    x1, y1, x2, y2 = sample.boxes.unbind(1)
    height = sample.image.shape[1]
    return replace(sample, image=sample.image.flip(1), boxes=torch.stack([x1, height - y2, x2, height - y1], 1))


FLIPS = {"random_horizontal_flip": mirror, "random_vertical_flip": flip_vertical}


# Crops


def draw_window(
    boxes: Tensor, height: int, width: int, options: Mapping[str, float], generator: Generator
) -> tuple[int, int, int, int]:
    """A window ``(x1, y1, x2, y2)`` in whole pixels, as TensorFlow's ``sample_distorted_bounding_box`` draws it.

    An aspect ratio, then a height among all whose area is allowed, then a place; again until ``min_object_covered`` of
    a box lies inside (where there is no box: of the image). The whole image where 100 attempts find nothing.
    """
    whole = (0, 0, width, height)
    objects = _clipped(boxes, whole).to(torch.int64) if len(boxes) else torch.tensor([whole])
    objects = objects[area(objects) > 0]
    heights = torch.arange(1, height + 1)
    for _ in range(CROP_ATTEMPTS):
        ratio = _uniform(options["min_aspect_ratio"], options["max_aspect_ratio"], generator)
        widths = (heights * ratio).round().to(torch.int64)
        share = heights * widths / (height * width)
        allowed = (share >= options["min_area"]) & (share <= options["max_area"]) & (widths > 0) & (widths <= width)
        choices = torch.where(allowed)[0]
        if not len(choices):
            continue
        chosen = choices[_integer(0, len(choices), generator)]
        rows, columns = int(heights[chosen]), int(widths[chosen])
        # The last place of all is never drawn: TensorFlow's doing.
        x, y = _integer(0, width - columns, generator), _integer(0, height - rows, generator)
        window = (x, y, x + columns, y + rows)
        covered = area(_clipped(objects, window)) / area(objects)
        if bool((covered >= options["min_object_covered"]).any()):
            return window
    return whole


def crop(sample: Sample, window: tuple[int, int, int, int], overlap: float, clip: bool = True) -> Sample:
    """The part of the sample in a window ``(x1, y1, x2, y2)``.

    Boxes of which at least ``overlap`` lies in the window stay; with ``clip``, cut at its edge.
    """
    x1, y1, x2, y2 = window
    inside = _clipped(sample.boxes, window)
    keep = _meets(sample.boxes, window) & (area(inside) / area(sample.boxes) >= overlap)
    boxes = (inside if clip else sample.boxes) - torch.tensor([x1, y1, x1, y1], dtype=sample.boxes.dtype)
    return Sample(sample.image[:, y1:y2, x1:x2], boxes[keep], sample.labels[keep], sample.crowd[keep])


def draw_square(
    height: int, width: int, options: Mapping[str, float], generator: Generator
) -> tuple[int, tuple[int, int]]:
    """Side and centre ``(x, y)`` of a square: one of ``num_scales`` shares of the long side, away from the border."""
    scales = square_scales(options)
    side = max(int(scales[_integer(0, len(scales), generator)] * max(height, width)), 1)

    def centre(size: int) -> int:
        border = crop_border(int(options["max_border"]), size)
        return _integer(border, size - border + 1, generator)

    return side, (centre(width), centre(height))


def square_scales(options: Mapping[str, float]) -> Tensor:
    """``[num_scales]`` float32 at equal distances, to the last bit TensorFlow's, for sides are rounded down."""
    low, high = torch.tensor(options["scale_min"]), torch.tensor(options["scale_max"])
    count = int(options["num_scales"])
    scales = low + (high - low) / max(count - 1, 1) * torch.arange(count)
    return torch.where(torch.arange(count) == max(count - 1, 1), high, scales)


def crop_border(most: int, size: int) -> int:
    """Least distance of the centre from the border: ``most``, halved until it fits in half of ``size``."""
    halvings = 0
    while most > size / 2 * 2**halvings:
        halvings += 1
    return max(most // 2**halvings, 1)


def square_crop(sample: Sample, side: int, centre: tuple[int, int]) -> Sample:
    """The square about a centre ``(x, y)``, black outside of the image.

    The last row and column of the image are never in it, nor does an odd ``side`` use its own last: TFOD's doing. Boxes
    stay unless they lie outside altogether, and are cut at the edge.
    """
    height, width = sample.image.shape[1:]
    half = side // 2
    x, y = centre[0] - half, centre[1] - half
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + 2 * half, width - 1), min(y + 2 * half, height - 1)
    image = sample.image.new_zeros(3, side, side)
    image[:, y1 - y : y2 - y, x1 - x : x2 - x] = sample.image[:, y1:y2, x1:x2]
    window = (x, y, x + side, y + side)
    keep = _meets(sample.boxes, window)
    boxes = _clipped(sample.boxes, window) - torch.tensor([x, y, x, y], dtype=sample.boxes.dtype)
    return Sample(image, boxes[keep], sample.labels[keep], sample.crowd[keep])


def _clipped(boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    edges = torch.tensor(window, dtype=boxes.dtype)
    return torch.minimum(torch.maximum(boxes, edges[[0, 1, 0, 1]]), edges[[2, 3, 2, 3]])


def _meets(boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    edges = torch.tensor(window, dtype=boxes.dtype)
    return ((boxes[:, :2] < edges[2:]) & (boxes[:, 2:] > edges[:2])).all(1)
