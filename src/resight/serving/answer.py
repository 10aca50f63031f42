"""Requests to answers: what a worker does, and what needs no model."""

from __future__ import annotations

from collections.abc import Sequence

from .request import Request, Response, Route, Version
from .servable import Servable


def answer(servable: Servable, request: Request) -> Response:
    """The answer of the model; errors are answers too. A request for another model, version or label than
    ``servable`` is refused here, in the order of TensorFlow Serving: after its syntax was looked at."""
    return Response.error(501, f"{request.route.kind} is not there yet")


def describe(route: Route, name: str, versions: Sequence[Version]) -> Response:
    """The answer to a request that needs no worker.

    Args:
        name: of the model that is served.
        versions: all of it that is known of; ready is the server when one is available.
    """
    return Response.error(501, f"{route.kind} is not there yet")
