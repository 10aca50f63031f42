"""TensorFlow Serving's REST: :predict, status and metadata of a model."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .json_tensor import first_leaf, is_base64, of_inputs, of_instances
from .json_text import nested, parse, quoted
from .request import Refused, Request, Response, Route, TensorSpec, Version
from .servable import Servable

SIGNATURE = "serving_default"

_DTYPES = {"uint8": "DT_UINT8", "float32": "DT_FLOAT", "string": "DT_STRING"}


def predict(servable: Servable, request: Request) -> Response:
    """Raises Refused."""
    document = parse(unpacked(request, servable.max_bytes))
    if not isinstance(document, dict):
        raise Refused(f"JSON Value: {quoted(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        message = "not formatted correctly. 'signature_name' key must be a string value."
        raise Refused(f"JSON Value: {quoted(document)} {message}")
    _check_model(servable, request.route)
    if signature not in ("", SIGNATURE):
        raise Refused(f'Serving signature name: "{signature}" not found in signature def')
    key = _key(document)
    spec = servable.input
    if servable.takes_both and is_base64(first_leaf(document[key], spec.name)):
        spec = replace(spec, dtype="string")
    before = servable.seconds
    if key == "instances":
        outputs = servable.run(of_instances(document[key], spec))
        body = _rows(outputs)
    else:
        outputs = servable.run(of_inputs(document[key], spec))
        body = _columns(outputs)
    return Response(200, body.encode(), model_seconds=servable.seconds - before)


def unpacked(request: Request, most: int) -> bytes:
    """The body, unpacked if it came packed; what cannot be unpacked is empty. Raises Refused: it has more than ``most``
    bytes then."""
    if "gzip" not in request.headers.get("content-encoding", ""):
        return request.body
    unpacking = zlib.decompressobj(wbits=31)
    try:
        body = unpacking.decompress(request.body, most + 1)
    except zlib.error:
        return b""
    if len(body) > most:
        raise Refused(f"the request unpacks to more than the {most:,} bytes that are taken", 413)
    return body if unpacking.eof else b""


def _check_model(servable: Servable, route: Route) -> None:
    if route.label is not None:
        raise Refused(f"Unrecognized servable version label: {route.label}")
    if route.model != servable.name or route.version not in (None, servable.version):
        raise _not_found(route)


def _not_found(route: Route) -> Refused:
    asked = f"Latest({route.model})" if route.version is None else f"Specific({route.model}, {route.version})"
    return Refused(f"Servable not found for request: {asked}", 404)


def _key(document: Mapping[str, Any]) -> str:
    """Which of the two forms of a request it is."""
    if "instances" not in document and "inputs" not in document:
        raise Refused("Missing 'inputs' or 'instances' key")
    wrong = ""
    if "instances" in document and "inputs" in document:
        wrong = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    elif "instances" in document and not isinstance(document["instances"], list):
        wrong = "Expecting 'instances' to be an list/array"
    elif "instances" in document and not document["instances"]:
        wrong = "No values in 'instances' array"
    if wrong:
        raise Refused(f"JSON Value: {quoted(document)} {wrong}")
    return "instances" if "instances" in document else "inputs"


def _rows(outputs: Mapping[str, np.ndarray]) -> str:
    """An object of each image, without its dimension of the batch."""
    batch = -1
    for name, value in outputs.items():
        if not value.ndim:
            raise Refused(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, len(value)):
            raise Refused(f"Tensor name: {name} has inconsistent batch size: {len(value)} expecting: {batch}")
        batch = len(value)
    rows = []
    for number in range(batch):
        members = (f'            "{name}": {nested(value[number])}' for name, value in outputs.items())
        rows.append("        {\n" + ",\n".join(members) + "\n        }")
    return '{\n    "predictions": [\n' + ",\n".join(rows) + "\n    ]\n}"


def _columns(outputs: Mapping[str, np.ndarray]) -> str:
    """An object of all outputs as they are."""
    members = (f'        "{name}": {nested(value, 2)}' for name, value in outputs.items())
    return '{\n    "outputs": {\n' + ",\n".join(members) + "\n    }\n}"


def status(route: Route, name: str, versions: Sequence[Version]) -> Response:
    """The state of the model's versions; a label is not looked at."""
    if route.model != name or not versions:
        return Response.error(404, f"Could not find any versions of model {route.model}")
    shown = [version for version in versions if route.version in (None, version.number)]
    if not shown:
        return Response.error(404, f"Could not find version {route.version} of model {route.model}")
    told = [
        {
            "version": str(version.number),
            "state": version.state,
            "status": {"error_code": "UNKNOWN" if version.error else "OK", "error_message": version.error},
        }
        for version in shown
    ]
    return _document({"model_version_status": told})


def metadata(route: Route, name: str, version: Version | None) -> Response:
    """The signature of ``version``, which is the one that the route asks for; None if there is none."""
    if route.label is not None:
        return Response.error(400, f"Unrecognized servable version label: {route.label}")
    if version is None or version.signature is None or route.model != name:
        return _not_found(route).response
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in version.signature.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in version.signature.outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    told = {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }
    return _document(told)


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    sides = [{"size": str(size), "name": ""} for size in spec.shape]
    return {
        "dtype": _DTYPES[spec.dtype],
        "tensor_shape": {"dim": sides, "unknown_rank": False},
        "name": spec.place,
    }


def _document(value: Mapping[str, Any]) -> Response:
    return Response(200, json.dumps(value, indent=4).encode())
