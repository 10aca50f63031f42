"""The Open Inference protocol, version 2, as Triton, KServe and OpenVINO Model Server speak it: health, metadata,
infer. Tensors are JSON or, by the extension for binary tensor data, bytes after it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._version import __version__
from .json_tensor import MOST_DIMENSIONS, from_base64
from .json_text import numbers, parse
from .request import Refused, Request, Response, Route, TensorSpec, Version, check_count
from .servable import Servable
from .tf_serving import unpacked

DATATYPES = {"uint8": "UINT8", "float32": "FP32", "string": "BYTES"}
HEADER = "inference-header-content-length"
_KINDS = {"UINT8": "<u1", "FP32": "<f4"}


def infer(servable: Servable, request: Request) -> Response:
    """Raises Refused."""
    route = request.route
    if route.model != servable.name or route.version not in (None, servable.version):
        raise Refused(_unknown(route), 404)
    body = unpacked(request, servable.max_bytes)
    length = _header_length(request, body)
    document = parse(body[:length])
    if not isinstance(document, dict):
        raise Refused("the body is an object with 'inputs'")
    given = _only_input(document, servable.input.name)
    before = servable.seconds
    outputs = servable.run(_tensor(given, body[length:], servable))
    wanted = _wanted(document, tuple(outputs))
    told = {"model_name": servable.name, "model_version": str(servable.version)}
    if isinstance(document.get("id"), str):
        told["id"] = document["id"]
    return _answer(told, {name: (outputs[name], binary) for name, binary in wanted.items()}, servable.seconds - before)


def _unknown(route: Route) -> str:
    version = "" if route.version is None else f"version {route.version} of "
    return f"there is no {version}model '{route.model}'"


def _header_length(request: Request, body: bytes) -> int:
    said = request.headers.get(HEADER)
    if said is None:
        return len(body)
    if not said.isascii() or not said.isdigit() or len(said) > 18 or int(said) > len(body):
        raise Refused(f"Inference-Header-Content-Length is '{said:.40}', the body has {len(body):,} bytes")
    return int(said)


def _only_input(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        raise Refused("'inputs' is a list of objects, each with name, shape, datatype and data")
    if [each.get("name") for each in inputs] != [name]:
        raise Refused(f"'inputs' holds the input '{name}' and no other")
    shape = inputs[0].get("shape")
    sizes = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS
    if not sizes or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise Refused(f"'shape' of '{name}' is a list of sizes")
    return inputs[0]


def _tensor(given: Mapping[str, Any], rest: bytes, servable: Servable) -> np.ndarray:
    """The input as ``Servable.run`` takes it."""
    name, shape, datatype = given["name"], given["shape"], given.get("datatype")
    own = servable.input.dtype
    taken = [DATATYPES[own], *["FP32"] * (own == "uint8"), *["BYTES"] * servable.takes_both]
    if datatype not in taken:
        raise Refused(f"'datatype' of '{name}' is {' or '.join(taken)}, not {json.dumps(datatype)[:40]}")
    size = _parameter(given, "binary_data_size")
    if size is None:
        array = _of_json(given, datatype)
    elif type(size) is not int or size != len(rest):
        raise Refused(f"'binary_data_size' of '{name}' is {json.dumps(size)[:40]}, {len(rest):,} bytes follow the JSON")
    else:
        array = _of_bytes(rest) if datatype == "BYTES" else _of_memory(rest, datatype)
    if array.size != math.prod(shape):
        raise Refused(f"'data' of '{name}' has {array.size:,} values, its shape is {shape}")
    array = array.reshape(shape)
    if datatype == "FP32" and own == "uint8":
        narrow = array.clip(0, 255).astype(np.uint8)  # NaN becomes some number, and is not equal to it
        if (narrow != array).any():
            raise Refused(f"'data' of '{name}' has other values than whole numbers from 0 to 255")
        array = narrow
    return array


def _of_json(given: Mapping[str, Any], datatype: str) -> np.ndarray:
    """``[N]`` of ``data``, which is flat or nested like the tensor; bytes are Base64."""
    flat, name = given.get("data"), given["name"]
    for _ in range(len(given["shape"]) - 1):
        if isinstance(flat, list) and flat and all(isinstance(item, list) for item in flat):
            flat = [value for item in flat for value in item]
    if not isinstance(flat, list):
        raise Refused(f"'data' of '{name}' is a list of values")
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        if kinds - {str}:
            raise Refused(f"'data' of '{name}' is a list of strings, the images in Base64")
        check_count(len(flat))
        array = np.empty(len(flat), object)
        array[:] = [from_base64(text) for text in flat]
        return array
    if kinds - ({int} if datatype == "UINT8" else {int, float}):
        raise Refused(f"'data' of '{name}' is a list of {'integers' if datatype == 'UINT8' else 'numbers'}")
    try:
        return np.array(flat, np.uint8 if datatype == "UINT8" else np.float32)
    except OverflowError as error:
        raise Refused(f"'data' of '{name}' has values that are not from 0 to 255") from error


def _of_memory(data: bytes, datatype: str) -> np.ndarray:
    kind = np.dtype(_KINDS[datatype])
    if len(data) % kind.itemsize:
        raise Refused(f"{len(data):,} bytes of {datatype} follow the JSON, which is not a whole number of values")
    return np.frombuffer(bytearray(data), kind)


def _of_bytes(data: bytes) -> np.ndarray:
    """Strings, each after its length in four bytes."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data.ljust(at + 4, b"\0"), at)
        if at + 4 + length > len(data):
            raise Refused("the strings that follow the JSON are longer than the body")
        found.append(data[at + 4 : at + 4 + length])
        check_count(len(found))
        at += 4 + length
    array = np.empty(len(found), object)
    array[:] = found
    return array


def _parameter(of: Mapping[str, Any], name: str) -> Any:
    parameters = of.get("parameters")
    return parameters.get(name) if isinstance(parameters, dict) else None


def _wanted(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, bool]:
    """The outputs that are asked for, all by default, and whether each is to come as bytes."""
    default = _parameter(document, "binary_data_output") is True
    outputs = document.get("outputs") or [{"name": name} for name in names]
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise Refused("'outputs' is a list of objects, each with a name")
    if unknown := [each.get("name") for each in outputs if each.get("name") not in names]:
        raise Refused(f"there is no output {json.dumps(unknown[0])[:80]}; there are {', '.join(names)}")
    found = {each["name"]: _parameter(each, "binary_data") for each in outputs}
    return {name: default if said is None else said is True for name, said in found.items()}


def _answer(told: dict[str, Any], outputs: Mapping[str, tuple[np.ndarray, bool]], seconds: float) -> Response:
    described, rest = [], []
    for name, (value, binary) in outputs.items():
        head: dict[str, Any] = {"name": name, "datatype": DATATYPES["float32"], "shape": list(value.shape)}
        if binary:
            rest.append(value.astype("<f4").tobytes())
            described.append(json.dumps({**head, "parameters": {"binary_data_size": len(rest[-1])}}))
        else:
            described.append(f'{json.dumps(head)[:-1]}, "data": [{", ".join(numbers(value))}]}}')
    text = f'{json.dumps(told)[:-1]}, "outputs": [{", ".join(described)}]}}'.encode()
    if not rest:
        return Response(200, text, model_seconds=seconds)
    length = {"Inference-Header-Content-Length": str(len(text))}
    return Response(200, b"".join([text, *rest]), "application/octet-stream", seconds, length)


def server() -> Response:
    return _told({"name": "resight", "version": __version__, "extensions": ["binary_tensor_data"]})


def health(kind: str, ok: bool) -> Response:
    """``kind`` is live or ready."""
    return _told({kind: ok}, 200 if ok else 503)


def model(route: Route, name: str, versions: Sequence[Version]) -> Response:
    """Inputs and outputs of the version that is asked for, by default the last of ``versions``, which are all that are
    available; or only whether it is ready."""
    found = [version for version in versions if route.version in (None, version.number)] if route.model == name else []
    if route.kind == "model_ready" and route.model == name:
        return _told({"name": name, "ready": bool(found)}, 200 if found else 503)
    if not found or found[-1].signature is None:
        return Response.error(404, _unknown(route))
    told = {
        "name": name,
        "versions": [str(version.number) for version in versions],
        "platform": "resight",
        "inputs": [_described(spec) for spec in found[-1].signature.inputs],
        "outputs": [_described(spec) for spec in found[-1].signature.outputs],
    }
    return _told(told)


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)}


def _told(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode())
