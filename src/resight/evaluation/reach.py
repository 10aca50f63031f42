"""What the anchors and the first stage reach: the best IoU with each object, to tell why some are missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..dialect import dialect_of
from ..inference.detector import Detector
from ..input.target import to_input_frame
from ..types import pairwise_iou
from .loop import ImageResult
from .operating_point import TRUE, match

MOST = 200  # images with a missed object in which proposals are looked at: each costs a pass of the first stage


def with_proposals(
    detector: Detector, images: Iterable[tuple[np.ndarray, ImageResult]]
) -> Iterator[tuple[np.ndarray, ImageResult]]:
    """``images``, in the first of which with an object that is missed at the operating point ``proposal_iou`` is
    told. An exported model proposes nothing that could be seen."""
    left = MOST if hasattr(detector, "model") and not detector.tile else 0
    for image, result in images:
        if left and _misses(result, detector.score):
            left -= 1
            overlap = pairwise_iou(detector.proposals(image), result.truth.boxes)
            result = replace(result, proposal_iou=overlap.max(0, initial=0))
        yield image, result


def anchor_iou(detector: Detector, results: Sequence[ImageResult]) -> np.ndarray:
    """``[G]`` the best IoU of an anchor with each object of ``results``; nan of an exported model."""
    counts = [len(one.truth.labels) for one in results]
    if not hasattr(detector, "model") or not sum(counts):
        return np.full(sum(counts), np.nan)
    # PyTorch comes with these, and an exported model needs none.
    from ..detection.anchors import reachable_iou

    sizes = np.array([(one.detections.width, one.detections.height) for one in results], np.int64)
    boxes = np.concatenate([one.truth.boxes for one in results]).astype(np.float64)
    shown = to_input_frame(boxes, np.repeat(sizes, counts, 0), detector.config)
    strides = dialect_of(detector.config).level_strides(detector.config)
    return reachable_iou(*shown, detector.model.anchors, strides)


def _misses(result: ImageResult, score: float) -> bool:
    outcome, _ = match(result.truth, result.detections.above(score))
    return int((outcome == TRUE).sum()) < int((~result.truth.crowd).sum())
