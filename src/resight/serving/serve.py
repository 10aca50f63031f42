"""``resight serve``: a model behind HTTP, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from ..arguments import check_types
from ..config.defaults import SERVE_HOST, SERVE_MB, SERVE_MEGAPIXELS, SERVE_PORT, ServedInput
from ..errors import TERMINATED, ResightError, counted
from ..inference.exported import OPENVINO
from ..io.cores import core_count
from ..io.files import read_file
from ..io.object_store import is_remote
from ..io.progress import speaks_json
from ..io.signals import SIGNALS
from .app import App, Rules
from .connections import Connection
from .metrics import Metrics
from .versions import MODEL_SUFFIXES, Versions
from .worker import Task
from .workers import Plan, Pool

log = logging.getLogger(__name__)

TOKEN = "RESIGHT_SERVE_TOKEN"
QUEUE = 8  # requests that may wait for each worker
KEEP_ALIVE_SECONDS = 75  # longer than load balancers keep a connection that nothing passes through
CLOSE_SECONDS = 2  # for clients to take the last answers
BACKLOG = 1024
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    model: str | os.PathLike[str],
    *,
    name: str | None = None,
    host: str = SERVE_HOST,
    port: int = SERVE_PORT,
    workers: int | None = None,
    threads: int | None = None,
    queue: int | None = None,
    timeout: float = 20.0,
    max_mb: int = SERVE_MB,
    max_megapixels: int = SERVE_MEGAPIXELS,
    input_type: ServedInput | None = None,
    token_file: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> None:
    """Serves a model over HTTP until SIGTERM or Ctrl-C; then it answers what it has taken on, and returns.

    Args:
        model: a run folder, a checkpoint or an exported model; or a folder with one in each of its numbered subfolders,
            of which the highest is served, also when it comes later.
        name: for clients; by default that of the file or folder, without its suffix; of a folder saved_model that of
            the folder it is in.
        port: 0 for a free one, which the log tells.
        workers: processes with the model in their memory, each at one image at a time.
        threads: of each worker; by default all share the cores of this machine.
        queue: requests that wait when all workers are busy; more are refused with 429. By default 8 for each worker.
        timeout: seconds from the end of a request to its answer; then the client gets 504.
        max_mb: megabytes of a request, also when it is unpacked.
        max_megapixels: of an image; one of more is refused before it is decoded.
        input_type: what clients of TensorFlow Serving's protocol send, pixels (image_tensor) or encoded images, and
            what its metadata says; by default either, and it says pixels. A SavedModel has its own.
        token_file: file of a token that clients must send; by default that of RESIGHT_SERVE_TOKEN, if it is set.
        labels: label map that names the classes.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ResightError: the model cannot be loaded, the port is taken, or a number makes no sense.
        SystemExit, KeyboardInterrupt: there was a second signal.
    """
    check_types(locals(), serve)
    workers, threads = _shared(workers, threads)
    queue = QUEUE * workers if queue is None else queue
    for option, value in {
        "timeout": timeout,
        "max_mb": max_mb,
        "max_megapixels": max_megapixels,
        "queue": queue,
    }.items():
        if not value > 0:
            raise ResightError(f"must be more than 0, not {value:g}", where=option)
    task = Task(
        os.fspath(model), name or _name_of(model), device=device, labels=None if labels is None else os.fspath(labels),
        threads=threads, json=speaks_json(), input_type=input_type, max_bytes=max_mb << 20,
        max_pixels=max_megapixels * 10**6,
    )  # fmt: skip
    if not re.fullmatch(r"[^/:\s\x00-\x1f]+", task.name):
        raise ResightError(f"'{task.name}' cannot be in an address", where="--name", fix="Choose one without / and :.")
    rules = Rules(max_mb << 20, timeout, _token(token_file))
    plan = Plan(workers, queue, timeout, hidden=(TOKEN,))
    with _listening(host, port) as listener:
        if host not in LOOPBACK and not rules.token:
            log.warning("whoever reaches %s can use the model: %s is not set", host, TOKEN)
        forced = asyncio.run(_run(task, plan, rules, listener))
    if forced:
        raise KeyboardInterrupt if forced == signal.SIGINT else SystemExit(TERMINATED)


def _shared(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers and the threads of each: together as many as there are cores."""
    cores = core_count()
    for option, value in {"workers": workers, "threads": threads}.items():
        if value is not None and value < 1:
            raise ResightError(f"must be at least 1, not {value}", where=option)
    if threads is None:
        threads = max(1, cores // workers) if workers else 1
    return workers or max(1, cores // threads), threads


def _name_of(model: str | os.PathLike[str]) -> str:
    path = Path(str(model).rstrip("/") if is_remote(model) else os.path.abspath(model))
    if path.name in (OPENVINO, "saved_model"):
        path = path.parent
    return path.stem if path.suffix in MODEL_SUFFIXES else path.name


def _token(file: str | os.PathLike[str] | None) -> str:
    """Raises ResightError: there should be one, and is none that a header can hold."""
    where = TOKEN if file is None else file
    text = os.environ.get(TOKEN) if file is None else read_file(file, 65536).decode("ascii", "replace").strip()
    if text is not None and not re.fullmatch(r"[\x21-\x7e]+", text):
        fix = "A token is printable ASCII without spaces, such as `openssl rand -hex 32` makes."
        raise ResightError("is no token" if text else "is empty", where=where, fix=fix)
    return text or ""


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Raises ResightError: nothing can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OverflowError:
        raise ResightError(f"is from 0 to 65535, not {port}", where="--port") from None
    except (OSError, UnicodeError) as error:  # that of a name which no host can have
        fix = "Choose another with --host or --port; port 0 takes one that is free."
        why = str(getattr(error, "strerror", None) or error).partition(" (while")[0]  # asyncio's words end there
        raise ResightError(f"cannot be listened at: {why}", where=f"{host}:{port}", fix=fix) from error
    # Its connections inherit it, and asyncio would set it only where the socket names its protocol. Without, the second
    # half of an answer waits for the client's kernel to acknowledge the first, which takes 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener


class _Http(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are for _Signals


class _Signals:
    """SIGTERM and Ctrl-C: the first lets the server end, the second ends it at once."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self.forced = 0

    def take(self, number: int) -> None:
        if self.first.is_set():
            self.forced = self.forced or number
            self.second.set()
        self.first.set()

    @contextmanager
    def handled(self, reload: Callable[[], None]) -> Iterator[None]:
        """SIGHUP is for ``reload``."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, numbers = asyncio.get_running_loop(), (*SIGNALS, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in SIGNALS:
            loop.add_signal_handler(number, self.take, number)
        loop.add_signal_handler(signal.SIGHUP, reload)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


async def _run(task: Task, plan: Plan, rules: Rules, listener: socket.socket) -> int:
    """A server from its start to its end: the second signal, or 0. Raises ResightError: the model cannot be loaded."""
    metrics = Metrics()
    versions = Versions(task.model, Pool(task, plan, metrics.worker_restarts.inc))
    app = App(versions, task.name, rules, metrics)
    http = _Http(
        uvicorn.Config(
            app, http=Connection, ws="none", loop="asyncio", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
    )  # fmt: skip

    async def work() -> None:
        await versions.start()
        host, port = listener.getsockname()[:2]
        at = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        number, workers = versions.current.task.version, len(versions.current.workers)
        told = f"{counted(workers, 'worker')} of {counted(task.threads, 'thread')}"
        log.info("Serving %s, version %d, at %s with %s", task.name, number, at, told)
        log.info("Next: curl -F image=@photo.jpg %s/predict", at)
        await versions.watch()

    ours, of_http = logging.getLogger("resight"), logging.getLogger("uvicorn")
    of_http.handlers, of_http.propagate = ours.handlers, False
    of_http.setLevel(logging.WARNING)
    signals = _Signals()
    with signals.handled(versions.reload):
        serving = asyncio.create_task(http.serve([listener]))
        try:
            await _first(work(), signals.first.wait(), asyncio.shield(serving))
            app.draining = True
            log.info("Stopping when what was taken on is answered; a second signal stops at once")
            await _first(versions.drain(), signals.second.wait(), seconds=rules.seconds)
        finally:
            http.should_exit, http.force_exit = True, bool(signals.forced)
            await serving
            await versions.stop()
    return signals.forced


async def _first(*awaited: Awaitable[object], seconds: float | None = None) -> None:
    """Returns when one of them is done, or so many seconds have passed, and cancels the others."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(one) for one in awaited]
    done: set[asyncio.Future[Any]] = set()
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
