"""The evaluation loop: what a model finds in each image beside what there is, and the numbers of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..dialect import dialect_of
from ..errors import ResightError, counted, listed
from ..inference.detector import Detector
from ..inference.many import detect_each, read_ahead
from ..records.example import Record, on_image
from ..records.reader import Records, RecordSplit
from ..types import Detections
from .coco import STANDARD, CocoMetrics, GroundTruth, coco_metrics
from .operating_point import OperatingPoint, operating_point


@dataclass(frozen=True)
class ImageResult:
    """One image of an evaluation."""

    record: int  # its place in the split
    name: str  # the image's file name, or the place of its record
    group: str  # images of one group belong together; "" where there is none
    truth: GroundTruth  # the objects as they are counted
    detections: Detections  # all of them, whatever their score
    losses: dict[str, float]  # empty where they were not asked for, or the model has none
    labels: np.ndarray  # [N] class indices of the record's objects, without crowds and before any is left out
    left_out: int  # objects of known classes that the truth leaves out
    proposal_iou: np.ndarray | None = None  # [N] the best IoU of a proposal with each object; None: not looked at


def evaluate_images(
    detector: Detector,
    split: RecordSplit,
    indices: Iterable[int],
    *,
    on_error: Callable[[ResightError], None],
    class_names: ClassNames | None = None,
    with_losses: bool = True,
) -> Iterator[tuple[np.ndarray, ImageResult]]:
    """Each image ``[H, W, 3]`` uint8 of the records ``indices`` and its result; a record that cannot be used is left
    out unless ``on_error`` raises its error."""

    def read(index: int) -> tuple[Record, np.ndarray]:
        record = split[index]
        return record, split.pixels(index, record)

    def usable() -> Iterator[tuple[tuple[int, Record, np.ndarray, GroundTruth], np.ndarray]]:
        for index, found in read_ahead(read, indices, detector.on_gpu):
            try:
                if isinstance(found, ResightError):
                    raise found
                record, image = found
                labels, truth = truth_of(detector, split, index, record, image, class_names)
            except ResightError as error:
                on_error(error)
                continue
            yield (index, record, labels, truth), image

    for (index, record, labels, truth), image, detections in detect_each(detector, usable()):
        known = labels >= 0
        result = ImageResult(
            record=index,
            name=record.filename or split.where(index),
            group=record.group,
            truth=truth,
            detections=detections,
            losses=(detector.losses(record, labels, image) or {}) if with_losses else {},
            labels=labels[known & ~record.crowd],
            left_out=int(known.sum()) - len(truth.labels),
        )
        yield image, result


def truth_of(
    detector: Detector,
    split: RecordSplit,
    index: int,
    record: Record,
    image: np.ndarray,
    class_names: ClassNames | None,
) -> tuple[np.ndarray, GroundTruth]:
    """The class indices ``[N]`` of all objects of the record at ``index``, and the objects as they are counted. Raises
    ResightError: the detector's dialect cannot take them."""
    labels = split.labels(record)
    if class_names:
        labels = class_names(labels, record)
    boxes, classes = dialect_of(detector.config).ground_truth(record, labels, detector.config, split.where(index))
    return labels, GroundTruth.of_record(on_image(boxes, *image.shape[:2]), classes)


def measure(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    *,
    ignore_difficult: bool = False,
    score: float | None = None,
    max_detections: int = STANDARD,
) -> tuple[CocoMetrics, OperatingPoint]:
    """The COCO numbers of all images, and the operating point at ``score``, or at the score of best F1."""
    metrics = coco_metrics(
        truths, detections, classes, ignore_difficult=ignore_difficult, max_detections=max_detections
    )
    return metrics, operating_point(truths, detections, score=score, ignore_difficult=ignore_difficult)


def mean_losses(losses: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each loss, over the images that have it."""
    names = dict.fromkeys(name for one in losses for name in one)
    return {name: float(np.mean([one[name] for one in losses if name in one])) for name in names}


class ClassNames:
    """Class indices of the data -> those of a model, by name; -1 and a count where the model has no such class."""

    def __init__(self, records: Records, classes: Sequence[str]) -> None:
        self.names = records.label_map.names
        self.index = {name: index for index, name in enumerate(classes)}
        self.unknown: Counter[str] = Counter()

    def __call__(self, labels: np.ndarray, record: Record) -> np.ndarray:
        """``labels`` ``[N]`` int64 of ``record`` in the model's order."""
        names = [
            self.names[label] if label >= 0 else text or f"class number {number}"
            for label, text, number in zip(labels, record.label_texts, record.label_ids, strict=True)
        ]
        self.unknown.update(name for name in names if name not in self.index)
        return np.array([self.index.get(name, -1) for name in names], np.int64)


def unknown_classes(unknown: Counter[str]) -> list[str]:
    """A note on the objects of classes that a model does not know, where there are any."""
    if not unknown:
        return []
    counts = listed(f"{name} ({counted(count, 'box', 'boxes')})" for name, count in unknown.most_common())
    return [f"The model does not know these classes of the data, which are left out of the numbers: {counts}"]
