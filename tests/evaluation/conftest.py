"""pycocotools as the reference of what is counted."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@pytest.fixture(scope="session")
def reference():
    return count


class Reference(COCOeval):
    """pycocotools, which knows no other reason to ignore an object than a crowd, with that reason added."""

    ignore = frozenset()

    def _prepare(self):
        super()._prepare()
        for objects in self._gts.values():
            for item in objects:
                item["ignore"] = item["ignore"] or item["id"] in self.ignore


def count(pairs, ignore_difficult=False, max_detections=100):
    """pycocotools after ``summarize`` on plain dictionaries, for pairs of GroundTruth and Detections."""
    images, objects, found, ignore = [], [], [], set()
    for number, (truth, detections) in enumerate(pairs, 1):
        images.append({"id": number})
        for index, (x1, y1, x2, y2) in enumerate(truth.boxes.tolist()):
            given = float(truth.area[index])
            item = {
                "id": len(objects) + 1,
                "image_id": number,
                "category_id": int(truth.labels[index]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1) if np.isnan(given) else given,
                "iscrowd": int(truth.crowd[index]),
            }
            objects.append(item)
            if ignore_difficult and truth.difficult[index]:
                ignore.add(item["id"])
        for (x1, y1, x2, y2), score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            found.append(
                {"id": len(found) + 1, "image_id": number, "category_id": label + 1, "bbox": box, "score": score}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(pairs[0][1].classes, 1)]
    truth_set, found_set = COCO(), COCO()
    truth_set.dataset = {"images": images, "annotations": objects, "categories": categories}
    found_set.dataset = {"images": images, "annotations": found, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        truth_set.createIndex()
        found_set.createIndex()
        counting = Reference(truth_set, found_set, "bbox")
        counting.ignore = ignore
        counting.params.maxDets = [1, 10, max_detections]
        counting.evaluate()
        counting.accumulate()
        if max_detections == 100:  # it prints no other
            counting.summarize()
    return counting
