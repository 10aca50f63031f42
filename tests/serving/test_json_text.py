"""JSON as TensorFlow Serving has it: what it takes, what it says of the rest, and how it writes numbers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.serving.json_text import nested, numbers, parse, quoted
from resight.serving.request import Refused

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, width=32)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text('abc\n"é😀'), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.booleans())
def test_what_python_writes_is_read_as_python_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert same(parse(text.encode()), json.loads(text))


def same(found, wanted):
    """RapidJSON's doubles may be off in their last bit, which no float32 shows."""
    if isinstance(wanted, float):
        return type(found) is float and np.float32(found) == np.float32(wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(map(same, found.values(), wanted.values()))
    return type(found) is type(wanted) and found == wanted


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30) | st.text('[]{}:,"\\ 01-.eEaNtrufls\n', max_size=30).map(str.encode))
def test_what_both_take_is_the_same_and_the_rest_is_told(body):
    try:
        found = parse(body)
    except Refused as error:
        assert error.message.startswith("JSON Parse error: ")
        return
    try:
        wanted = json.loads(body, parse_constant=lambda word: math.nan)
    except ValueError:
        return
    assert json.dumps(found).replace("Infinity", "NaN").replace("-NaN", "NaN") == json.dumps(wanted)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_every_float32_reads_back_the_same(bits):
    array = np.array(bits, np.uint32).view(np.float32)
    found = np.array(parse(f"[{', '.join(numbers(array))}]".encode()), np.float32)
    np.testing.assert_array_equal(found, array)
    assert all("." in text or "e" in text or text.strip("-") in ("NaN", "Infinity") for text in numbers(array))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.1, "0.1"), (1 / 3, "0.333333343"), (0.9994, "0.9994"), (100, "100.0"), (1e-5, "1e-05"), (9e6, "9e+06")),
        *((1234567, "1234567.0"), (-0.0, "-0.0"), (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")),
    ],
)
def test_floats_have_the_digits_of_tensorflow_serving(value, text):
    assert numbers(np.array([value], np.float32)) == [text]


def test_other_numbers():
    assert numbers(np.array([1 / 3, 0.1])) == ["0.33333333333333331", "0.1"]
    assert numbers(np.array([1, -2])) == ["1", "-2"] and numbers(np.array([True])) == ["true"]


def test_arrays_are_written_on_a_line_or_a_line_each_number():
    array = np.array([[1, 2], [3, 4]], np.float32)
    assert nested(array) == "[[1.0, 2.0], [3.0, 4.0]]"
    assert nested(array, 1) == json.dumps(array.tolist(), indent=4).replace("\n", "\n    ")
    assert nested(np.zeros((2, 0, 3))) == "[[], []]" and nested(np.float32(3)) == "3.0"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a": 1} /* and more', {"a": 1}),
        (b'[1] \xff"', [1]),
        (b'{"a": 1, "b": 0, "a": 2}', {"a": 1, "b": 0}),
        (b"[Inf, -Infinity, 1e5, -0, 18446744073709551616]", [math.inf, -math.inf, 1e5, 0, 2.0**64]),
        (b'{"\xff": "\xc3\xa9\xff", "\xc3\xa9": "\\u00ff"}', {"\udcff": "é\udcff", "é": "ÿ"}),
    ],
)
def test_what_is_not_quite_json_is_taken(body, value):
    assert parse(body) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xef\xbb\xbf[1,]", "Invalid value. at offset: 6"),
        (b'["\xff\xfe", "\xc3\xa9",]', "Invalid value. at offset: 12"),
        (b"/* no */ [1]", "Invalid value. at offset: 0"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b"[1e999]", "Number too big to be stored in double. at offset: 1"),
        (b"[" * 5000 + b"]" * 5000, "lists and objects are nested too deeply."),
    ],
)
def test_where_it_is_wrong_is_told_in_bytes(body, message):
    with pytest.raises(Refused) as told:
        parse(body)
    assert (told.value.status, told.value.message) == (400, f"JSON Parse error: {message}")


def test_a_value_is_quoted_over_lines_and_cut():
    value = {"a": [{"b": "x\x1f\n"}, {}, []], "c": [1.5, None, True, 1e21, 1e20, 1e-7, 0.000123, -0.0, -2.5e-10]}
    assert quoted(value) == (
        '{\n    "a": [{\n            "b": "x\\u001F\\n"\n        }, {}, []],\n    "c": [1.5, null, true, 1e21, '
        "100000000000000000000.0, 1e-7, 0.000123, -0.0, -2.5e-10]\n}"
    )
    assert quoted([1, math.nan, 2]) == "[1, " and quoted(math.nan) == ""
    assert quoted("é" * 10**6) == f'"{"é" * 127}' and len(quoted([["x" * 99] * 9] * 99)) == 256
