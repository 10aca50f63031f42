"""The COCO numbers of a set of images. hotcoco counts; this module hands it columns and averages what it counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval

from ..boxes import Detections

if TYPE_CHECKING:
    from ..data.example import Record

SIZES = ("all", "small", "medium", "large")  # square pixels: any, < 32^2, 32^2..96^2, > 96^2
MAX_DETECTIONS = (1, 10, 100)  # of one class in one image

# An object whose area lies outside every size range is neither to be found nor wrong when found, and is matched by the
# ordinary IoU: what a difficult object should be. A crowd's IoU (intersection over the detection) would not do.
_OUTSIDE_EVERY_SIZE = 1e12
# pycocotools adds 2^-52 to a denominator, so that one object found is .9999999999999998; that much is noise.
_DECIMALS = 12


class Measure(NamedTuple):
    """One of the 12 numbers: ``kind`` "AP" or "AR", at one ``iou`` or (None) the mean over .50:.05:.95."""

    key: str
    kind: str
    iou: float | None
    size: str
    max_detections: int


MEASURES = (
    Measure("mAP", "AP", None, "all", 100),
    Measure("AP50", "AP", 0.5, "all", 100),
    Measure("AP75", "AP", 0.75, "all", 100),
    Measure("AP_small", "AP", None, "small", 100),
    Measure("AP_medium", "AP", None, "medium", 100),
    Measure("AP_large", "AP", None, "large", 100),
    Measure("AR_1", "AR", None, "all", 1),
    Measure("AR_10", "AR", None, "all", 10),
    Measure("AR_100", "AR", None, "all", 100),
    Measure("AR_small", "AR", None, "small", 100),
    Measure("AR_medium", "AR", None, "medium", 100),
    Measure("AR_large", "AR", None, "large", 100),
)


@dataclass(frozen=True)
class GroundTruth:
    """The objects of one image.

    Args:
        boxes: ``[N, 4]`` xyxy, absolute pixels of the original image.
        labels: ``[N]`` int64 class indices from 0.
        crowd: ``[N]`` bool, a region of many objects: found or not, it counts neither way.
        difficult: ``[N]`` bool, ordinary objects unless the measurement ignores them.
        area: ``[N]`` square pixels, which decide small, medium or large; nan: the box's own.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, boxes: np.ndarray, labels: np.ndarray) -> GroundTruth:
        """Ordinary objects, from ``boxes`` and ``labels`` alone."""
        no = np.zeros(len(boxes), bool)
        return cls(boxes, labels, no, no, np.full(len(boxes), np.nan))

    @classmethod
    def of_record(cls, record: Record, labels: np.ndarray) -> GroundTruth:
        """The objects of ``record`` with class indices ``labels`` ``[N]``; those below 0 are left out, and those whose
        corners are not finite."""
        known = (labels >= 0) & np.isfinite(record.boxes).all(1)
        columns = (record.boxes, labels, record.crowd, record.difficult, record.area)
        return cls(*(np.asarray(column)[known] for column in columns))

    def ignored(self, ignore_difficult: bool) -> np.ndarray:
        """``[N]`` bool: objects that count neither as found nor as missed."""
        return self.crowd | self.difficult if ignore_difficult else self.crowd.astype(bool)


@dataclass(frozen=True)
class CocoMetrics:
    """What was counted.

    Args:
        summary: the 12 numbers in 0..1 under the keys of ``MEASURES``; None where there is no such object.
        per_class: class name -> ``{"AP", "AP50", "boxes"}``; AP and AP50 are None for a class without objects.
        num_images: images measured.
        num_boxes: objects to be found.
        num_ignored: crowds and ignored difficult objects.
    """

    summary: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]
    num_images: int
    num_boxes: int
    num_ignored: int


def coco_metrics(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    *,
    ignore_difficult: bool = False,
) -> CocoMetrics:
    """The COCO numbers of ``detections`` against ``truths``, image by image in the same order.

    Equal to pycocotools' (``iscrowd`` of the crowds, ``area`` as stored). Labels index ``classes``.
    """
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images with objects, but {len(detections)} with detections")
    labels = _column([truth.labels for truth in truths], np.int64)
    crowd = _column([truth.crowd for truth in truths], bool)
    ignored = _column([truth.ignored(ignore_difficult) for truth in truths], bool)
    boxes = _xywh([truth.boxes for truth in truths])
    area = _column([truth.area for truth in truths], np.float64)
    area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)

    ground_truth = COCO.from_arrays(
        [{"id": index} for index in range(1, len(truths) + 1)],
        [{"id": index, "name": name} for index, name in enumerate(classes, 1)],
        _image_ids([len(truth.labels) for truth in truths]),
        labels + 1,
        boxes,
        area=np.where(ignored & ~crowd, _OUTSIDE_EVERY_SIZE, area),
        iscrowd=crowd,
    )
    rows = np.column_stack(
        [
            _image_ids([len(found) for found in detections]),
            _xywh([found.boxes for found in detections]),
            _column([found.scores for found in detections], np.float64),
            _column([found.labels for found in detections], np.int64) + 1,
        ]
    )
    counting = COCOeval(ground_truth, ground_truth.load_res(rows), "bbox")
    counting.evaluate()
    counting.accumulate()
    assert counting.eval is not None
    precision, recall = counting.eval["precision"], counting.eval["recall"]

    boxes_of = np.bincount(labels[~ignored], minlength=len(classes))
    return CocoMetrics(
        summary={measure.key: _average(precision, recall, measure) for measure in MEASURES},
        per_class={
            name: {
                "AP": _average(precision, recall, MEASURES[0], index),
                "AP50": _average(precision, recall, MEASURES[1], index),
                "boxes": int(boxes_of[index]),
            }
            for index, name in enumerate(classes)
        },
        num_images=len(truths),
        num_boxes=int((~ignored).sum()),
        num_ignored=int(ignored.sum()),
    )


def _average(
    precision: np.ndarray, recall: np.ndarray, measure: Measure, class_index: int | None = None
) -> float | None:
    """Mean of precision ``[IoU, recall, class, size, max]`` or recall ``[IoU, class, size, max]`` where counted."""
    counted = precision if measure.kind == "AP" else recall
    counted = counted[..., SIZES.index(measure.size), MAX_DETECTIONS.index(measure.max_detections)]
    if measure.iou is not None:
        counted = counted[[round((measure.iou - 0.5) / 0.05)]]
    if class_index is not None:
        counted = counted[..., class_index]
    counted = counted[counted > -1]
    return round(float(counted.mean()), _DECIMALS) if counted.size else None


def _column(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)


def _xywh(parts: Sequence[np.ndarray]) -> np.ndarray:
    boxes = np.concatenate([np.zeros((0, 4)), *(np.reshape(part, (-1, 4)) for part in parts)])
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _image_ids(counts: Sequence[int]) -> np.ndarray:
    return np.repeat(np.arange(1, len(counts) + 1), np.asarray(counts, dtype=np.int64))
