"""Time of the COCO numbers and the operating point: 5,000 images, 35,000 objects, 500,000 detections.

    python benchmarks/evaluation.py [--images 5000] [--subset 250]

The bar is 3 s from detections to numbers, conversion included. pycocotools counts a subset in the same run, which
gives a ratio that does not depend on the machine, and must give the same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resight.evaluation.coco import GroundTruth, coco_metrics
from resight.evaluation.operating_point import operating_point
from resight.types import Detections

BAR = 3.0  # seconds
OBJECTS, DETECTIONS = 7, 100  # an image


def images(count: int, classes: int, seed: int = 0) -> tuple[list[GroundTruth], list[Detections]]:
    """Random objects; each image's detections are its objects, moved a little, and wrong ones of low score."""
    generator = np.random.default_rng(seed)
    names = tuple(f"class {index}" for index in range(classes))
    truths, detections = [], []
    for _ in range(count):
        corner, side = generator.uniform(0, 500, (OBJECTS, 2)), generator.lognormal(3.7, 0.8, (OBJECTS, 2))
        boxes, labels = np.hstack([corner, corner + side]).astype(np.float32), generator.integers(0, classes, OBJECTS)
        moved = boxes + generator.normal(0, 2, boxes.shape)
        wrong = generator.uniform(0, 500, (DETECTIONS - OBJECTS, 2))
        wrong = np.hstack([wrong, wrong + generator.lognormal(3.7, 0.8, wrong.shape)])
        scores = np.concatenate([generator.beta(5, 2, OBJECTS), generator.beta(1, 5, len(wrong))])
        order = np.argsort(-scores)
        truths.append(GroundTruth.of(boxes, labels))
        detections.append(
            Detections(
                np.concatenate([moved, wrong])[order].astype(np.float32),
                scores[order].astype(np.float32),
                np.concatenate([labels, generator.integers(0, classes, len(wrong))])[order],
                names,
            )
        )
    return truths, detections


def by_pycocotools(truths: list[GroundTruth], detections: list[Detections]) -> np.ndarray:
    """The same 12 numbers from lists of dictionaries, as pycocotools wants them."""
    truth_set, found, objects = COCO(), [], []
    for number, (truth, result) in enumerate(zip(truths, detections, strict=True), 1):
        for (x1, y1, x2, y2), label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            objects.append(
                {"id": len(objects) + 1, "image_id": number, "category_id": label + 1, "bbox": box, "iscrowd": 0}
                | {"area": box[2] * box[3]}
            )
        columns = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in columns:
            box = [x1, y1, x2 - x1, y2 - y1]
            found.append({"image_id": number, "category_id": label + 1, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set.dataset = {
            "images": [{"id": number} for number in range(1, len(truths) + 1)],
            "annotations": objects,
            "categories": [{"id": index} for index in range(1, len(detections[0].classes) + 1)],
        }
        truth_set.createIndex()
        counting = COCOeval(truth_set, truth_set.loadRes(found), "bbox")
        counting.evaluate()
        counting.accumulate()
        counting.summarize()
    return counting.stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--subset", type=int, default=250, help="images that pycocotools counts too")
    options = parser.parse_args()
    for classes in (3, 80):
        truths, detections = images(options.images, classes)
        names = detections[0].classes
        start = time.perf_counter()
        coco_metrics(truths, detections, names)
        counted = time.perf_counter()
        operating_point(truths, detections)
        done = time.perf_counter()
        total = done - start
        print(
            f"{classes} classes, {options.images:,} images, {options.images * DETECTIONS:,} detections: {total:.2f} s "
            f"(numbers {counted - start:.2f} s, operating point {done - counted:.2f} s), "
            f"bar {BAR:.0f} s: {'met' if total <= BAR else 'MISSED'}"
        )
        few = truths[: options.subset], detections[: options.subset]
        start = time.perf_counter()
        ours = coco_metrics(*few, names)
        middle = time.perf_counter()
        theirs = by_pycocotools(*few)
        slow, fast = time.perf_counter() - middle, middle - start
        pairs = zip(ours.summary.values(), theirs, strict=True)
        off = max(abs((-1 if mine is None else mine) - other) for mine, other in pairs)
        print(
            f"  {len(few[0])} images: pycocotools {slow:.2f} s, here {fast:.3f} s, ratio {slow / fast:.0f}; "
            f"largest difference {off:.1e}"
        )


if __name__ == "__main__":
    main()
