"""An export beside its model, stage by stage on pictures."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from ..detection.stages import STAGE
from ..dialect import dialect_of
from ..errors import counted
from ..inference.detector import Detector
from ..inference.exported import ExportedDetector

if TYPE_CHECKING:
    from ..detection.parity import Parity

log = logging.getLogger(__name__)


def compare(detector: Detector, exported: ExportedDetector, images: list[np.ndarray]) -> Parity:
    """
    Args:
        exported: an export of ``detector``, loaded with its stages among its outputs.
    """
    import torch

    from ..detection.parity import Parity

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
        try:
            with torch.inference_mode():
                wanted = dialect_of(detector.config).compare_stages(parity, detector.model, pixels, stages)
        except (RuntimeError, IndexError) as error:  # stages of other shapes: the image had another size at the network
            log.debug("%s", error)
            parity.wrong, parity.score = parity.wrong + 1, math.inf
            continue
        listed = exported.read(found, image)
        boxes, scores, labels = (torch.from_numpy(each.copy()) for each in (listed.boxes, listed.scores, listed.labels))
        parity.detections += len(listed)
        parity.empty += not len(listed)
        parity.listed(wanted.boxes, boxes, max(image.shape[:2]))
        if len(labels) == len(wanted.labels):
            parity.scores(wanted.scores, scores)
            parity.wrong += int((labels != wanted.labels).sum())
    return parity
