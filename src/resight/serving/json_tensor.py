"""JSON values to tensors by the rules of TensorFlow Serving, with its messages."""

from __future__ import annotations

import binascii
import math
from itertools import chain
from typing import Any

import numpy as np

from .json_text import quoted
from .request import Refused, TensorSpec, check_count

MOST_DIMENSIONS = 32  # of an input: NumPy has at most 64

_TYPES = {"float32": "float", "float64": "double"}  # as TensorFlow calls them
_SPACE = b" \t\n\v\f\r"


def of_instances(instances: list[Any], spec: TensorSpec) -> np.ndarray:
    """``[N, ...]`` of the N elements of a request's ``instances``, each the value of the input ``spec`` or an object of
    its name. Raises Refused."""
    check_count(len(instances))
    named = _is_named(instances[0])
    tensors: list[np.ndarray] = []
    for number, item in enumerate(instances):
        if _is_named(item) != named:
            raise Refused(
                f"Expecting object but got list at item {number} of input list"
                if named
                else f"Expecting value/list but got object at item {number} of input list"
            )
        for name, value in item.items() if named else ((spec.name, item),):
            try:
                tensors.append(_as_first(tensor_of(value, spec, name), tensors))
            except Refused as error:
                place = f"{number} key: {name}" if named else f"{number}"
                message = f"Failed to process element: {place} of 'instances' list. Error: INVALID_ARGUMENT: {error}"
                raise Refused(message) from error
        if named and not item:
            wanted = f"JSON object: {quoted(item)} keys must be equal to: {spec.name}"
            raise Refused(f"Failed to process element: {number} of 'instances' list. {wanted}")
    return np.stack(tensors)


def of_inputs(value: Any, spec: TensorSpec) -> np.ndarray:
    """The tensor of a request's ``inputs``, which is the value of the input ``spec`` or an object that has it under its
    name. Raises Refused."""
    if _is_named(value):
        if spec.name not in value:
            raise Refused(f"Missing named input: {spec.name} in 'inputs' object.")
        value = value[spec.name]
    return tensor_of(value, spec, spec.name)


def first_leaf(value: Any, name: str) -> Any:
    """What stands first in the lists of an input, or of objects that have it under its name."""
    while (isinstance(value, list) and value) or (_is_named(value) and name in value):
        value = value[0] if isinstance(value, list) else value[name]
    return value


def is_base64(value: Any) -> bool:
    """Whether the value is ``{"b64": TEXT}``."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _as_first(tensor: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """Raises Refused: it is not of the size and shape of the first of the others."""
    if others and others[0].size != tensor.size:
        raise Refused(f"Expecting tensor size: {others[0].size} but got: {tensor.size}")
    if others and others[0].shape != tensor.shape:
        wanted, got = (str(list(each.shape)).replace(" ", "") for each in (others[0], tensor))
        raise Refused(f"Expecting shape {wanted} but got: {got}")
    return tensor


def tensor_of(value: Any, spec: TensorSpec, name: str) -> np.ndarray:
    """The value of an input called ``name``, whose shape is that of what stands first in its lists; bytes are objects.
    Raises Refused."""
    if name != spec.name:
        raise Refused(f"JSON object: does not have named input: {name}")
    shape: list[int] = []
    item = value
    while isinstance(item, list):
        shape.append(len(item))
        if not item:
            break
        item = item[0]
    if spec.dtype == "string":
        check_count(math.prod(shape))
    flat = None if spec.dtype == "string" else _flat(value, shape)
    array = None if flat is None else _numbers(flat, spec.dtype)
    if array is None:  # bytes, or something is wrong: one after the other
        leaves: list[Any] = []
        _fill(value, 0, shape, spec.dtype, leaves)
        array = np.empty(len(leaves), object if spec.dtype == "string" else spec.dtype)
        array[:] = leaves
    if len(shape) > MOST_DIMENSIONS:
        raise Refused(f"{name} has {len(shape)} dimensions")
    return array.reshape(shape)


def _flat(value: Any, shape: list[int]) -> list[Any] | None:
    """All leaves of nested lists of this shape; None if they are not of it."""
    items = [value]
    for size in shape:
        if set(map(type, items)) - {list} or set(map(len, items)) - {size}:
            return None
        items = list(chain.from_iterable(items))
    return items


def _numbers(flat: list[Any], dtype: str) -> np.ndarray | None:
    """The array of numbers that are what ``dtype`` takes; None if one is not."""
    kinds = set(map(type, flat))
    try:
        if dtype == "uint8" and kinds == {int}:
            return np.frombuffer(bytearray(flat), np.uint8)
        if dtype.startswith("float") and kinds and kinds <= {int, float}:
            array, info = np.array(flat, np.float64), np.finfo(dtype)
            most = 2 ** (info.nmant + 1) - 1 if int in kinds else info.max
            return array.astype(dtype) if (np.abs(array) <= most).all() else None
    except ValueError:
        return None  # beyond a byte
    return None


def _fill(value: Any, level: int, shape: list[int], dtype: str, leaves: list[Any]) -> None:
    """Appends the leaves of ``value``. Raises Refused: what is the first that is wrong."""
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            where = f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}"
            raise Refused(f"JSON Value: {quoted(value)} {where}")
        leaves.append(_leaf(value, dtype))
        return
    if level >= rank:
        raise Refused(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise Refused(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _fill(item, level + 1, shape, dtype, leaves)


def _leaf(value: Any, dtype: str) -> Any:
    if dtype == "string" and isinstance(value, str | dict):
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if not is_base64(value):
            raise Refused(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
        return from_base64(value["b64"])
    if dtype == "uint8" and type(value) is int and -(2**31) <= value < 2**31:
        return value % 256  # as TensorFlow narrows it
    if dtype.startswith("float") and type(value) in (int, float):
        most = 2 ** (np.finfo(dtype).nmant + 1) - 1 if type(value) is int else float(np.finfo(dtype).max)
        if not np.isfinite(float(value)) or abs(value) <= most:
            return value
        raise Refused(f"Cannot convert JSON value: {quoted(value)} to {_TYPES[dtype]} without loss of precision.")
    kind = {type(None): "Null", dict: "Object", str: "String", list: "Array"}.get(type(value), "Number")
    kind = str(value) if isinstance(value, bool) else kind
    expected = _TYPES.get(dtype, dtype)
    raise Refused(f"JSON Value: {quoted(value)} Type: {kind} is not of expected type: {expected}")


def from_base64(text: str) -> bytes:
    """The bytes of Base64 with its standard alphabet: white space is passed over, padding is exact or wholly absent.
    Raises Refused."""
    data = text.encode("ascii", "replace").translate(None, _SPACE).replace(b".", b"=")
    digits = data.rstrip(b"=")
    wanted = -len(digits) % 4
    try:
        if len(data) - len(digits) in (0, wanted) and wanted < 3:
            return binascii.a2b_base64(digits + b"=" * wanted, strict_mode=True)
    except binascii.Error:
        pass
    raise Refused("Unable to base64 decode")
