"""The server's ASGI application: who may ask, how much, and how long; what is asked goes to the workers.

It reads a request whole, within bounds, before it takes a place in the queue, so that a slow client holds nobody up.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..config.defaults import SERVE_MB
from ..errors import shortened
from .answer import describe
from .metrics import Metrics
from .openapi import document
from .request import HEADERS, Refused, Request, Response, Route
from .routes import route
from .versions import Versions
from .workers import QueueFull

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_SECONDS = 60.0  # for the whole body of a request
DROP_SECONDS = 5.0  # in which a client may still send what is not wanted, so that it reads why
HELD_BODIES = 16  # of the largest size, whose bytes may be in memory at once
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
OF_PAGE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
HEALTH = ("/healthz", "/readyz")
OPEN = ("live", "ready", "healthz", "readyz", "page")  # without a token
SELDOM_TOLD = ("live", "ready", "healthz", "readyz", "metrics")  # what asks for them does so every few seconds


class Gone(Exception):
    """The client has left."""


@dataclass(frozen=True)
class Rules:
    """
    Args:
        body: bytes of a request.
        seconds: from the end of a request to its answer.
        token: that clients have to show; "" for none.
    """

    body: int = SERVE_MB << 20
    seconds: float = 20.0
    token: str = ""


@dataclass
class Asked:
    """One request, and what becomes of it."""

    method: str
    target: str
    client: str
    headers: dict[bytes, bytes]
    receive: Receive
    name: str = "other"
    size: int = 0
    whole: bool = False

    @property
    def length(self) -> int:
        """Of the body, as the client says."""
        return int(self.headers.get(b"content-length", b"0"))

    @property
    def unread(self) -> bool:
        """Whether there is more of the body."""
        return not self.whole and (self.length > 0 or b"transfer-encoding" in self.headers)

    async def more(self) -> bytes:
        """The next part of the body. Raises Gone."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part: bytes = message.get("body", b"")
        self.size += len(part)
        self.whole = not message.get("more_body", False)
        return part


class App:
    """
    Args:
        name: of the model.
    """

    def __init__(self, versions: Versions, name: str, rules: Rules, metrics: Metrics) -> None:
        self.versions, self.name, self.rules, self.metrics = versions, name, rules, metrics
        self.draining = False
        self._in_flight = self._held = 0
        self._document = json.dumps(document(name, bool(rules.token)), indent=1).encode()
        folder = resources.files(__package__) / "page"
        self._page = {
            path: Response(200, (folder / file).read_bytes(), media_type, headers=OF_PAGE)
            for path, (file, media_type) in PAGE.items()
        }
        metrics.watch(
            {
                "queue_length": lambda: sum(pool.waiting for pool in versions.pools),
                "requests_in_flight": lambda: self._in_flight,
                "requests_running": lambda: sum(pool.running for pool in versions.pools),
                "workers_ready": lambda: sum(len(pool.workers) for pool in versions.pools),
                "model_version": lambda: versions.current.task.version,
            }
        )

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        client = (scope.get("client") or ("?",))[0]
        asked = Asked(scope["method"], target.decode("latin-1"), client, dict(scope["headers"]), receive)
        self._in_flight += 1
        try:
            answer = await self._answer(asked)
            await _send(send, answer, close=self.draining or asked.unread)
        except Gone:
            answer = Response(499, b"")
        finally:
            self._in_flight -= 1
        self._tell(asked, answer, time.perf_counter() - begin)

    async def _answer(self, asked: Asked) -> Response:
        try:
            return await self._answer_of(asked)
        except Refused as refused:
            if refused.status != 408:  # it had its time
                await _drop_body(asked)
            return refused.response
        except Gone:
            raise
        except Exception as error:
            log.exception("this is a bug of Resight: %s %s", asked.method, asked.target)
            return Response.error(500, f"internal error: {type(error).__name__}")

    async def _answer_of(self, asked: Asked) -> Response:
        if own := self._own(asked):
            return own
        origin = asked.headers.get(b"origin", b"").decode("latin-1")
        found = route(asked.method, asked.target, origin)
        asked.name = found.kind if isinstance(found, Route) else "other"
        self._check_token(asked)
        if isinstance(found, Response):
            await _drop_body(asked)
            return found
        if found.to_model:
            return await self._from_model(asked, found)
        return describe(found, self.name, self.versions.all(self.draining))

    def _own(self, asked: Asked) -> Response | None:
        """The answer where the path is none of the protocols'."""
        path = asked.target.partition("?")[0]
        known = path in (*HEALTH, "/metrics", "/openapi.json") or path in self._page
        if not known:
            return None
        asked.name = "page" if path in self._page else path.strip("/").partition(".")[0]
        if asked.method not in ("GET", "HEAD"):
            raise Refused(f"{path} takes GET, not {asked.method}", 405, {"Allow": "GET, HEAD"})
        self._check_token(asked)
        if path in self._page:
            return self._page[path]
        if path == "/metrics":
            return Response(200, *self.metrics.text())
        if path == "/openapi.json":
            return Response(200, self._document)
        if path == "/healthz" or self.ready:
            return Response(200, b'{"status": "ok"}')
        return Response(503, b'{"status": "stopping"}' if self.draining else b'{"status": "loading"}')

    @property
    def ready(self) -> bool:
        return self.versions.current.ready and not self.draining

    def _check_token(self, asked: Asked) -> None:
        if not self.rules.token or asked.name in OPEN:
            return
        kind, _, given = asked.headers.get(b"authorization", b"").partition(b" ")
        if not (kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.rules.token.encode())):
            raise Refused("a token is needed: Authorization: Bearer TOKEN", 401, {"WWW-Authenticate": "Bearer"})

    async def _from_model(self, asked: Asked, found: Route) -> Response:
        self._check_capacity()
        if asked.length > self.rules.body:
            raise Refused(f"the request has {asked.length:,} bytes, at most {self.rules.body:,} are taken", 413)
        body = await self._read_body(asked)
        try:
            given = {name: asked.headers.get(name.encode()) for name in HEADERS}
            headers = {name: value.decode("latin-1") for name, value in given.items() if value is not None}
            return await self._run(asked, Request(found, body, headers))
        finally:
            self._held -= len(body)

    def _check_capacity(self) -> None:
        """Whether a request can be taken on now; else it is not read."""
        pool = self.versions.current
        if self.draining:
            raise Refused("the server stops", 503, {"Retry-After": "1"})
        if pool.loaded is None:
            raise Refused("the model is being loaded", 503, {"Retry-After": "1"})
        try:
            pool.check_room()
        except QueueFull as full:
            raise _busy(full.after) from None
        self._check_held()

    def _check_held(self) -> None:
        if self._held > HELD_BODIES * self.rules.body:
            raise _busy(1)

    async def _read_body(self, asked: Asked) -> bytes:
        """The body, whose bytes are counted as held until the request is answered."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not asked.whole:
                    part = await asked.more()
                    body += part
                    self._held += len(part)
                    self._check_held()  # many may have begun when there was room
                    if len(body) > self.rules.body:
                        raise Refused(f"the request has more than the {self.rules.body:,} bytes that are taken", 413)
        except BaseException as error:
            self._held -= len(body)
            if isinstance(error, TimeoutError):
                message = f"the request was not there after {BODY_SECONDS:.0f} seconds"
                raise Refused(message, 408) from None
            raise
        return bytes(body)

    async def _run(self, asked: Asked, request: Request) -> Response:
        self._check_capacity()  # it may have changed while the body came
        answer = self.versions.current.submit(request)
        left = asyncio.ensure_future(_left(asked))
        try:
            either: set[asyncio.Future[Any]] = {answer, left}
            await asyncio.wait(either, timeout=self.rules.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if left.done():
                raise Gone
            return Response.error(504, f"there was no answer within {self.rules.seconds:g} seconds")
        finally:
            answer.cancel()
            left.cancel()

    def _tell(self, asked: Asked, answer: Response, seconds: float) -> None:
        """Metrics and the access log."""
        self.metrics.count(asked.name, answer.status, seconds, answer.model_seconds)
        fields = {
            "client": asked.client,
            "method": asked.method,
            "path": shortened(asked.target),
            "route": asked.name,
            "status": answer.status,
            "received": asked.size,
            "sent": len(answer.body),
            "seconds": round(seconds, 4),
            "model_seconds": round(answer.model_seconds, 4),
        }
        level = logging.DEBUG if asked.name in SELDOM_TOLD else logging.INFO
        text = "%s %s %s %d, %.0f ms"
        values = (asked.client, asked.method, fields["path"], answer.status, 1000 * seconds)
        log.log(level, text, *values, extra={"fields": fields})


def _busy(after: int) -> Refused:
    return Refused("too many requests wait already", 429, {"Retry-After": str(after)})


async def _left(asked: Asked) -> None:
    """Returns when the client has."""
    while (await asked.receive())["type"] != "http.disconnect":
        pass


async def _drop_body(asked: Asked) -> None:
    """Takes what a client still sends for a while: a connection that is closed before is an error at the client, which
    then reads no answer. One that waits for leave to send (Expect) needs none."""
    if b"expect" in asked.headers:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(DROP_SECONDS):
            while asked.unread:
                await asked.more()


async def _send(send: Send, answer: Response, close: bool) -> None:
    headers = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), **answer.headers}
    if close:
        headers["Connection"] = "close"
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})
