"""Parts of images as small JPEGs for a page, which holds no more bytes of them than it may."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from ..errors import ResightError
from ..io.cores import core_count
from ..io.progress import track

SIDE = 200  # pixels of a picture's longer side, at most
LEAST = 48  # pixels of the image that a picture shows at least
QUALITY = 75
BUDGET = 4_000_000  # bytes of all pictures of a page; as base64 they take a third more
CONTEXT = 2.0  # times as high or wide as the boxes
ASPECT = 4 / 3  # of the frames that pictures stand in


@dataclass(frozen=True)
class Part:
    """Of an image, by its number: ``crop``, xyxy in whole pixels, in a picture of at most ``side`` pixels a side."""

    image: int
    crop: tuple[int, int, int, int]
    side: int = SIDE


def around(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What of an image of ``size`` (width, height) shows ``boxes`` (xyxy pixels): in the shape of a frame, and twice as
    large where the image allows it; all of the image where there is no box. Within the image, and never empty."""
    if not boxes:
        return 0, 0, *size
    corners = np.array(boxes, np.float64)
    (left, top), (right, bottom) = corners[:, :2].min(0), corners[:, 2:].max(0)
    height = max((bottom - top) * CONTEXT, (right - left) * CONTEXT / ASPECT, LEAST)
    start, end = [], []
    for middle, length, limit in (
        ((left + right) / 2, height * ASPECT, size[0]),
        ((top + bottom) / 2, height, size[1]),
    ):
        length = min(round(length), limit)
        start.append(min(max(round(middle - length / 2), 0), limit - length))
        end.append(start[-1] + length)
    return start[0], start[1], end[0], end[1]


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


def thumbnails(
    parts: Sequence[Part], pixels: Callable[[int], np.ndarray], budget: int = BUDGET
) -> tuple[list[bytes], list[str]]:
    """A JPEG of each part in their order, and what cannot be shown and why; b"" of parts of a damaged image, and from
    where the budget is used up.

    Args:
        pixels: gives an image ``[H, W, 3]`` uint8 RGB by its number; each is asked for once, by several threads.
    """
    wanted: dict[int, list[int]] = defaultdict(list)
    for at, part in enumerate(parts):
        wanted[part.image].append(at)

    def cut(image: int) -> list[tuple[int, bytes]]:
        try:
            whole = pixels(image)
        except ResightError as error:
            problems[image] = f"{error.where}: {error.message}"
            return []
        return [(at, picture(whole, parts[at].crop, parts[at].side)) for at in wanted[image]]

    made: dict[int, bytes] = {}
    problems: dict[int, str] = {}
    rest = iter(track(wanted, "cutting pictures", total=len(wanted)))
    with ThreadPoolExecutor(min(8, core_count())) as pool:
        while window := list(islice(rest, 32)):
            for some in pool.map(cut, window):
                made.update(some)
    kept, used = [], 0
    for at in range(len(parts)):
        cut_out = made.get(at, b"")
        used += len(cut_out)
        kept.append(cut_out if used <= budget else b"")
    return kept, [problems[image] for image in sorted(problems)]
