"""What there is to find in the images of a batch, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ..detection import matcher
from ..detection.transfers import in_one_copy
from ..input.target import Target


@dataclass(frozen=True)
class GroundTruth:
    """The objects of B images, G of the image that has most, one at the least; crowds are no objects.

    boxes ``[B, G, 4]`` xyxy and labels ``[B, G]`` int64 from 0, zeros where no object is ``there`` ``[B, G]`` bool;
    of each image the number of its objects, ``counts``, and its ``crowds`` ``[C, 4]``.
    """

    boxes: Tensor
    labels: Tensor
    there: Tensor
    counts: list[int]
    crowds: list[Tensor]

    @classmethod
    def of(cls, targets: Sequence[Target], device: torch.device) -> GroundTruth:
        """``targets`` are on the CPU, and go to the device in one copy."""
        objects = [~target.crowd for target in targets]
        counts = [int(mask.sum()) for mask in objects]
        boxes = torch.zeros(len(targets), max(1, *counts), 4)
        labels = torch.zeros(boxes.shape[:2], dtype=torch.int64)
        for row, (target, mask, count) in enumerate(zip(targets, objects, counts, strict=True)):
            boxes[row, :count], labels[row, :count] = target.boxes[mask], target.labels[mask]
        there = torch.arange(boxes.shape[1]) < torch.tensor(counts)[:, None]
        crowds = [target.boxes[target.crowd] for target in targets]
        boxes, labels, there, *crowds = in_one_copy([boxes, labels, there, *crowds], device)
        return cls(boxes, labels, there, counts, crowds)

    def match(self, boxes: Tensor, positive: float, negative: float, allow_low_quality_matches: bool) -> Tensor:
        """:func:`.matcher.match` of ``boxes`` ``[B, N, 4]``, crowds ignored: ``[B, N]`` int64."""
        matches = []
        for own, objects, count, crowd in zip(boxes, self.boxes, self.counts, self.crowds, strict=True):
            iou = box_iou(objects[:count], own)
            found = matcher.match(iou, positive, negative, allow_low_quality_matches)
            matches.append(matcher.ignore_crowd(found, own, crowd))
        return torch.stack(matches)

    def rows(self, image: Tensor, matches: Tensor) -> Tensor:
        """``[S]``: where in ``boxes`` and ``labels``, as if they were flat, the objects of ``matches`` ``[S]`` of the
        images ``[S]`` are; of no object, anywhere."""
        return image * self.labels.shape[1] + matches.clamp(min=0)
