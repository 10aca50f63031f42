import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures.scenes import found, objects, saved
from resight.reporting.errors import Error
from resight.reporting.gallery import MOST, OF_A_KIND, SIDE, crop_of, picture, pictures, shown

sides = st.floats(0, 500, width=32)


@given(
    st.lists(st.tuples(sides, sides, sides, sides), min_size=1, max_size=3), st.integers(1, 500), st.integers(1, 500)
)
def test_a_crop_lies_in_the_image_and_holds_what_is_in_it_of_the_boxes(boxes, width, height):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    left, top, right, bottom = crop_of(boxes, width, height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for x1, y1, x2, y2 in boxes:
        if x1 < width and y1 < height:
            assert left <= x1 and top <= y1 and right >= min(x2, width) and bottom >= min(y2, height)


def test_a_small_box_is_shown_with_what_is_around_it():
    left, top, right, bottom = crop_of([(100, 100, 104, 108)], 300, 300)
    assert right - left >= 48 and bottom - top >= 48
    assert crop_of([(0, 0, 300, 300)], 300, 300) == (0, 0, 300, 300)


def test_a_picture_is_a_small_jpeg_of_its_part():
    image = np.zeros((400, 900, 3), np.uint8)
    image[:, 450:] = 200
    data = picture(image, (450, 0, 900, 400))
    small = np.asarray(Image.open(io.BytesIO(data)))
    assert max(small.shape[:2]) == SIDE and abs(small.astype(int) - 200).max() < 3
    assert Image.open(io.BytesIO(picture(image, (0, 0, 20, 1)))).size == (20, 1)


def errors(kind, count, cost):
    return [Error(kind, number, 0, None, 0.0, cost - number * 1e-6, None) for number in range(count)]


def test_the_costliest_are_shown_and_some_of_every_kind():
    many = [*errors("missed", 500, 1.0), *errors("double", 100, 0.1), *errors("both", 3, 0.01)]
    told = shown(many)
    assert len(told) == MOST
    count = {kind: sum(one.kind == kind for one in told) for kind in ("missed", "double", "both")}
    assert count == {"missed": MOST - OF_A_KIND - 3, "double": OF_A_KIND, "both": 3}
    assert [one.cost for one in told] == sorted((one.cost for one in told), reverse=True)
    assert told[:300] == many[:300]
    assert shown(many[:7]) == many[:7]


@pytest.fixture
def split(shapes):
    from resight.records.reader import open_records

    return open_records(shapes(val=3, broken=1)).splits["val"]


def test_an_image_that_cannot_be_read_has_no_picture_and_is_named(split):
    count = len(split)
    evaluation = saved([objects((0, 5, 5, 20, 20))] * count, [found()] * count)
    for name, axis in (("width", 0), ("height", 1)):
        evaluation.images[name][:] = split.sizes[:, axis]
    rows = [{"image": number, "box": [5.0, 5.0, 20.0, 20.0], "found_box": None} for number in range(count)]
    given, problems = pictures(rows, evaluation, split)
    assert [bool(one) for one in given].count(False) == len(problems) == 1
    assert str(split.shards[0]) in problems[0]
    shown = np.asarray(Image.open(io.BytesIO(next(filter(None, given)))))
    left, top, right, bottom = rows[0]["crop"]
    assert shown.shape[:2] == (bottom - top, right - left)


def test_without_the_records_the_crops_are_told_all_the_same():
    evaluation = saved([objects((0, 5, 5, 20, 20))], [found()])
    rows = [{"image": 0, "box": None, "found_box": [5.0, 5.0, 20.0, 20.0]}]
    assert pictures(rows, evaluation, None) == ([b""], []) and len(rows[0]["crop"]) == 4
