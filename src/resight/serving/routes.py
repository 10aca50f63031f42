"""Which request is what: the paths of TensorFlow Serving, of Open Inference and our own."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from .request import Kind, Response, Route

MALFORMED = "Malformed request: {} {}"
MOST = 2**63 - 1  # of a version

# The whole of a path, with what follows a "?", as TensorFlow Serving matches it.
_PLACE = "(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PREDICT = re.compile(f"/v1/models/([^/:]+){_PLACE}:(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(f"/v1/models(?:/([^/:]+))?{_PLACE}(?:/(metadata))?", re.IGNORECASE | re.ASCII)
_URL = re.compile("https?://")

_V2: dict[str, Kind] = {"/v2": "server", "/v2/health/live": "live", "/v2/health/ready": "ready"}
_V2_MODEL = re.compile("/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
_NOT_FOUND = b"<!doctype html><title>404 Not Found</title><h1>404 Not Found</h1>\n"


def route(method: str, target: str, origin: str = "") -> Route | Response:
    """What is asked for, or the answer where that is nothing.

    Args:
        target: path and query as they came, percent-encoded; other bytes than ASCII as Latin-1.
        origin: the header Origin.
    """
    if target.lower().startswith("/v1/"):
        return _tf_serving(method, target, origin)
    path, _, query = target.partition("?")
    if method == "HEAD":
        found = route("GET", target)
        return Response(found.status, b"", found.media_type) if isinstance(found, Response) else found
    if path == "/predict":
        return Route("images", query=query) if method == "POST" else _not_allowed(method, path, "POST")
    if kind := _V2.get(path):
        return Route(kind) if method == "GET" else _not_allowed(method, path, "GET")
    if matched := _V2_MODEL.fullmatch(path):
        return _open_inference(method, path, *matched.groups())
    if path.startswith("/v2/"):
        return Response.error(404, f"there is nothing at {path}")
    return Response(404, _NOT_FOUND, "text/html")


def _tf_serving(method: str, target: str, origin: str) -> Route | Response:
    if method == "OPTIONS":
        return Response(200 if _URL.match(origin) else 400, b"")
    if method == "HEAD":
        return Response(400, b"")
    malformed = Response.error(400, MALFORMED.format(method, _text(target, unquoted=False)))
    if method == "POST" and (matched := _PREDICT.fullmatch(target)):
        model, version, label, verb = matched.groups()
        if verb in ("classify", "regress"):
            return Response.error(400, f"this model is asked with :predict, not :{verb}")
        return _model("predict", model, version, label) if verb == "predict" else malformed
    if method == "GET" and (matched := _STATUS.fullmatch(target)):
        model, version, label, what = matched.groups()
        if not model:
            return Response.error(400, "Missing model name in request.")
        return _model("metadata" if what == "metadata" else "status", model, version, label)
    return malformed


def _model(kind: Kind, model: str, version: str | None, label: str | None) -> Route | Response:
    number = (version or "").lstrip("0") or "0"
    if len(number) > 19 or int(number) > MOST:
        return Response(400, b"")  # as TensorFlow Serving answers it
    return Route(kind, _text(model), int(number) if version else None, label and _text(label))


def _open_inference(method: str, path: str, model: str, version: str | None, what: str | None) -> Route | Response:
    kind: Kind = "infer" if what == "infer" else "model_ready" if what == "ready" else "model"
    allowed = "POST" if kind == "infer" else "GET"
    if method != allowed:
        return _not_allowed(method, path, allowed)
    if version and not re.fullmatch("[0-9]{1,18}", version):
        return Response.error(404, f"there is no version '{_text(version)}' of the model '{_text(model)}'")
    return Route(kind, _text(model), int(version) if version else None)


def _not_allowed(method: str, path: str, allowed: str) -> Response:
    return Response.error(405, f"{path} takes {allowed}, not {method}", {"Allow": allowed})


def _text(part: str, unquoted: bool = True) -> str:
    data = part.encode("latin-1", "replace")
    return (unquote_to_bytes(data) if unquoted else data).decode("utf-8", "surrogateescape")
