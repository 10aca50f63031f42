import io
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resight import ResightError
from resight.reporting.thumbnails import SIDE, Part, around, picture, thumbnails

side = st.integers(1, 3000)


@given(side, side, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=3))
def test_what_is_shown_lies_in_the_image_and_holds_the_boxes(width, height, shares):
    boxes = [(min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height) for a, b, c, d in shares]
    left, top, right, bottom = around(boxes, (width, height))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for box in boxes:
        assert left <= box[0] + 1 and top <= box[1] + 1 and right >= box[2] - 1 and bottom >= box[3] - 1


def test_what_is_shown_is_twice_the_box_in_the_shape_of_a_frame():
    assert around([(500, 500, 600, 600)], (2000, 2000)) == (416, 450, 683, 650)
    assert around([(500, 500, 700, 501)], (2000, 2000)) == (400, 350, 800, 650)  # as wide as it must be
    assert around([(0, 0, 2, 2)], (2000, 2000)) == (0, 0, 64, 48)  # no blocks
    assert around([], (320, 200)) == (0, 0, 320, 200)


def test_parts_are_cut_from_images_that_are_each_read_once():
    asked, lock = [], threading.Lock()

    def pixels(number):
        with lock:
            asked.append(number)
        image = np.zeros((300, 400, 3), np.uint8)
        image[:, 200:] = 255
        return image

    parts = [Part(1, (0, 0, 200, 300)), Part(0, (0, 0, 400, 300), 100), Part(1, (200, 0, 400, 300))]
    pictures = [Image.open(io.BytesIO(one)) for one in thumbnails(parts, pixels)[0]]
    assert sorted(asked) == [0, 1]
    assert [one.size for one in pictures] == [(133, 200), (100, 75), (133, 200)]
    assert [round(np.asarray(one).mean()) for one in pictures] == [0, pytest.approx(127, abs=2), 255]


def test_a_picture_is_a_small_jpeg_of_its_part():
    image = np.zeros((400, 900, 3), np.uint8)
    image[:, 450:] = 200
    data = picture(image, (450, 0, 900, 400))
    small = np.asarray(Image.open(io.BytesIO(data)))
    assert max(small.shape[:2]) == SIDE and abs(small.astype(int) - 200).max() < 3
    assert Image.open(io.BytesIO(picture(image, (0, 0, 20, 1)))).size == (20, 1)


def test_no_more_bytes_than_allowed():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (180, 240, 3), np.uint8)
    parts = [Part(n, (0, 0, 240, 180)) for n in range(6)]
    one = len(thumbnails(parts[:1], lambda n: image)[0][0])
    found, _ = thumbnails(parts, lambda n: image, budget=3 * one)
    assert [len(picture) for picture in found] == [one, one, one, 0, 0, 0]


def test_a_damaged_image_has_no_picture():
    def pixels(number):
        if number == 0:
            raise ResightError("is damaged")
        return np.zeros((10, 10, 3), np.uint8)

    (first, second), problems = thumbnails([Part(0, (0, 0, 10, 10)), Part(1, (0, 0, 10, 10))], pixels)
    assert first == b"" and second and problems == [": is damaged"]
