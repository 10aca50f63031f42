"""Whether an exported graph computes what the model computes.

A detector decides: of two boxes that overlap and score alike NMS keeps one, and the last digit says which. Two correct
models may decide differently and then find different things, so their detections are not compared. Each stage is: the
model works out every number of a stage from what the exported graph had before that stage, and what NMS chose is held
against its rule, by the graph's own boxes and scores.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from ..detection.parity import Parity
from ..detection.stages import STAGE
from ..dialect import dialect_of
from ..errors import counted
from ..inference.detector import Detector
from ..inference.exported import ExportedDetector

log = logging.getLogger(__name__)


def compare(detector: Detector, exported: ExportedDetector, images: list[np.ndarray]) -> Parity:
    """
    Args:
        exported: an export of ``detector``, loaded with its stages among its outputs.
    """
    parity = Parity(len(images))
    log.info("comparing the two in %s", counted(len(images), "image"))
    for image in images:
        found = exported.outputs(image)
        stages = {
            name.removeprefix(STAGE): torch.from_numpy(value.copy())
            for name, value in found.items()
            if name.startswith(STAGE)
        }
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        with torch.inference_mode():
            wanted = dialect_of(detector.config).compare_stages(parity, detector.model, pixels, stages)
        listed = exported.read(found, image)
        boxes, scores, labels = (torch.from_numpy(each.copy()) for each in (listed.boxes, listed.scores, listed.labels))
        parity.detections += len(listed)
        parity.listed(wanted.boxes, boxes, max(image.shape[:2]))
        if len(labels) == len(wanted.labels):
            parity.scores(wanted.scores, scores)
            parity.wrong += int((labels != wanted.labels).sum())
    return parity
