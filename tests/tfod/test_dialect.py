"""The boxes of a record that TFOD trains and measures on, told by hand."""

import numpy as np
import pytest

from resight.errors import ResightError
from resight.records.example import Record
from resight.tfod.dialect import tfod_boxes


def record_of(boxes):
    count = len(boxes)
    no = np.zeros(count, bool)
    return Record(
        encoded=b"",
        format="png",
        filename="a.png",
        source_id="a",
        width=80,
        height=60,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        label_texts=tuple(f"t{number}" for number in range(count)),
        label_ids=np.arange(1, count + 1),
        difficult=no,
        crowd=np.arange(count) % 2 == 1,
        occluded=no,
        area=np.arange(count, dtype=np.float32),
    )


def test_what_tfod_takes_it_takes_as_it_is():
    boxes = [[1, 2, 30, 40], [5, 5, 5, 9], [np.nan, 0, 9, 9], [-30, 50, 200, 300], [1, 1, 9, 9], [8, 8, 8.1, 8.1]]
    taken, labels = tfod_boxes(record_of(boxes), np.array([1, 0, 0, 0, -1, 2]))
    # Without area, tiny, outside: all there. Not a number, of no known class: gone.
    assert taken.boxes.tolist() == np.array([boxes[number] for number in (0, 1, 3, 5)], np.float32).tolist()
    assert labels.tolist() == [1, 0, 0, 2]
    assert taken.label_texts == ("t0", "t1", "t3", "t5") and taken.label_ids.tolist() == [1, 2, 4, 6]
    assert taken.crowd.tolist() == [False, True, True, True]
    assert np.isnan(taken.area).all()  # what the record says of it does not count


def test_the_first_boxes_that_can_be_used_stay():
    boxes = [[np.nan, 0, 9, 9], [0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 4, 4]]
    taken, labels = tfod_boxes(record_of(boxes), np.array([0, -1, 0, 1, 2]), limit=2)
    assert taken.boxes[:, 2].tolist() == [2, 3] and labels.tolist() == [0, 1]
    again, labels = tfod_boxes(taken, labels, limit=2)
    assert again.boxes.tolist() == taken.boxes.tolist()


def test_no_box_is_no_fault():
    taken, labels = tfod_boxes(record_of([]), np.zeros(0, np.int64))
    assert taken.boxes.shape == (0, 4) and labels.shape == (0,)


def test_a_box_that_ends_before_it_begins_is_refused():
    boxes = [[0, 0, 9, 9], [9, 0, 3, 9], [0, 9, 9, 3], [9, 9, 3, 3]]
    with pytest.raises(ResightError, match=r"shard, byte 7: .*box 2 \[9.0, 0.0, 3.0, 9.0\], 3 .*") as error:
        tfod_boxes(record_of(boxes), np.array([0, 0, 0, -1]), where="shard, byte 7")
    assert "4 [" not in str(error.value)  # of no known class, so left out before
