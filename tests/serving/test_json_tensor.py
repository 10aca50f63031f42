"""Values to tensors, by the rules of TensorFlow Serving. Its golden answers are in the tests of the protocol."""

import base64
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.serving.json_tensor import first_leaf, from_base64, of_inputs, of_instances
from resight.serving.request import Refused, TensorSpec

PIXELS, FLOATS, BYTES = (TensorSpec("x", dtype, (), "") for dtype in ("uint8", "float32", "string"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=4), st.sampled_from([PIXELS, FLOATS]), st.integers(0, 99))
def test_lists_are_tensors(shape, spec, seed):
    array = (np.random.default_rng(seed).random(shape) * 256).astype(spec.dtype)
    for value in (array.tolist(), {"x": array.tolist()}):
        found = of_inputs(value, spec)
        assert found.dtype == spec.dtype
        np.testing.assert_array_equal(found, array)
        np.testing.assert_array_equal(of_instances([value, value], spec), np.stack([array, array]))


def test_numbers_that_are_nearly_what_is_asked_for():
    np.testing.assert_array_equal(of_inputs([1, 2.5, math.nan, -math.inf], FLOATS), [1, 2.5, math.nan, -math.inf])
    np.testing.assert_array_equal(of_inputs([[1, 2.5], [2**24 - 1, -3]], FLOATS), [[1, 2.5], [2**24 - 1, -3]])
    np.testing.assert_array_equal(of_inputs([256, -1, 300, 2**31 - 1], PIXELS), [0, 255, 44, 255])
    assert of_inputs([], PIXELS).shape == (0,) and of_inputs([[], []], PIXELS).shape == (2, 0)


def test_bytes():
    assert of_inputs({"b64": "AAE"}, BYTES).item() == b"\0\1"
    assert of_inputs(["é", {"b64": ""}], BYTES).tolist() == ["é".encode(), b""]
    assert of_instances([{"x": {"b64": "AA=="}}], BYTES).tolist() == [b"\0"]


@pytest.mark.parametrize(
    ("value", "spec", "message"),
    [
        ([True], PIXELS, "JSON Value: true Type: True is not of expected type: uint8"),
        ([2**31], PIXELS, "JSON Value: 2147483648 Type: Number is not of expected type: uint8"),
        ([1, 2.0], PIXELS, "JSON Value: 2.0 Type: Number is not of expected type: uint8"),
        ([["x"]], FLOATS, 'JSON Value: "x" Type: String is not of expected type: float'),
        ([2**24], FLOATS, "Cannot convert JSON value: 16777216 to float without loss of precision."),
        ([1e39], FLOATS, "Cannot convert JSON value: 1e39 to float without loss of precision."),
        ([{"b64": "AA", "c": 1}], BYTES, 'JSON Value: {\n    "b64": "AA",\n    "c": 1\n} not formatted correctly for'),
        ([[1], 2], PIXELS, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([1, [2]], PIXELS, "Encountered list at unexpected level: 1 expected < 1"),
        ([[1], [2, 3]], PIXELS, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ({}, PIXELS, "Missing named input: x in 'inputs' object."),
    ],
)
def test_the_first_that_is_wrong_is_told(value, spec, message):
    with pytest.raises(Refused) as told:
        of_inputs(value, spec)
    assert told.value.message.startswith(message)


def test_too_many_are_not_looked_at():
    for few, many in (([[""]] * 10_000, [[""]] * 10_001), ([[""] * 10_000], [[""] * 10_001])):
        assert of_inputs(few, BYTES).size == 10_000
        with pytest.raises(Refused, match="more than 10,000 images"):
            of_inputs(many, BYTES)
    assert len(of_instances([1] * 10_000, PIXELS)) == 10_000
    with pytest.raises(Refused, match="more than 10,000 images"):
        of_instances([1] * 10_001, PIXELS)


def test_an_instance_without_the_input_is_told():
    with pytest.raises(Refused) as told:
        of_instances([{}], PIXELS)
    assert told.value.message == (
        "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x"
    )


@given(st.binary(max_size=20), st.booleans(), st.integers(0, 20))
def test_base64_of_the_standard_alphabet_is_read(data, padded, space):
    text = base64.b64encode(data).decode()
    text = text if padded else text.rstrip("=")
    assert from_base64(f"{text[:space]} \n\t{text[space:]}") == data
    assert from_base64(text.replace("=", ".")) == data


@pytest.mark.parametrize("text", ["A", "AA=", "AA===", "=", "AAAA=", "AA==AA==", "A-_A", "AAA€", "AAAAA"])
def test_other_base64_is_refused(text):
    with pytest.raises(Refused, match="Unable to base64 decode"):
        from_base64(text)


def test_what_stands_first():
    assert first_leaf([[{"y": 1, "x": [[{"b64": "A"}]]}, 5]], "x") == {"b64": "A"}
    assert first_leaf([[], 5], "x") == [] and first_leaf({"y": 1}, "x") == {"y": 1} and first_leaf(3, "x") == 3
