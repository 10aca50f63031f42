"""A process that runs the model: it takes requests from its socket one by one, and ends with the server."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..config.defaults import SERVE_MB, SERVE_MEGAPIXELS, ServedInput
from ..errors import explained
from ..io.progress import listen
from ..io.signals import ignore_signals
from .request import Request, Response, Signature

log = logging.getLogger(__name__)

SIZE = 8  # bytes that say how long a message is
_PR_SET_PDEATHSIG = 1


class Stream(Protocol):
    def read(self, size: int) -> bytes: ...

    def write(self, data: bytes) -> object: ...

    def flush(self) -> None: ...


@dataclass(frozen=True)
class Task:
    """What a worker does until it is ended.

    Args:
        model: path or address of what to load.
        name, version: under which clients ask for it.
        threads: of the CPU that look at one image.
        code: "module:name" of what makes a model of a task, and "module:name" of what answers a request with it.
        json: messages are lines of JSON.
        input_type: what clients of TensorFlow Serving send; None for either.
        max_bytes, max_pixels: of a request and of an image.
    """

    model: str
    name: str
    version: int = 1
    device: str = "auto"
    labels: str | None = None
    threads: int = 1
    code: tuple[str, str] = ("resight.serving.worker:load_servable", "resight.serving.answer:answer")
    json: bool = False
    input_type: ServedInput | None = None
    max_bytes: int = SERVE_MB << 20
    max_pixels: int = SERVE_MEGAPIXELS * 10**6


@dataclass(frozen=True)
class Loaded:
    """The first message of a worker where all went well; else it is the text of the error."""

    signature: Signature
    on_gpu: bool


def load_servable(task: Task) -> Any:
    """The model, which has looked at a picture already: the first one takes long."""
    import numpy as np

    from ..inference.detector import load
    from .servable import Servable

    detector = load(task.model, task.device, labels=task.labels, threads=task.threads)
    limits = {"max_bytes": task.max_bytes, "max_pixels": task.max_pixels}
    servable = Servable(detector, task.name, task.version, input_type=task.input_type, **limits)
    detector.detect(np.zeros((480, 640, 3), np.uint8))
    return servable


def main(descriptor: int, server: int) -> None:
    """Answers what comes from the socket ``descriptor`` until the process ``server`` closes it, or is gone."""
    ignore_signals()
    _end_with(server)
    with suppress(OSError):  # where memory runs out, a worker ends and is replaced, and not the server
        Path("/proc/self/oom_score_adj").write_text("500")
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb") as stream:
        try:
            _work(stream)
        except (EOFError, ConnectionError):
            os._exit(0)  # threads of engines may not end by themselves
        except BaseException:
            log.exception("this is a bug of Resight")
        os._exit(1)


def _work(stream: Stream) -> None:
    task: Task = _receive(stream)
    listen(quiet=True, as_json=task.json)
    try:
        load, answer = (_named(name) for name in task.code)
        model = load(task)
        loaded = Loaded(model.signature, getattr(getattr(model, "detector", None), "on_gpu", False))
    except BaseException as error:  # whatever it is, the server says it
        _send(stream, explained(error) or f"{type(error).__name__}: {error}")
        if not explained(error):
            log.error("the model cannot be loaded", exc_info=True)
        return
    _send(stream, loaded)
    while True:
        found = _answered(answer, model, _receive(stream))
        _send(stream, found)
        if found.status == 500 and loaded.on_gpu:  # an error may leave the GPU of no use to this process
            return


def _answered(answer: Callable[[Any, Request], Response], model: Any, request: Request) -> Response:
    try:
        return answer(model, request)
    except Exception as error:
        log.exception("this is a bug of Resight: %s of %d bytes", request.route, len(request.body))
        return Response.error(500, f"internal error: {type(error).__name__}")


def _named(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _end_with(server: int) -> None:
    """The kernel ends this process when the server is gone, however that ended and whatever goes on here."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it was gone before
        os._exit(0)


def _receive(stream: Stream) -> Any:
    size = stream.read(SIZE)
    if len(size) < SIZE:
        raise EOFError
    return pickle.loads(stream.read(int.from_bytes(size)))


def _send(stream: Stream, message: object) -> None:
    stream.write(packed(message))
    stream.flush()


def packed(message: object) -> bytes:
    """``message`` as it passes through the socket, in either direction."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(SIZE) + data
