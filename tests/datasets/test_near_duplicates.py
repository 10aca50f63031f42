import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resight.datasets.near_duplicates import group_near_duplicates, perceptual_hash

HASHES = st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1)), max_size=12)


def hash_distance(first: int, second: int) -> int:
    return (first ^ second).bit_count()


@st.composite
def clustered(draw: st.DrawFn) -> list[int | None]:
    """Hashes of which many lie a few bits apart, in any order, with repeats and flat images."""
    hashes: list[int | None] = list(draw(HASHES))
    for base in [value for value in hashes if value is not None][:4]:
        for flips in draw(st.lists(st.lists(st.integers(0, 63), max_size=7), max_size=6)):
            value = base
            for bit in flips:
                value ^= 1 << bit
            hashes.append(value)
    return draw(st.permutations(hashes))


def partition(representatives: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(representatives == r).tolist()) for r in set(representatives.tolist())}


def by_comparing_all(hashes: list[int | None], distance: int) -> set[frozenset[int]]:
    """The definition: by value, a hash joins the first representative near it or becomes one."""
    leaders: list[int] = []
    members: dict[int, list[int]] = {}
    groups = [frozenset([i]) for i, value in enumerate(hashes) if value is None]
    for value in sorted({value for value in hashes if value is not None}):
        near = [leader for leader in leaders if (leader ^ value).bit_count() <= distance]
        if not near:
            leaders.append(value)
        members.setdefault(near[0] if near else value, []).append(value)
    for values in members.values():
        groups.append(frozenset(i for i, value in enumerate(hashes) if value in values))
    return set(groups)


@settings(max_examples=300, deadline=None)
@given(clustered(), st.integers(0, 6))
def test_groups_equal_those_of_comparing_every_pair(hashes: list[int | None], distance: int) -> None:
    assert partition(group_near_duplicates(hashes, distance)) == by_comparing_all(hashes, distance)


@settings(max_examples=50, deadline=None)
@given(clustered())
def test_representatives_represent_themselves_and_are_near(hashes: list[int | None]) -> None:
    representatives = group_near_duplicates(hashes)
    assert representatives.dtype == np.int64 and len(representatives) == len(hashes)
    for i, r in enumerate(representatives.tolist()):
        assert representatives[r] == r
        a, b = hashes[i], hashes[r]
        assert i == r or (a is not None and b is not None and hash_distance(a, b) <= 4)


def test_a_slow_drift_is_not_one_chain() -> None:
    drift = [(1 << n) - 1 for n in range(65)]  # neighbours differ in one bit, the ends in 64
    groups = partition(group_near_duplicates(drift))
    assert max(len(group) for group in groups) <= 9
    assert len(groups) >= 8


def test_thousands_of_hashes_agree_with_comparing_every_pair() -> None:
    rng = np.random.default_rng(1)
    hashes = np.repeat(rng.integers(0, 2**64, 60, dtype=np.uint64), 25)
    for _ in range(3):
        hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    values: list[int | None] = [int(value) for value in hashes]
    assert partition(group_near_duplicates(values)) == by_comparing_all(values, 4)


def photo(seed: int, width: int = 320, height: int = 240) -> np.ndarray:
    """Shapes of all sizes, as in photographs, with a little noise; another ``seed`` is another scene."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 3, (height, width, 3)) + 128
    for size in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 256, (size, size + size // 3, 3), dtype=np.uint8))
        pixels += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) - 128.0) * 0.4
    return pixels.clip(0, 255).astype(np.uint8)


def as_jpeg(pixels: np.ndarray, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("seed", range(8))
def test_reencoded_scaled_and_brightened_copies_are_near(seed: int) -> None:
    pixels = photo(seed)
    original = perceptual_hash(pixels)
    assert original is not None and 0 <= original < 2**64
    copies = {
        "jpeg": as_jpeg(pixels, 60),
        "half size": Image.fromarray(pixels).resize((160, 120), Image.Resampling.BILINEAR),
        "brighter": (pixels * 0.8 + 40).astype(np.uint8),
        "grey": Image.fromarray(pixels).convert("L"),
        "sixteen bits": Image.fromarray(np.asarray(Image.fromarray(pixels).convert("L")).astype(np.uint16) * 257),
        "palette": Image.fromarray(pixels).quantize(256),
        "large jpeg": as_jpeg(np.repeat(np.repeat(pixels, 4, 0), 4, 1), 80),  # decoded at reduced size
    }
    distances = {name: hash_distance(original, perceptual_hash(copy) or 0) for name, copy in copies.items()}
    assert max(distances.values()) <= 4, distances


def test_different_scenes_are_far_apart() -> None:
    hashes = [perceptual_hash(photo(seed)) or 0 for seed in range(40)]
    assert min(hash_distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 8


def test_mirrored_and_upside_down_scenes_are_other_scenes() -> None:
    pixels = photo(3)
    assert hash_distance(perceptual_hash(pixels) or 0, perceptual_hash(pixels[:, ::-1].copy()) or 0) > 8
    assert hash_distance(perceptual_hash(pixels) or 0, perceptual_hash(pixels[::-1].copy()) or 0) > 8


def test_flat_images_have_no_hash_and_no_neighbours() -> None:
    noise = np.random.default_rng(0).normal(128, 6, (240, 320, 3)).astype(np.uint8)
    hashes = [
        perceptual_hash(image) for image in (np.zeros((9, 7, 3), np.uint8), noise, np.full((50, 50, 3), 255, np.uint8))
    ]
    assert hashes == [None, None, None]
    assert group_near_duplicates(hashes).tolist() == [0, 1, 2]
    assert group_near_duplicates([]).tolist() == []


def test_one_pixel_and_thin_images_are_hashed() -> None:
    assert perceptual_hash(np.zeros((1, 1, 3), np.uint8)) is None
    stripe = np.zeros((1, 500, 3), np.uint8)
    stripe[:, :250] = 255
    assert perceptual_hash(stripe) is not None


def test_truncated_pixels_are_an_error_not_a_hash() -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(0)).save(buffer, "PNG")
    with pytest.raises(OSError):
        perceptual_hash(Image.open(io.BytesIO(buffer.getvalue()[:-20_000])))
