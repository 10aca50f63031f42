"""Boxes around shapes, against the turned points themselves."""

import math

import pytest

from resight.datasets.formats.values import around, around_ellipse, around_rotated, number, point


def test_the_box_around_points_is_cut_to_the_image():
    assert around([(5, 9), (-3, 2), (7, 4)]) == (-3, 2, 7, 9)
    assert around([(5, 9), (-3, 2), (7, 4)], (6, 8)) == (0, 2, 6, 8)
    with pytest.raises(ValueError, match="no points"):
        around([])


def test_a_quarter_turn_clockwise():
    assert around_rotated((10, 20, 40, 30), 90, (25, 25), (100, 100)) == pytest.approx((20, 10, 30, 40))
    # About its upper left corner, as Label Studio turns: it hangs down to the left.
    assert around_rotated((50, 20, 80, 30), 90, (50, 20), (100, 100)) == pytest.approx((40, 20, 50, 50))
    assert around_rotated((1, 2, 3, 4), 0, (0, 0), (2, 2)) == (1, 2, 3, 4)


@pytest.mark.parametrize("degrees", [0, 30, 90, 200])
def test_the_box_around_an_ellipse_touches_it(degrees):
    turn = math.radians(degrees)
    outline = []
    for step in range(3600):
        x, y = 30 * math.cos(step / 3600 * math.tau), 10 * math.sin(step / 3600 * math.tau)
        outline.append((50 + x * math.cos(turn) - y * math.sin(turn), 60 + x * math.sin(turn) + y * math.cos(turn)))
    assert around_ellipse((50, 60), (30, 10), degrees, (None, None)) == pytest.approx(around(outline), abs=1e-3)


@pytest.mark.parametrize("value", [None, [1], [1, 2, 3], "1,2", ["a", 2], [1, None], {"x": 1}])
def test_what_is_no_point(value):
    with pytest.raises(ValueError, match=r"point|number"):
        point(value)


@pytest.mark.parametrize("value", ["1_0", "", "1,5", "one", None, True, [1], 10**400])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="xmin is"):
        number(value, "xmin")
