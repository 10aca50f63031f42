"""The COCO numbers of a set of images. hotcoco counts; this module hands it columns and averages what it counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval

from ..records.example import Record
from ..types import Detections

SIZES = ("all", "small", "medium", "large")  # square pixels: any, < 32^2, 32^2..96^2, > 96^2
SMALL, LARGE = 32**2, 96**2  # square pixels: up to where an object is small, and from where it is large
STANDARD = 100  # detections of one class in one image that COCO's numbers count

# An object whose area lies outside every size range is neither to be found nor wrong when found, and is matched by the
# ordinary IoU: what a difficult object should be. A crowd's IoU (intersection over the detection) would not do.
_OUTSIDE_EVERY_SIZE = 1e12
# pycocotools adds 2^-52 to a denominator, so that one object found is .9999999999999998; that much is noise.
_DECIMALS = 12


class Measure(NamedTuple):
    """One of the numbers: ``kind`` "AP" or "AR", at one ``iou`` or (None) the mean over .50:.05:.95."""

    key: str
    kind: str
    iou: float | None
    size: str
    max_detections: int


MEASURES = (
    *(Measure(key, "AP", iou, "all", 100) for key, iou in (("mAP", None), ("AP50", 0.5), ("AP75", 0.75))),
    *(Measure(f"AP_{size}", "AP", None, size, 100) for size in SIZES[1:]),
    *(Measure(f"AR_{most}", "AR", None, "all", most) for most in (1, 10, 100)),
    *(Measure(f"AR_{size}", "AR", None, size, 100) for size in SIZES[1:]),
)


def areas(boxes: np.ndarray, stated: np.ndarray | None = None) -> np.ndarray:
    """``[N]`` square pixels of xyxy boxes, or those ``stated`` where they are not nan."""
    own = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).clip(0).prod(1)
    return own if stated is None else np.where(np.isnan(stated), own, stated)


def measures_of(max_detections: int) -> tuple[Measure, ...]:
    """COCO's 12 numbers, and where ``max_detections`` is more than their 100 two more: AP and AR at that number."""
    if max_detections <= STANDARD:
        return MEASURES
    more = (("mAP", "AP"), ("AR", "AR"))
    return (*MEASURES, *(Measure(f"{key}_{max_detections}", kind, None, "all", max_detections) for key, kind in more))


@dataclass(frozen=True)
class GroundTruth:
    """The objects of one image."""

    boxes: np.ndarray  # [N, 4] xyxy, absolute pixels of the original image
    labels: np.ndarray  # [N] int64 class indices from 0
    crowd: np.ndarray  # [N] bool, a region of many objects: found or not, it counts neither way
    difficult: np.ndarray  # [N] bool, ordinary objects unless the measurement ignores them
    area: np.ndarray  # [N] square pixels, which decide small, medium or large; nan: the box's own
    occluded: np.ndarray | None = None  # [N] bool, for reports; None where nobody says

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
        columns = (record.boxes, labels, record.crowd, record.difficult, record.area, record.occluded)
        return cls(*(np.asarray(column)[known] for column in columns))

    def ignored(self, ignore_difficult: bool) -> np.ndarray:
        """``[N]`` bool: objects that count neither as found nor as missed."""
        return self.crowd | self.difficult if ignore_difficult else self.crowd.astype(bool)


@dataclass(frozen=True)
class CocoMetrics:
    """What was counted. ``per_class``: class name -> ``{"AP", "AP50", "boxes"}``, and ``AP_300`` say where
    ``max_detections`` is more than 100; all but the boxes are None for a class without objects."""

    summary: dict[str, float | None]  # in 0..1 under the keys of measures_of; None where there is no such object
    per_class: dict[str, dict[str, float | int | None]]
    num_images: int
    num_boxes: int  # objects to be found
    num_ignored: int  # crowds and ignored difficult objects
    max_detections: int = STANDARD  # of one class in one image that the numbers beside COCO's count


def coco_metrics(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    *,
    ignore_difficult: bool = False,
    max_detections: int = STANDARD,
) -> CocoMetrics:
    """The COCO numbers of ``detections`` against ``truths``, image by image in the same order.

    Equal to pycocotools' (``iscrowd`` of the crowds, ``area`` as stored). Labels index ``classes``. COCO's own count
    the best 100 detections of a class in an image; AP and AR at ``max_detections`` stand beside them.
    """
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images with objects, but {len(detections)} with detections")
    measures = measures_of(max_detections)
    limits = sorted({measure.max_detections for measure in measures})
    labels = _column([truth.labels for truth in truths], np.int64)
    ignored = _column([truth.ignored(ignore_difficult) for truth in truths], bool)
    counts = _count(truths, detections, classes, labels, ignored, limits)

    def average(measure: Measure, class_index: int | None = None) -> float | None:
        return _average(counts[measure.kind][..., limits.index(measure.max_detections)], measure, class_index)

    of_class = {"AP": MEASURES[0], "AP50": MEASURES[1]}
    of_class |= {f"AP_{more.max_detections}": more for more in measures[len(MEASURES) :] if more.kind == "AP"}
    boxes_of = np.bincount(labels[~ignored], minlength=len(classes))
    return CocoMetrics(
        summary={measure.key: average(measure) for measure in measures},
        per_class={
            name: {key: average(measure, index) for key, measure in of_class.items()} | {"boxes": int(boxes_of[index])}
            for index, name in enumerate(classes)
        },
        num_images=len(truths),
        num_boxes=int((~ignored).sum()),
        num_ignored=int(ignored.sum()),
        max_detections=max_detections,
    )


def _count(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    labels: np.ndarray,
    ignored: np.ndarray,
    limits: list[int],
) -> dict[str, np.ndarray]:
    """ "AP": precision ``[IoU, recall, class, size, limit]``; "AR": recall ``[IoU, class, size, limit]``; -1: none."""
    crowd = _column([truth.crowd for truth in truths], bool)
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
    columns = (
        _image_ids([len(found) for found in detections]),
        _xywh([found.boxes for found in detections]),
        _column([found.scores for found in detections], np.float64),
        _column([found.labels for found in detections], np.int64) + 1,
    )
    rows = np.column_stack(columns)
    counting = COCOeval(ground_truth, ground_truth.load_res(rows), "bbox")
    counting.params.max_dets = limits
    counting.evaluate()
    counting.accumulate()
    assert counting.eval is not None
    return {"AP": counting.eval["precision"], "AR": counting.eval["recall"]}


def _average(counted: np.ndarray, measure: Measure, class_index: int | None) -> float | None:
    """Mean of precision ``[IoU, recall, class, size]`` or recall ``[IoU, class, size]`` where counted."""
    counted = counted[..., SIZES.index(measure.size)]
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
