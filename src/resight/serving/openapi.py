"""The server's OpenAPI document."""

from __future__ import annotations

from typing import Any

from .._version import __version__

Schema = dict[str, Any]

_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
_ERRORS = {
    "400": "The request is malformed, or an image cannot be read.",
    "404": "There is no such model or version.",
    "413": "The request is too large.",
    "429": "Too many requests wait; Retry-After says when to come again.",
    "503": "The server is loading the model, or stops.",
    "504": "There was no answer in time.",
}


def _object(required: str = "", **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split() or [*properties]}


def _list(items: Schema, **more: int) -> Schema:
    return {"type": "array", "items": items, **more}


def _content(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


DETECTION = _object(
    label=_TEXT,
    score=_NUMBER,
    box={**_list(_NUMBER, minItems=4, maxItems=4), "description": "x1, y1, x2, y2 in pixels"},
)
IMAGE = _object(file=_TEXT, width={"type": "integer"}, height={"type": "integer"}, detections=_list(DETECTION))
FOUND = _object(model=_TEXT, classes=_list(_TEXT), score=_NUMBER, default_score=_NUMBER, images=_list(IMAGE))
PICTURES = _object(image={"description": "one or more", **_list({"type": "string", "format": "binary"})})
ROWS = _object(signature_name=_TEXT, instances=_list({}), inputs={})
TENSOR = _object(
    "name shape datatype data", name=_TEXT, shape=_list({"type": "integer"}), datatype=_TEXT, data=_list({})
)


def document(name: str, token: bool) -> Schema:
    """The document of a server.

    Args:
        name: of its model.
        token: it asks for one.
    """
    v1, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
    score = {"name": "score", "in": "query", "schema": {**_NUMBER, "minimum": 0, "maximum": 1}}
    ready = {"503": {"description": "Not ready."}}
    paths = {
        "/predict": _post("Objects in images", PICTURES, FOUND, media_type="multipart/form-data", parameters=[score]),
        f"{v1}:predict": _post(
            "TensorFlow Serving: predict", {**ROWS, "required": []},
            {"oneOf": [_object(predictions=_list({})), _object(outputs={})]},
        ),
        v1: _get("TensorFlow Serving: state of the versions", _object(model_version_status=_list({"type": "object"}))),
        f"{v1}/metadata": _get("TensorFlow Serving: signatures", _object(model_spec={}, metadata={})),
        "/v2": _get("Open Inference: the server", _object("name version", name=_TEXT, version=_TEXT)),
        "/v2/health/live": _get("Open Inference: it runs", {}),
        "/v2/health/ready": _get("Open Inference: it answers", {}, ready),
        v2: _get("Open Inference: the model", _object("name", name=_TEXT)),
        f"{v2}/ready": _get("Open Inference: the model answers", {}, ready),
        f"{v2}/infer": _post("Open Inference: infer", _object(inputs=_list(TENSOR)), _object(outputs=_list(TENSOR))),
        "/healthz": _get("It runs", _object(status=_TEXT)),
        "/readyz": _get("It answers", _object(status=_TEXT), ready),
        "/metrics": {"get": {"summary": "Prometheus", "responses": {"200": {"description": "Metrics."}}}},
    }  # fmt: skip
    secured: Schema = {}
    if token:
        secured = {"security": [{"bearer": []}]}
        open_ = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
        for path in open_:
            paths[path]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Resight: {name}", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}} if token else {},
        **secured,
    }


def _post(summary: str, given: Schema, answer: Schema, media_type: str = "application/json", **more: Any) -> Schema:
    errors = {status: {"description": text, **_content(_object(error=_TEXT))} for status, text in _ERRORS.items()}
    responses = {"200": {"description": "The answer.", **_content(answer)}, **errors}
    body = {"required": True, **_content(given, media_type)}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses, **more}}


def _get(summary: str, answer: Schema, more: Schema | None = None) -> Schema:
    return {
        "get": {"summary": summary, "responses": {"200": {"description": "It is.", **_content(answer)}, **(more or {})}}
    }
