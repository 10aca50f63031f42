"""Large images in overlapping tiles: where the tiles lie, and how what was found in them becomes one list."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..config.most_detections import MostDetections
from ..types import Detections, pairwise_iou

OVERLAP = 0.25  # share of a tile's side; an object no larger lies whole in one of the tiles
BORDER = 0.01  # share of a tile's side; what ends so near to where a tile was cut off was probably cut off too
TILES_NMS_IOU = 0.5


def tile_corners(height: int, width: int, tile: int) -> list[tuple[int, int]]:
    """x and y of the upper left corners of tiles of ``tile`` pixels a side that cover the image; one where it is not
    larger than a tile, or ``tile`` is 0."""
    return [(x, y) for y in _starts(height, tile) for x in _starts(width, tile)]


def forward_passes(height: int, width: int, tile: int) -> int:
    """How often the network looks at an image: once, or at the whole and at each tile."""
    count = len(tile_corners(height, width, tile))
    return 1 if count == 1 else count + 1


def _starts(length: int, tile: int) -> list[int]:
    if tile == 0 or length <= tile:
        return [0]
    count = int(np.ceil((length - tile) / (tile * (1 - OVERLAP)))) + 1
    return [int(start) for start in np.linspace(0, length - tile, count).round()]


def join_tiles(
    whole: Detections,
    parts: Sequence[tuple[int, int, Detections]],
    nms_iou: float,
    class_agnostic: bool,
    most: int = MostDetections().image,
) -> Detections:
    """What was found in the whole image together with what was found in its tiles, in pixels of the image.

    A detection that ends where its tile was cut out of the image is left to the tile, or the whole image, that shows
    the object whole. Of two that overlap by more than ``nms_iou`` the stronger stays, within a class or altogether.

    Args:
        parts: x and y of each tile's corner, and what was found in it.
        most: detections that stay at most.
    """
    boxes, scores, labels = [whole.boxes], [whole.scores], [whole.labels]
    for x, y, found in parts:
        near = BORDER * max(found.width, found.height)
        inner = np.array([x > 0, y > 0, x + found.width < whole.width, y + found.height < whole.height])
        at_border = np.concatenate(
            [found.boxes[:, :2] < near, found.boxes[:, 2:] > np.array([found.width, found.height]) - near], 1
        )
        keep = ~(at_border & inner).any(1)
        boxes.append(found.boxes[keep] + np.array([x, y, x, y], np.float32))
        scores.append(found.scores[keep])
        labels.append(found.labels[keep])
    all_boxes, all_scores, all_labels = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    kept = _suppress(all_boxes, all_scores, all_labels, nms_iou, class_agnostic)[:most]
    return replace(whole, boxes=all_boxes[kept], scores=all_scores[kept], labels=all_labels[kept])


def _suppress(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, nms_iou: float, class_agnostic: bool
) -> np.ndarray:
    """Indices of the boxes that no stronger one of theirs overlaps by more than ``nms_iou``, best score first."""
    rest = np.argsort(-scores, kind="stable")
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        (iou,) = pairwise_iou(boxes[[best]], boxes[rest])
        rest = rest[(iou <= nms_iou) | ((labels[rest] != labels[best]) & (not class_agnostic))]
    return np.array(kept, np.int64)
