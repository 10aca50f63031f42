import threading
import time

import numpy as np
import pytest

from resight.errors import ResightError
from resight.inference import many
from resight.inference.many import WINDOW, detect_each, read_ahead


class Counting:
    """Finds the value of an image's first pixel."""

    def __init__(self, on_gpu):
        self.on_gpu, self.batches = on_gpu, []

    def detect(self, image):
        assert not self.on_gpu
        self.batches.append(1)
        return int(image[0, 0, 0])

    def detect_batch(self, images):
        assert self.on_gpu
        self.batches.append(len(images))
        return [int(image[0, 0, 0]) for image in images]


def images(count, taken, side=4):
    for number in range(count):
        taken.append(number)
        yield f"image {number}", np.full((side, side, 3), number, np.uint8)


def test_on_a_cpu_an_image_is_read_when_the_one_before_is_done_with():
    detector, taken = Counting(False), []
    for number, (name, image, found) in enumerate(detect_each(detector, images(5, taken))):
        assert (name, found, image[0, 0, 0]) == (f"image {number}", number, number)
        assert taken == list(range(number + 1))
    assert detector.batches == [1] * 5
    read = read_ahead(lambda item: taken.append(item) or -item, iter(range(10, 13)), False)
    assert next(read) == (10, -10) and taken[-1] == 10


def test_on_a_gpu_windows_of_images_keep_their_order(monkeypatch):
    detector, taken = Counting(True), []
    found = list(detect_each(detector, images(2 * WINDOW + 3, taken)))
    assert [one[2] for one in found] == [int(one[0].split()[1]) for one in found] == list(range(2 * WINDOW + 3))
    assert detector.batches == [WINDOW, WINDOW, 3]
    monkeypatch.setattr(many, "WINDOW_BYTES", 4 * 4 * 3 * 2)
    detector = Counting(True)
    assert len(list(detect_each(detector, images(5, taken)))) == 5 and detector.batches == [2, 2, 1]
    assert list(detect_each(detector, ())) == []


def test_threads_read_ahead_in_order_and_no_further_than_a_window():
    begun, here = [], threading.get_ident()

    def read(item):
        begun.append(item)
        assert threading.get_ident() != here
        time.sleep(0.001 * (item % 3))
        return -item

    read_items = read_ahead(read, iter(range(100)), True)
    for item in range(40):
        assert next(read_items) == (item, -item)
        assert max(begun) <= item + WINDOW
    read_items.close()  # what is not begun is not read any more
    assert len(begun) <= 40 + WINDOW
    assert list(read_ahead(read, range(3), True)) == [(0, 0), (1, -1), (2, -2)]


@pytest.mark.parametrize("threads", [False, True])
def test_an_error_takes_its_turn(threads):
    def read(item):
        if item == 3:
            raise ResightError("the third")
        if item == 5:
            raise ValueError("a fault")
        return item

    read_items = read_ahead(read, range(9), threads)
    assert [next(read_items) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    item, error = next(read_items)
    assert item == 3 and isinstance(error, ResightError) and next(read_items) == (4, 4)
    with pytest.raises(ValueError, match="a fault"):
        next(read_items)
