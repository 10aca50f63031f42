"""Near-identical images: a 64-bit perceptual hash, and groups of hashes that differ in few bits.

The hash is the well-known one of the discrete cosine transform: of the grey image averaged to 32 x 32, the signs of the
64 lowest frequencies against their median. Re-encoding, scaling, brightness and contrast hardly change it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..io.images import high_byte

SIDE = 32
DISTANCE = 4
FLAT = 2.0  # grey levels of standard deviation; below this the hash would describe noise


# The 64 lowest frequencies after the constant as (row, column), and the rows of the DCT-II matrix that they need.
_ALL = np.indices((SIDE, SIDE)).reshape(2, -1)
_ROWS, _COLUMNS = _ALL[:, np.lexsort((_ALL[0], _ALL.sum(0)))[1:65]]
_COSINES = np.cos(np.pi / SIDE * (np.arange(SIDE)[None] + 0.5) * np.arange(max(*_ROWS, *_COLUMNS) + 1)[:, None])


def perceptual_hash(image: Image.Image | np.ndarray) -> int | None:
    """The 64-bit hash of an image, or None for a flat one, which resembles every other flat one.

    Args:
        image: ``[H, W, 3]`` uint8 RGB, or a PIL image of any mode; one that was opened but not loaded yet is decoded
            at reduced size where its format can do that (JPEG).

    Raises:
        whatever PIL raises on damaged pixels.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.draft("L", (2 * SIDE, 2 * SIDE))
    image = high_byte(image) if image.mode.startswith("I") else image
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    grey = np.asarray(small, dtype=np.float64)
    if grey.std() < FLAT:
        return None
    values = (_COSINES @ grey @ _COSINES.T)[_ROWS, _COLUMNS]
    return int.from_bytes(np.packbits(values > np.median(values)).tobytes(), "big")


def group_near_duplicates(hashes: Sequence[int | None], distance: int = DISTANCE) -> np.ndarray:
    """Joins every hash to a representative at most ``distance`` bits away.

    The hashes are visited in the order of their value: one that no representative has taken yet becomes a
    representative and takes all free ones near it. So two members of a group differ by at most ``2 * distance``,
    however smoothly a series of images changes, and the groups do not depend on the order of the input.

    Args:
        hashes: one per image; None (a flat image) stays alone.

    Returns:
        ``[N]`` int64: for every image the index of its representative, for an image without neighbours its own.
    """
    result = np.arange(len(hashes), dtype=np.int64)
    known = np.array([i for i, value in enumerate(hashes) if value is not None], dtype=np.int64)
    if len(known):
        values = np.array([value for value in hashes if value is not None], dtype=np.uint64)
        unique, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        result[known] = known[first[_representatives(unique, distance)[inverse]]]
    return result


def _representatives(values: np.ndarray, distance: int) -> np.ndarray:
    """``[U]`` int64 index of the representative of each of the ``[U]`` uint64 values, which are sorted and distinct."""
    # Two that differ in at most ``distance`` bits agree wholly in one of ``distance + 1`` bands of bits.
    bands = [_band(values, distance, index) for index in range(min(distance + 1, 64))]
    taken_by = np.full(len(values), -1, dtype=np.int64)
    for i, value in enumerate(values):
        if taken_by[i] >= 0:
            continue
        taken_by[i] = i
        for order, ordered, place, end in bands:
            start = place[i] + 1
            if start == end[i]:
                continue
            near = np.flatnonzero(np.bitwise_count(ordered[start : end[i]] ^ value) <= distance)
            if len(near):
                members = order[start + near]
                taken_by[members[taken_by[members] < 0]] = i
    return taken_by


def _band(values: np.ndarray, distance: int, index: int) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """``order, values[order], place, end`` by some of the bits of the values: those that agree with value ``i`` there
    and come after it in the whole order lie at ``place[i] + 1 : end[i]``."""
    # Neighbouring bits of the hash are correlated: every band takes bits from all over.
    keys = values & np.uint64(sum(1 << bit for bit in range(index, 64, distance + 1)))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    place = np.empty(len(values), dtype=np.int64)
    place[order] = np.arange(len(values))
    return order, values[order], place.tolist(), np.searchsorted(keys, keys, side="right")[place].tolist()
