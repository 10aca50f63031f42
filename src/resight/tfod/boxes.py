"""Which boxes of a record TFOD trains and measures on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import ResightError, listed
from ..records.example import Record


def tfod_boxes(
    record: Record, labels: np.ndarray, limit: int | None = None, where: str = ""
) -> tuple[Record, np.ndarray]:
    """The record with the boxes that TFOD takes, and their class indices.

    Boxes of unknown classes and with a NaN are left out, then all beyond the first ``limit``. What remains passes as it
    is, also without area or outside the image. An area that the record states does not count: it is the box's own.

    Args:
        labels: ``[N]`` int64; -1 is no known class.

    Raises:
        ResightError: a box ends before it begins.
    """
    kept = np.flatnonzero((labels >= 0) & np.isfinite(record.boxes).all(1))
    boxes = record.boxes[kept]
    if turned := kept[(boxes[:, 2:] < boxes[:, :2]).any(1)].tolist():
        shown = listed((f"{number + 1} {record.boxes[number].tolist()}" for number in turned), 3)
        message = f"a box ends before it begins (x1, y1, x2, y2 in pixels): box {shown}"
        fix = "Fix the records; `resight data check` lists all of them."
        raise ResightError(message, where=where or record.filename, fix=fix)
    kept = kept[:limit]
    columns = {name: getattr(record, name)[kept] for name in ("boxes", "label_ids", "difficult", "crowd", "occluded")}
    texts = tuple(record.label_texts[number] for number in kept)
    own = np.full(len(kept), np.nan, np.float32)
    return replace(record, label_texts=texts, area=own, **columns), labels[kept]
