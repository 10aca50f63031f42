"""What TFOD computes in its own way: resizing, anchors, box deltas, minibatches and RoI crops.

Boxes are xyxy in pixels of the padded network input, as everywhere here; only box deltas keep TFOD's order, so that
its weights fit as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.ops import box_iou

from ..detection import matcher
from ..detection.anchors import AnchorSettings
from ..detection.boxes import area, at_rows, front, grouped_nms, within
from ..detection.transfers import sent
from .config import TfodConfig


def anchor_settings(config: TfodConfig) -> AnchorSettings:
    """The anchors in the terms of the other dialect, for the report on their recall."""
    height, width = config.anchor_base
    sizes = tuple(scale * math.sqrt(height * width) for scale in config.anchor_scales)
    return AnchorSettings((sizes,), tuple(height / width / ratio for ratio in config.anchor_ratios))


def cell_anchors(config: TfodConfig) -> Tensor:
    """``[A, 4]`` float32 on the CPU, of the first place: the ratio slowest, then the scale; nothing is rounded."""
    root = torch.tensor(config.anchor_ratios, device="cpu").sqrt()[:, None]
    scales = torch.tensor(config.anchor_scales, device="cpu")
    height = (scales / root * config.anchor_base[0]).flatten()
    width = (scales * root * config.anchor_base[1]).flatten()
    y, x = config.anchor_offset
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)


def tfod_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``[3, H, W]`` uint8 or float -> ``[3, *size]`` float of the same range, bilinear without half-pixel centres."""
    image = image if image.is_floating_point() else image.to(torch.float32)
    if tuple(image.shape[1:]) == tuple(size):
        return image
    top, bottom, down = _neighbours(image.shape[1], size[0], image)
    left, right, across = _neighbours(image.shape[2], size[1], image)
    # Columns first, which are then taken of each row once.
    before = image.index_select(2, left)
    rows = before + (image.index_select(2, right) - before) * across
    upper = rows.index_select(1, top)
    return upper + (rows.index_select(1, bottom) - upper) * down[:, None]


def _neighbours(length: int, wanted: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each new pixel: the old one before it, the one after it, and how far it lies between them."""
    at = torch.arange(wanted, device=like.device, dtype=torch.float32) * torch.tensor(length / wanted)
    before = at.floor().clamp(max=length - 1)
    after = (before + 1).clamp(max=length - 1)
    return before.long(), after.long(), (at - before).to(like.dtype)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """``[N]`` bool: which of ``boxes`` ``[N, 4]`` lie wholly in the window."""
    return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    """Codes (ty, tx, th, tw) of ``boxes`` beside ``references``, both ``[N, 4]``."""
    tiny = 1e-8
    size, base = boxes[:, 2:] - boxes[:, :2], references[:, 2:] - references[:, :2]
    center, origin = boxes[:, :2] + size / 2, references[:, :2] + base / 2
    size, base = size + tiny, base + tiny
    shift, growth = (center - origin) / base * 10, (size / base).log() * 5
    return torch.cat([shift.flip(1), growth.flip(1)], dim=1)


def decode(deltas: Tensor, references: Tensor) -> Tensor:
    """The boxes that ``deltas`` ``[..., 4]`` (ty, tx, th, tw) mean beside ``references``; nothing is clamped."""
    base = references[..., 2:] - references[..., :2]
    origin = references[..., :2] + base / 2
    center = deltas[..., :2].flip(-1) / 10 * base + origin
    half = (deltas[..., 2:].flip(-1) / 5).exp() * base / 2
    return torch.cat([center - half, center + half], dim=-1)


def iou(objects: Tensor, boxes: Tensor) -> Tensor:
    """``[G, N]``; 0 also between two empty boxes."""
    return box_iou(objects, boxes).nan_to_num(0)


def match_anchors(overlap: Tensor) -> Tensor:
    """Object of every anchor, as in ``matcher.match``, from the IoU ``[G, N]``.

    From .7 on an object, below .3 background; each object also takes the anchor that overlaps it most, one and whatever
    the IoU, and the first object wins where two want the same.
    """
    matches = matcher.match(overlap, 0.7, 0.3, allow_low_quality_matches=False)
    if overlap.numel():
        nearest, objects = overlap.argmax(1), torch.arange(len(overlap), device=overlap.device)
        first = torch.where(nearest == nearest[:, None], objects, len(objects)).amin(1)  # of those that want the same
        matches[nearest] = first
    return matches


@dataclass(frozen=True)
class Proposals:
    """Of B images: ``boxes`` ``[B, P, 4]`` and ``scores`` ``[B, P]``, best first; what is beyond the first ``count``
    ``[B]`` of an image is padding."""

    boxes: Tensor
    scores: Tensor
    count: Tensor

    @property
    def valid(self) -> Tensor:
        """``[B, P]`` bool: not padding."""
        return torch.arange(self.boxes.shape[1], device=self.boxes.device) < self.count[:, None]


def balanced_draw(
    positive: Tensor, allowed: Tensor, size: int, share: float, generators: Sequence[Generator]
) -> Tensor:
    """``[B, N]`` bool, of each image a minibatch of ``size`` at most, of these at most ``share`` from ``positive``
    ``[B, N]``."""
    places, _ = matcher.balanced_places(positive & allowed, allowed & ~positive, size, stored(share), generators)
    drawn = torch.zeros(len(positive) * 2 * positive.shape[1], dtype=torch.bool, device=positive.device)
    return drawn.index_fill(0, places, True).view(len(positive), 2, -1).any(1)


def static_draw(positive: Tensor, allowed: Tensor, size: int, share: float, generators: Sequence[Generator]) -> Tensor:
    """The same with static shapes."""
    orders = [torch.randperm(allowed.shape[1], generator=generator) for generator in generators]
    return draw_in_order(positive, allowed, size, share, sent(torch.stack(orders), allowed.device))


def draw_in_order(positive: Tensor, allowed: Tensor, size: int, share: float, order: Tensor) -> Tensor:
    """Minibatches of ``size`` by the shuffled ``order`` ``[..., N]``, ``[..., N]`` bool (docs/tfod-semantics.md,
    section 13).

    Where too few are allowed the first of the forbidden ones are allowed too. Positives and negatives are those last in
    the order; where negatives lack, the places go to the first in the order: to positives, or, where something is
    forbidden, all to one and the same entry.
    """
    number = torch.arange(order.shape[-1], device=order.device)
    lacking = size - allowed.sum(-1, keepdim=True)
    allowed = allowed | ((~allowed).cumsum(-1) <= lacking)
    place = number * allowed.gather(-1, order)
    signed = torch.where(positive.gather(-1, order), place, -place).sort(descending=True).values
    positives = (signed > 0).sum(-1, keepdim=True).clamp(max=int(size * stored(share)))
    chosen = (number < positives) | (number >= len(number) - (size - positives))
    # Several places may be one entry, of which one may be chosen: what is not goes to an entry too many.
    entries = torch.where(chosen, order.gather(-1, signed.abs()), len(number))
    drawn = allowed.new_zeros(*allowed.shape[:-1], len(number) + 1)
    return drawn.scatter(-1, entries, True)[..., :-1]


# Positive [B, N], allowed [B, N], most boxes, largest share of positives, generators -> drawn [B, N].
Draw = Callable[[Tensor, Tensor, int, float, Sequence[Generator]], Tensor]


@dataclass(frozen=True)
class PlainSelection:
    """Proposals and minibatches as the exported model and the gpu-8 configurations choose them."""

    draw: Draw = balanced_draw
    nms: Callable[..., Tensor] = grouped_nms

    def propose(self, boxes: Tensor, scores: Tensor, config: TfodConfig, windows: Tensor) -> Proposals:
        """The NMS of the first stage, before clipping to the windows; what then is empty goes, and zeros fill up.

        Args:
            boxes, scores: ``[B, N, 4]`` and ``[B, N]``.
            windows: ``[B, 4]``, as :func:`windows_of`.
        """
        kept = self.nms(boxes, scores, config.proposals, config.rpn_nms_iou, config.rpn_score)
        if not boxes.shape[1]:
            nothing = boxes.new_zeros(len(boxes), config.proposals, 4)
            return Proposals(nothing, nothing[..., 0], kept.new_zeros(len(kept)))
        row = kept.clamp(min=0)
        clipped = within(at_rows(boxes, row), windows)
        return _front(clipped, scores.gather(1, row), (kept >= 0) & (area(clipped) > 0), config.proposals)

    def take(self, proposals: Proposals, drawn: Tensor, size: int) -> Proposals:
        """The drawn ones, in their order, filled up with zeros."""
        return _front(proposals.boxes, proposals.scores, drawn, size)


@dataclass(frozen=True)
class StaticSelection(PlainSelection):
    """The same with static shapes, as the tpu-8 configurations train, without padding that is known as such; each rule
    that differs is in docs/tfod-semantics.md, sections 9 and 13."""

    draw: Draw = static_draw

    def propose(self, boxes: Tensor, scores: Tensor, config: TfodConfig, windows: Tensor) -> Proposals:
        limit = config.proposals
        if not boxes.shape[1]:
            return super().propose(boxes, scores, config, windows)
        # TFOD's way through tiles: what does not count becomes -1, and the rest is rounded.
        boxes = (boxes + 1) * (scores > config.rpn_score)[..., None] - 1
        seen = torch.where((boxes > 0).any(-1), scores, -math.inf)
        kept = _wide(self.nms(boxes, seen, limit, config.rpn_nms_iou, config.rpn_score, equal=True), limit, -1)
        last = scores.sort(dim=1, descending=True, stable=True).indices[:, -1:]
        clipped = within(at_rows(boxes, torch.where(kept >= 0, kept, last)), windows)
        score = torch.where((kept >= 0) & (area(clipped) > 0), scores.gather(1, kept.clamp(min=0)), -1)
        score, order = score.sort(dim=1, descending=True, stable=True)
        return Proposals(at_rows(clipped, order), score, (score >= 0).sum(1))

    def take(self, proposals: Proposals, drawn: Tensor, size: int) -> Proposals:
        """The drawn ones, in their order, filled up with the best proposal; all of them count."""
        order = front(drawn)
        rows = _wide(torch.where(drawn.gather(1, order), order, 0), size)
        return Proposals(
            at_rows(proposals.boxes, rows), proposals.scores.gather(1, rows), rows.new_full((len(rows),), size)
        )


def _front(boxes: Tensor, scores: Tensor, chosen: Tensor, size: int) -> Proposals:
    """The first ``size`` of the ``chosen`` ``[B, N]``, in their order, filled up with zeros."""
    order = front(chosen)[:, :size]
    there = chosen.gather(1, order)
    boxes = torch.where(there[..., None], at_rows(boxes, order), 0)
    scores = torch.where(there, scores.gather(1, order), 0)
    missing = size - order.shape[1]
    return Proposals(F.pad(boxes, (0, 0, 0, missing)), F.pad(scores, (0, missing)), there.sum(1))


def _wide(values: Tensor, size: int, value: int = 0) -> Tensor:
    """``[B, size]`` of ``values`` ``[B, N]``, cut or filled up."""
    return F.pad(values, (0, size - values.shape[1]), value=value)


def stored(share: float) -> float:
    """A share as a pipeline.config holds it, in single precision: .35 of 20 is below 7."""
    return float(np.float32(share))


Border = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def native_border(at: Tensor, last: float) -> tuple[Tensor, Tensor]:
    """Weights of the pixel before and after each sample; a sample outside the map is 0 (``tf.image.crop_and_resize``).

    In single precision the last sample of a box that ends at the border may come to lie outside.
    """
    before = ((at >= 0) & (at <= last)).to(at.dtype)
    fraction = at - at.floor()
    return (1 - fraction) * before, fraction * before


def matmul_border(at: Tensor, last: float) -> tuple[Tensor, Tensor]:
    """The same where only the pixels outside the map are 0, as in TFOD's crops by matrix products."""
    low, fraction = at.floor(), at - at.floor()
    return (1 - fraction) * ((low >= 0) & (low <= last)), fraction * ((low >= -1) & (low < last))


def crop_and_resize(features: Tensor, boxes: Tensor, image: Tensor, size: int, border: Border) -> Tensor:
    """``[N, C, size, size]`` bilinear samples; the first and the last lie on the box's own borders, a single one amid.

    Args:
        features: ``[B, C, H, W]``.
        boxes: ``[N, 4]`` xyxy in 0..1 of the network input.
        image: ``[N]`` int64, which image of the batch.
    """
    channels, height, width = features.shape[1:]
    # A sample is the weighted sum of 4 pixels, that is of whole rows of C channels: fast on a CPU, also backward.
    table = single(features.permute(0, 2, 3, 1).reshape(-1, channels))
    rows, row_weights = _taps(boxes[:, 1], boxes[:, 3], height, size, border)
    columns, column_weights = _taps(boxes[:, 0], boxes[:, 2], width, size, border)
    index = (image[:, None, None] * height + rows)[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weight = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    samples = F.embedding_bag(
        index.view(-1, 4), table, per_sample_weights=weight.view(-1, 4).to(table.dtype), mode="sum"
    )
    return samples.view(len(boxes), size, size, channels).permute(0, 3, 1, 2).to(features.dtype)


def single(values: Tensor) -> Tensor:
    """Single precision at the least: corners of boxes would be rounded to whole pixels in half precision."""
    return values if values.dtype == torch.float64 else values.float()


def _taps(low: Tensor, high: Tensor, length: int, size: int, border: Border) -> tuple[Tensor, Tensor]:
    """Pixels and weights of the samples along one axis: ``[N, size, 2]`` int64 and float."""
    last = float(length - 1)
    start = low if size > 1 else (low + high) / 2
    step = (high - low) * last / max(size - 1, 1)
    at = (start * last)[:, None] + torch.arange(size, device=low.device, dtype=low.dtype) * step[:, None]
    weights = torch.stack(border(at, last), dim=-1)
    before = at.floor()
    pixels = torch.stack([before, before + 1], dim=-1).clamp(0, last).long()
    return pixels, weights
