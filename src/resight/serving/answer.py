"""Requests to answers: what a worker does, and what needs no model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import ResightError, is_out_of_memory
from . import images, open_inference, tf_serving
from .request import Refused, Request, Response, Route, Version
from .servable import Servable

log = logging.getLogger(__name__)

_PROTOCOLS = {"predict": tf_serving.predict, "infer": open_inference.infer, "images": images.predict}


def answer(servable: Servable, request: Request) -> Response:
    """The answer of the model; errors are answers too. A request for another model, version or label than
    ``servable`` is refused here, in the order of TensorFlow Serving: after its syntax was looked at."""
    try:
        return _PROTOCOLS[request.route.kind](servable, request)
    except Refused as refused:
        return refused.response
    except ResightError as error:  # of what runs the network: it names places on this machine, which are nobody's
        return Response.error(400, error.message)
    except RecursionError:
        return Response.error(400, "lists and objects are nested too deeply")
    except Exception as error:
        if is_out_of_memory(error):
            return Response.error(503, "out of memory; send smaller images, or fewer at a time")
        log.exception("a request of %s bytes for '%s' failed", len(request.body), request.route.kind)
        return Response.error(500, "this is an error of the server; its log says more")


def describe(route: Route, name: str, versions: Sequence[Version]) -> Response:
    """The answer to a request that needs no worker.

    Args:
        name: of the model that is served.
        versions: all of it that is known of, in their order; ready is the server when one is available.
    """
    available = [version for version in versions if version.state == "AVAILABLE"]
    if route.kind == "status":
        return tf_serving.status(route, name, versions)
    if route.kind == "metadata":
        asked = [version for version in available if route.version in (None, version.number)]
        return tf_serving.metadata(route, name, asked[-1] if asked else None)
    if route.kind == "server":
        return open_inference.server()
    if route.kind in ("live", "ready"):
        return open_inference.health(route.kind, route.kind == "live" or bool(available))
    return open_inference.model(route, name, available)
