"""An evaluation in TFOD's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

# TFOD's names of the 12 numbers, in its order.
TFOD_NAMES = {
    "mAP": "DetectionBoxes_Precision/mAP",
    "AP50": "DetectionBoxes_Precision/mAP@.50IOU",
    "AP75": "DetectionBoxes_Precision/mAP@.75IOU",
    "AP_small": "DetectionBoxes_Precision/mAP (small)",
    "AP_medium": "DetectionBoxes_Precision/mAP (medium)",
    "AP_large": "DetectionBoxes_Precision/mAP (large)",
    "AR_1": "DetectionBoxes_Recall/AR@1",
    "AR_10": "DetectionBoxes_Recall/AR@10",
    "AR_100": "DetectionBoxes_Recall/AR@100",
    "AR_small": "DetectionBoxes_Recall/AR@100 (small)",
    "AR_medium": "DetectionBoxes_Recall/AR@100 (medium)",
    "AR_large": "DetectionBoxes_Recall/AR@100 (large)",
}


def as_tfod(summary: Mapping[str, float | None], losses: Mapping[str, float]) -> dict[str, float | None]:
    """An evaluation in TFOD's numbers, by its names and in its order; -1 where there is no such object.

    Args:
        losses: the four of the TFOD dialect; empty for an export, which holds none.
    """
    values = {name: -1.0 if summary[key] is None else summary[key] for key, name in TFOD_NAMES.items()}
    if losses:
        # A configuration whose weights are regularised is refused.
        total = {**losses, "regularization_loss": 0.0, "total_loss": math.fsum(losses.values())}
        values |= {f"Loss/{name}": value if math.isfinite(value) else None for name, value in total.items()}
    return values


def tfod_table(values: Mapping[str, float | None]) -> str:
    """The numbers of ``as_tfod``, a line each, as TFOD logs them."""
    rows = [f"\t+ {name}: {math.nan if value is None else value:f}" for name, value in values.items()]
    return "\n".join(["As TFOD prints it:", *rows])
