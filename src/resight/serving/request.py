"""What passes between the process that speaks HTTP and those that run the model.

The first reads the request and asks :func:`.routes.route` what is wanted. What the model answers (``Route.to_model``)
it hands as a :class:`Request` to a worker, which holds a :class:`.servable.Servable` and calls :func:`.answer.answer`:
parsing, decoding, the network and the writing of the answer happen there. Everything else it answers itself with
:func:`.answer.describe`. All of it are values that can be sent to another process, and none knows an HTTP library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "predict", "status", "metadata",  # TensorFlow Serving
    "infer", "server", "model", "model_ready", "live", "ready",  # Open Inference, version 2
    "images",  # /predict
]  # fmt: skip

JSON = "application/json"


@dataclass(frozen=True)
class Route:
    """What a request line asks for.

    Args:
        version, label: of the model; None where the path names none.
        query: what follows the ``?``, as it came.
    """

    kind: Kind
    model: str = ""
    version: int | None = None
    label: str | None = None
    query: str = ""

    @property
    def to_model(self) -> bool:
        """Whether a worker has to answer it."""
        return self.kind in ("predict", "infer", "images")


@dataclass(frozen=True)
class Request:
    """
    Args:
        body: as it came, not unpacked.
        headers: those of :data:`HEADERS` that came, by their names in lower case.
    """

    route: Route
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


HEADERS = ("content-type", "content-encoding", "inference-header-content-length")


@dataclass(frozen=True)
class Response:
    """
    Args:
        model_seconds: the time in the network, without reading the request and writing the answer.
        headers: besides Content-Type and Content-Length.
    """

    status: int
    body: bytes
    media_type: str = JSON
    model_seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
        """``{"error": message}``, the form of TensorFlow Serving and of Open Inference. Bytes that are no text, in
        ``message`` as lone surrogates, are sent as they are."""
        text = json.dumps({"error": message}, ensure_ascii=False, indent=4)
        return cls(status, text.encode("utf-8", "surrogateescape"), headers=headers or {})


class Refused(Exception):
    """A request that cannot be answered; the client is told ``message``."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.headers = message, status, headers

    @property
    def response(self) -> Response:
        return Response.error(self.status, self.message, self.headers)


MOST_IMAGES = 10_000  # in a request: a million that are none would each be looked at before they are refused


def check_count(images: int) -> None:
    """Raises Refused: those are too many for one request."""
    if images > MOST_IMAGES:
        raise Refused(f"there are more than {MOST_IMAGES:,} images in the request; send several")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: ``dtype`` is NumPy's name or "string", -1 in ``shape`` is any size, ``place`` the name of
    TensorFlow's tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: str


@dataclass(frozen=True)
class Signature:
    """What a model takes and answers, as TensorFlow Serving's ``serving_default`` tells it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Version:
    """A version of the served model. ``signature`` is None until it has been loaded, ``error`` says that it could not
    be."""

    number: int
    state: Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"] = "AVAILABLE"
    signature: Signature | None = None
    error: str = ""
