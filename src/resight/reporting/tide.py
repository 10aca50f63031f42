"""What each kind of error costs: the AP50 that fixing all of its errors, and no others, would add.

After TIDE (Bolya et al., 2020, section 2.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .curves import precision_at_recalls
from .errors import MISSED, NAMES
from .outcomes import Kind, Outcomes


def tide(
    result: Outcomes, scores: np.ndarray, labels: np.ndarray, object_labels: np.ndarray, counted: np.ndarray
) -> dict[str, Any]:
    """``{"AP50", "errors": [{"kind", "count", "gain"}]}``, the costliest kind first.

    Of several detections that take an object for another class, or misplace it, fixing makes the best one right and
    deletes the others; all other wrong detections are deleted. An object is missed if it is neither found nor what such
    a detection is a wrong answer to; fixing makes it count no more.

    Args:
        counted: ``[D]`` bool, the detections that AP counts; ``scores`` and ``labels`` ``[D]`` are theirs too.
    """
    counted = counted & (result.kind != Kind.IGNORED)
    right = result.kind == Kind.RIGHT
    objects = object_labels[result.counts]
    base = _ap50(scores, labels, counted, right, objects)
    answers = np.flatnonzero(counted & np.isin(result.kind, (Kind.WRONG_CLASS, Kind.MISPLACED)))
    answers = answers[result.found_by[result.object[answers]] < 0]
    # The best answer to each object is the one that fixing makes right.
    answers = answers[np.argsort(-scores[answers], kind="stable")]
    answered, first = np.unique(result.object[answers], return_index=True)
    best = np.isin(np.arange(len(scores)), answers[first])
    missed = result.counts & (result.found_by < 0)
    missed[answered] = False

    def kinds() -> Iterator[dict[str, Any]]:
        for kind, name in NAMES.items():
            wrong = counted & (result.kind == kind)
            fixed = wrong & best
            become = np.where(fixed, np.append(object_labels, -1)[result.object], labels)
            ap = _ap50(scores, become, counted & ~(wrong & ~best), right | fixed, objects)
            yield {"kind": name, "count": int(wrong.sum()), "gain": ap - base}
        ap = _ap50(scores, labels, counted, right, object_labels[result.counts & ~missed])
        yield {"kind": MISSED, "count": int(missed.sum()), "gain": ap - base}

    return {"AP50": base if len(objects) else None, "errors": sorted(kinds(), key=lambda one: -one["gain"])}


def _ap50(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray, right: np.ndarray, objects: np.ndarray) -> float:
    """The mean over the classes of ``objects``, which are labels; 0 where there are none."""
    rows = np.flatnonzero(counted)
    rows = rows[np.lexsort((-scores[rows], labels[rows]))]
    present, counts = np.unique(objects, return_counts=True)
    starts = np.searchsorted(labels[rows], present, side="left")
    ends = np.searchsorted(labels[rows], present, side="right")
    curves = [
        precision_at_recalls(right[rows[start:end]], int(count)).mean()
        for start, end, count in zip(starts, ends, counts, strict=True)
    ]
    return float(np.mean(curves)) if curves else 0.0
