"""How far the numbers would differ on other images: intervals from resampled groups of images.

Images of one group (a video, a place) are alike, so whole groups are drawn, with replacement (Cameron, Gelbach and
Miller, 2008, section II).

A draw may lack every object of a rare class, which is then left out of its mean, as COCO does. Where rare classes are
worse than others the draws are better than what they are drawn from, so their middle is moved to the number. To give
such a class the AP that it has in all images instead would leave out its own uncertainty: with 40 classes in 100 images
those intervals held the true mAP in 52 % of simulated samples, these in 83 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.coco import SIZES, SMALL, GroundTruth, areas
from ..types import Detections
from .average_precision import AT_75, Part, Rows, everything, rows_of

NUMBERS = ("mAP", "AP50", "AP75", f"AP_{SIZES[1]}")
RESAMPLES = 200


def rows_of_numbers(
    truths: Sequence[GroundTruth], found: Sequence[Detections], ignore_difficult: bool = False
) -> tuple[Rows, Rows]:
    """What ``numbers`` are counted from: all, and what is small."""
    small = Part([areas(t.boxes, t.area) <= SMALL for t in truths], [areas(one.boxes) <= SMALL for one in found])
    rows = rows_of(truths, found, {"all": everything(truths, found), "small": small}, ignore_difficult)
    return rows["all"], rows["small"]


def numbers(rows: tuple[Rows, Rows], weights: np.ndarray) -> dict[str, float]:
    """``NUMBERS``, nan where there is no such object; ``weights`` ``[I]``: how often each image is there."""
    ap, small = (one.average_precision(weights) for one in rows)
    return dict(zip(NUMBERS, (float(ap.mean()), float(ap[0]), float(ap[AT_75]), float(small.mean())), strict=True))


def groups_of(groups: Sequence[str]) -> np.ndarray:
    """``[I]`` the number of each image's group; one without is a group of its own."""
    names = [group or index for index, group in enumerate(groups)]
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], np.int64)


def resampled(rows: tuple[Rows, Rows], groups: Sequence[str], seed: int = 0) -> np.ndarray:
    """``[RESAMPLES, len(NUMBERS)]``: the numbers of groups drawn anew, and nan where one group is all there is: it says
    nothing of others. The same groups and seed give the same draws. ``groups`` ``[I]``: the group of each image, ""
    where there is none."""
    of_image = groups_of(groups)
    count = int(of_image.max(initial=-1)) + 1
    draw = np.random.default_rng(seed)
    table = np.full((RESAMPLES, len(NUMBERS)), np.nan)
    for row in table if count > 1 else ():
        times = np.bincount(draw.integers(0, count, count), minlength=count)
        row[:] = list(numbers(rows, times[of_image].astype(np.float64)).values())
    return table


def interval(
    samples: np.ndarray, value: float | None, limits: tuple[float, float] = (0, 1), share: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """The middle ``share`` of ``samples``, moved so that their median is ``value``, which they are of; within
    ``limits``. Nothing where most samples are nan."""
    there = samples[~np.isnan(samples)]
    if value is None or 2 * len(there) < len(samples) or not len(there):
        return None, None
    low, middle, high = np.quantile(there, [(1 - share) / 2, 0.5, (1 + share) / 2]) + 0.0
    low, high = (min(max(value + side - middle, limits[0]), limits[1]) for side in (low, high))
    return float(low), float(high)
