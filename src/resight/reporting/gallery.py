"""Pictures of errors: which are shown, and the part of the image around each as a small JPEG."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ResightError
from ..evaluation.saved import SavedEvaluation
from ..io.progress import track
from ..records.reader import RecordSplit
from .errors import Error

MOST = 400  # pictures on a page, which makes 4 MB of them
OF_A_KIND = 20  # that are shown in any case, however little they cost
SIDE = 200  # pixels of a picture's longer side, at most
AROUND = 0.75  # of the boxes' longer side, on each side of them
LEAST = 48  # pixels of the image that a picture shows at least
QUALITY = 75


def shown(errors: Sequence[Error]) -> list[Error]:
    """The costliest of ``errors``, which are in that order, and the costliest of each kind."""
    if len(errors) <= MOST:
        return list(errors)
    seen: dict[str, int] = defaultdict(int)
    chosen = set()
    for number, one in enumerate(errors):
        if seen[one.kind] < OF_A_KIND:
            seen[one.kind] += 1
            chosen.add(number)
    for number in range(len(errors)):
        if len(chosen) >= MOST:
            break
        chosen.add(number)
    return [errors[number] for number in sorted(chosen)]


def crop_of(boxes: Sequence[Sequence[float]], width: int, height: int) -> tuple[int, int, int, int]:
    """The part of an image of ``width`` x ``height`` to show for ``boxes`` (xyxy): left, top, right, bottom in whole
    pixels, with what is around them."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    margin = max(AROUND * float((high - low).max()), (LEAST - float((high - low).min())) / 2)
    left, top = np.floor(np.clip(low - margin, 0, [width - 1, height - 1])).astype(int).tolist()
    right, bottom = np.ceil(np.clip(high + margin, [left + 1, top + 1], [width, height])).astype(int).tolist()
    return left, top, right, bottom


def picture(image: np.ndarray, crop: tuple[int, int, int, int], most: int = SIDE) -> bytes:
    """The part ``crop`` of ``image`` ``[H, W, 3]`` uint8 as a JPEG of at most ``most`` pixels a side."""
    left, top, right, bottom = crop
    part = Image.fromarray(image[top:bottom, left:right])
    scale = most / max(part.size)
    if scale < 1:
        part = part.resize([max(round(side * scale), 1) for side in part.size], Image.Resampling.LANCZOS)
    out = io.BytesIO()
    part.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def pictures(
    rows: Sequence[dict[str, Any]], evaluation: SavedEvaluation, split: RecordSplit | None
) -> tuple[list[bytes], list[str]]:
    """A JPEG of each of ``rows`` (``errors`` and ``suspects`` of ``report.json``), and what cannot be shown and why.

    Each row gets its ``"crop"``, which the picture shows of the image. A picture is b"" where ``split``, the records
    that were evaluated, is not there or its image cannot be read.
    """
    found, problems = [b""] * len(rows), list[str]()
    of_image: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        image = row["image"]
        size = int(evaluation.images["width"][image]), int(evaluation.images["height"][image])
        row["crop"] = list(crop_of(_boxes(row), *size))
        of_image[image].append(number)
    if split is None:
        return found, problems
    for image, numbers in track(sorted(of_image.items()), "pictures of errors"):
        record = int(evaluation.images["record"][image])
        try:
            pixels = split.pixels(record, split[record])
        except ResightError as error:
            problems.append(f"{error.where}: {error.message}")
            continue
        for number in numbers:
            found[number] = picture(pixels, tuple(rows[number]["crop"]))
    return found, problems


def _boxes(row: Mapping[str, Any]) -> list[Sequence[float]]:
    return [box for box in (row.get("box"), row.get("found_box")) if box is not None]
