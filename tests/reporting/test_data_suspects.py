import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fixtures.photographs import columns, picture
from resight import Annotation, Box
from resight.reporting.data_suspects import (
    DIFFERENT,
    ONCE,
    OVERLAP,
    SIZE,
    TWICE,
    find_suspects,
    overlapping,
    plain_rows,
)
from resight.types import pairwise_iou

ALONE = None  # no near-duplicates


def suspects(images, near=ALONE):
    data = columns(images)
    sides = np.sqrt((data.boxes[:, 2:] - data.boxes[:, :2]).prod(1))
    return data, plain_rows(data, find_suspects(data, sides, None if near is None else np.array(near)))


def told(rows):
    return [(row["kind"], row["file"], row["label"], row["other_file"], row["other_label"]) for row in rows]


corner = st.integers(0, 12)
shapes = st.tuples(corner, corner, st.integers(10, 16), st.integers(10, 16), st.sampled_from("ab"), st.booleans())


@given(st.lists(st.lists(shapes, max_size=8), min_size=1, max_size=3))
def test_overlaps_are_those_of_every_pair_looked_at(images):
    data = columns(
        [
            Annotation(
                b"x", [Box(c, x, y, x + w, y + h, crowd=crowd and c == "a") for x, y, w, h, c, crowd in boxes], 40, 40
            )
            for boxes in images
        ],
        ("a", "b"),
    )
    expected = {}
    iou = pairwise_iou(data.boxes, data.boxes)
    for later in range(len(data.image)):
        for earlier in range(later):
            alike = data.image[later] == data.image[earlier] and data.label[later] == data.label[earlier]
            if alike and not data.flags["crowd"][[later, earlier]].any() and iou[later, earlier] > OVERLAP + 1e-12:
                expected[later] = max(expected.get(later, 0), iou[later, earlier])
    found = {box: value for box, other, value in overlapping(data)}
    assert found == {box: value for box, value in found.items() if box in expected} and found.keys() == expected.keys()
    np.testing.assert_allclose([found[box] for box in expected], list(expected.values()))
    assert all(other < box and np.isclose(iou[box, other], value) for box, other, value in overlapping(data))


def test_twenty_thousand_boxes_on_one_image():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 4000, (20_000, 2))
    boxes = [Box("a", x, y, x + 20, y + 20) for x, y in corners]
    data = columns([Annotation(b"x", boxes, 4100, 4100)])
    data.boxes[19_999] = data.boxes[7] + 0.5
    assert 19_999 in {box for box, _, _ in overlapping(data)}


def test_a_box_over_another_of_its_class():
    boxes = Box("stop", 10, 10, 50, 50), Box("stop", 11, 10, 50, 50), Box("yield", 10, 10, 50, 50)
    _, rows = suspects([picture(1, *boxes)])
    assert told(rows) == [(TWICE, "1.jpg", "stop", "1.jpg", "stop")]
    assert rows[0]["box"] == [11, 10, 50, 50] and rows[0]["other_box"] == [10, 10, 50, 50]
    assert rows[0]["measure"] == 0.975 and rows[0]["text"].startswith("stop twice: two boxes with an IoU of 0.9")


def test_near_duplicates_with_other_labels():
    there = Box("stop", 10, 10, 50, 50), Box("sign", 80, 80, 100, 100)
    here = Box("yield", 12, 10, 52, 50), Box("sign", 80, 80, 100, 101)
    _, rows = suspects([picture(0, *there), picture(1, *here), picture(2)], near=[0, 0, 2])
    assert told(rows) == [(DIFFERENT, "1.jpg", "yield", "0.jpg", "stop")]
    assert rows[0]["text"] == "yield here, stop in 0.jpg, which looks the same"


def test_what_agrees_is_paired_first():
    # Two classes share a place in both images: nothing contradicts.
    both = Box("person", 10, 10, 50, 50), Box("rider", 10, 10, 50, 50)
    assert suspects([picture(0, *both), picture(1, *both[::-1])], near=[0, 0])[1] == []


def test_near_duplicates_of_which_one_lacks_a_box():
    moved, more, only = Box("a", 20, 20, 30, 30), Box("a", 1, 1, 9, 9), Box("b", 90, 90, 99, 99)
    _, rows = suspects([picture(0, Box("a", 27, 20, 37, 30), more), picture(1, moved, only)], near=[0, 0])
    expected = [(ONCE, "1.jpg", "b", "0.jpg", None), (ONCE, "0.jpg", "a", "1.jpg", None)]
    assert told(rows) == expected
    assert rows[0]["other_box"] is None and rows[1]["box"] == [1, 1, 9, 9]
    assert rows[1]["text"] == "a here, and none in 1.jpg, which looks the same"


def test_boxes_are_compared_as_shares_of_their_images():
    small, large = Box("a", 10, 10, 40, 40), Box("b", 20, 20, 80, 80)
    images = [picture(0, small), Annotation(b"x", [large], 320, 240, "large.jpg")]
    assert told(suspects(images, near=[0, 0])[1]) == [(DIFFERENT, "large.jpg", "b", "0.jpg", "a")]


def test_sizes_far_from_those_of_their_class():
    def square(side, label="a"):
        return Box(label, 0, 0, side, side)

    usual = [picture(n, square(20 + n % 5)) for n in range(30)]
    odd = [picture(30, square(100)), picture(31, square(4)), picture(32, square(45)), picture(33, square(100, "b"))]
    _, rows = suspects([*usual, *odd])
    # The quartiles are 21 and 23: less than 10.5 and more than 46 is far out; b has too few boxes to say.
    assert [(row["kind"], row["file"], row["measure"]) for row in rows] == [(SIZE, "31.jpg", 4), (SIZE, "30.jpg", 100)]
    assert rows[1]["text"] == "a of 100 px at the size of the network, where half of its class have 21 to 23 px"
    assert rows[1]["other_image"] == rows[1]["image"] == 30


def test_few_boxes_have_no_usual_size():
    assert suspects([picture(n, Box("a", 0, 0, 4**n, 4**n)) for n in range(3)])[1] == []


def test_crowds_are_no_suspects():
    crowd = Box("a", 10, 10, 50, 50, crowd=True)
    images = [picture(0, crowd, Box("a", 10, 10, 50, 49)), picture(1, Box("a", 10, 10, 50, 49))]
    assert suspects(images, near=[0, 0])[1] == []
