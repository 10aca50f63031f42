import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from resight.inference.tiles import OVERLAP, forward_passes, join_tiles, tile_corners
from resight.types import Detections

CLASSES = ("stop", "yield")


def found(rows, width, height):
    rows = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), CLASSES, width, height)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 900), st.randoms())
def test_an_object_no_larger_than_the_overlap_lies_whole_in_a_tile(height, width, tile, random):
    corners = tile_corners(height, width, tile)
    side = int(tile * OVERLAP)
    x, y = random.randint(0, max(width - side, 0)), random.randint(0, max(height - side, 0))
    right, below = min(x + side, width), min(y + side, height)
    assert any(x0 <= x and right <= x0 + tile and y0 <= y and below <= y0 + tile for x0, y0 in corners)
    assert all(x0 >= 0 and y0 >= 0 and x0 <= max(width - tile, 0) and y0 <= max(height - tile, 0) for x0, y0 in corners)
    assert len(corners) == len(set(corners))


def test_an_image_no_larger_than_a_tile_is_one_tile():
    assert [forward_passes(480, width, 640) for width in (640, 641, 1200)] == [1, 3, 4]
    assert tile_corners(480, 640, 640) == tile_corners(480, 640, 0) == [(0, 0)]
    assert tile_corners(480, 641, 640) == [(0, 0), (1, 0)]


def test_what_a_tile_cuts_off_is_left_to_the_one_that_shows_it_whole():
    whole = found([], 300, 100)
    # An object at x 80..110: cut off by the first tile, whole in the second; a third ends at the image's own border.
    first = found([(80, 20, 100, 50, 0.9, 0), (0, 0, 20, 20, 0.6, 1)], 100, 100)
    second = found([(5, 20, 35, 50, 0.8, 0)], 100, 100)
    last = found([(80, 40, 100, 100, 0.7, 1)], 100, 100)
    joined = join_tiles(whole, [(0, 0, first), (75, 0, second), (200, 0, last)], 0.5, False)
    assert joined.boxes.tolist() == [[80, 20, 110, 50], [280, 40, 300, 100], [0, 0, 20, 20]]
    assert joined.names == ["stop", "yield", "yield"] and (joined.width, joined.height) == (300, 100)


boxes = st.tuples(st.integers(5, 60), st.integers(5, 60), st.integers(1, 30), st.integers(1, 30), st.integers(0, 1))


@given(st.lists(boxes, max_size=30), st.integers(0, 30), st.booleans())
def test_doubles_are_suppressed_as_torchvision_does(rows, in_whole, class_agnostic):
    # Scores that differ, so that there is one order.
    rows = [(x, y, x + w, y + h, 1 - n / 100, label) for n, (x, y, w, h, label) in enumerate(rows)]
    parts = [(0, 0, found(rows[in_whole:], 200, 200))]
    joined = join_tiles(found(rows[:in_whole], 200, 200), parts, 0.5, class_agnostic)
    all_of = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    labels = torch.zeros(len(rows)) if class_agnostic else all_of[:, 5]
    kept = batched_nms(all_of[:, :4], all_of[:, 4], labels, 0.5)
    assert np.array_equal(joined.boxes, all_of[kept, :4].numpy())
    assert np.array_equal(joined.labels, all_of[kept, 5].numpy().astype(np.int64))


def test_as_many_stay_as_an_image_can_have():
    rows = [(4 * n, 0, 4 * n + 3, 3, 1 - n / 1000, 0) for n in range(150)]
    whole, parts = found(rows[::2], 600, 10), [(0, 0, found(rows[1::2], 600, 10))]
    assert len(join_tiles(whole, parts, 0.5, False)) == 100
    assert np.array_equal(join_tiles(whole, parts, 0.5, False, 140).boxes, np.array(rows, np.float32)[:140, :4])
