import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from resight.errors import ResightError
from resight.records import example
from resight.records.example import Record, decode_example, decode_image_bytes, encode_example


def png(width=64, height=48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 40)).save(out, "PNG")
    return out.getvalue()


def a_record(boxes, width=64, height=48, **fields) -> Record:
    count = len(boxes)
    values = {
        "encoded": png(),
        "format": "png",
        "filename": "fünf.png",
        "source_id": "5",
        "width": width,
        "height": height,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "label_texts": ("stop",) * count,
        "label_ids": np.arange(1, count + 1),
        "difficult": np.arange(count) % 2 == 0,
        "crowd": np.arange(count) % 3 == 0,
        "occluded": np.arange(count) % 4 == 0,
        "area": np.full(count, np.nan, np.float32),
        "group": "video|3",
    }
    return Record(**values | fields)


def payload_of(**features) -> bytes:
    """An Example with these features; `__` stands for `/` in their names."""
    message = example._Example()
    for name, values in features.items():
        feature = message.features.feature[f"image/{name.replace('__', '/')}"]
        kind = (
            {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])] if values else "int64_list"
        )
        getattr(feature, kind).value.extend(values)
    return message.SerializeToString()


def corners(count=1) -> dict:
    sides = {"xmin": 0.25, "ymin": 0.25, "xmax": 0.5, "ymax": 0.75}
    return {f"object__bbox__{side}": [value] * count for side, value in sides.items()}


def assert_equal(left: Record, right: Record) -> None:
    for name in Record.__dataclass_fields__:
        a, b = getattr(left, name), getattr(right, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert a == b, name


@given(
    arrays.arrays(np.int64, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(0, 8192)),
    st.integers(1, 8192),
    st.integers(1, 8192),
)
def test_whole_pixels_survive_exactly(boxes, width, height):
    record = a_record(boxes.clip(0, [width, height, width, height]), width, height)
    assert_equal(decode_example(encode_example(record)), record)


@given(arrays.arrays(np.float32, (3, 4), elements=st.floats(0, 4000, width=32)))
def test_fractions_of_pixels_survive_within_float32(boxes):
    record = a_record(boxes, 4000, 4000)
    np.testing.assert_allclose(decode_example(encode_example(record)).boxes, boxes, rtol=1.5e-7, atol=1e-30)


def test_equal_records_give_equal_bytes_and_the_image_alone_can_be_had():
    record = a_record([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert encode_example(record) == encode_example(a_record([[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert decode_image_bytes(encode_example(record)) == png()


def test_a_known_area_is_kept_and_an_unknown_one_is_the_box_s():
    record = a_record([[0, 0, 10, 10], [0, 0, 20, 10]], area=np.array([np.nan, 33], np.float32))
    assert decode_example(encode_example(record)).area.tolist() == [100, 33]


def test_what_tfod_tolerates_is_read():
    least = decode_example(payload_of(encoded=[png(30, 20)], format=[b"jpg"]))
    assert (least.width, least.height, least.format, least.boxes.shape) == (30, 20, "jpg", (0, 4))
    assert (least.filename, least.source_id, least.group, least.label_texts) == ("", "", "", ())
    size = {"encoded": [png()], "width": [100], "height": [200]}
    by_text = decode_example(payload_of(**size, **corners(), object__class__text=[b"stop"]))
    assert by_text.boxes.tolist() == [[25, 50, 50, 150]]
    assert (by_text.label_texts, by_text.label_ids.tolist()) == (("stop",), [0])
    assert not by_text.difficult.any() and not by_text.crowd.any() and np.isnan(by_text.area).all()
    by_number = decode_example(payload_of(**size, **corners(2), object__class__label=[3, 4], object__difficult=[1]))
    assert (by_number.label_texts, by_number.label_ids.tolist()) == (("", ""), [3, 4])
    assert by_number.difficult.tolist() == [False, False]  # one flag for two boxes says nothing
    empty = decode_example(payload_of(**size, object__bbox__xmin=[], object__class__text=[]))
    assert len(empty.boxes) == 0


def test_a_missing_size_is_the_image_s():
    for size in ({}, {"width": [0], "height": [0]}, {"width": [7]}):
        record = decode_example(payload_of(encoded=[png(64, 48)], **size))
        assert (record.width, record.height) == (64, 48)


@pytest.mark.parametrize(
    ("features", "key", "says"),
    [
        ({"format": [b"png"]}, "image/encoded", "no image"),
        ({"encoded": [b""]}, "image/encoded", "no image"),
        ({"encoded": [1]}, "image/encoded", "int64_list where a bytes_list"),
        ({"encoded": [png()], **corners(2), "object__class__text": [b"a"]}, "image/object/class/text", "1 class texts"),
        ({"encoded": [png()], **corners(2), "object__class__label": [1]}, "image/object/class/label", "for 2 boxes"),
        ({"encoded": [png()], **corners(1)}, "image/object/class/label", "0 class numbers and no texts"),
        ({"encoded": [png()], "object__bbox__xmin": [0.5]}, "image/object/bbox/*", "1/0/0/0"),
        (
            {"encoded": [png()], **corners(1), "object__class__label": [float("nan")]},
            "image/object/class/label",
            "whole",
        ),
        ({"encoded": [b"no picture"]}, "", "known format"),
    ],
)
def test_what_cannot_be_used_is_refused_by_key(features, key, says):
    with pytest.raises(ResightError, match=says) as caught:
        decode_example(payload_of(**features), "x.record, byte 7")
    assert caught.value.where == (f"x.record, byte 7, {key}" if key else "x.record, byte 7")


def test_coordinates_that_are_no_numbers_are_kept_for_the_check():
    odd = corners() | {"object__bbox__xmin": [float("nan")], "object__bbox__xmax": [float("inf")]}
    record = decode_example(payload_of(encoded=[png()], **odd, object__class__label=[1]))
    assert np.isnan(record.boxes[0, 0]) and np.isinf(record.boxes[0, 2])


@given(st.data())
def test_damaged_bytes_give_a_record_or_our_error(data):
    content = bytearray(encode_example(a_record([[1, 2, 3, 4], [5, 6, 7, 8]], encoded=png(2, 2))))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    try:
        record = decode_example(bytes(content), "x")
    except ResightError as error:
        assert error.where.startswith("x")
    else:
        assert record.boxes.shape == (len(record.label_texts), 4)


values = st.one_of(
    st.lists(st.binary(max_size=8), max_size=3),
    st.lists(st.floats(width=32), max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
)
boxes_and_classes = [*corners(), "object__class__text", "object__class__label"]
others = ["width", "height", "object__difficult", "object__is_crowd", "object__area", "source_group", "filename"]


@given(st.dictionaries(st.sampled_from(boxes_and_classes + others), values))
def test_features_of_any_kind_and_number_give_a_record_or_our_error(features):
    try:
        record = decode_example(payload_of(encoded=[png()], **features), "x")
    except ResightError as error:
        assert error.where.startswith("x")
    else:
        count = len(record.boxes)
        assert all(len(column) == count for column in (record.label_ids, record.difficult, record.crowd, record.area))
        assert record.boxes.dtype == np.float32 and record.label_ids.dtype == np.int64


def test_boxes_belong_to_the_image_as_decoded_whatever_size_the_record_states():
    record = a_record([[10, 10, 30, 40]], width=64, height=48)
    half = example.on_image(record, 24, 32)
    assert half.boxes.tolist() == [[5, 5, 15, 20]] and (half.width, half.height) == (32, 24)
    assert example.on_image(record, 48, 64) is record
