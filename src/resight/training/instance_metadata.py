"""The metadata service of an EC2 instance (IMDSv2): of what type it is, and whether it is about to be taken away.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from ..errors import ResightError
from ..io.files import parse_json
from ..io.object_store import is_remote

log = logging.getLogger(__name__)

ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DISABLED = "AWS_EC2_METADATA_DISABLED"
_TIMEOUT = 1.0  # seconds of silence: the service is on the machine itself
_WHOLE = 2.0  # seconds that an answer may take
_MAX_BYTES = 1 << 16  # bytes of an answer
_UNREACHED = (OSError, HTTPException, ValueError)


@dataclass(frozen=True)
class Notice:
    """The instance will be taken away: what happens ("terminate", "stop", "hibernate") and when, if that is told."""

    action: str
    end: datetime | None


class InstanceMetadata:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = ""

    def read(self, path: str) -> str | None:
        """What lies below ``/latest/meta-data/``; None where there is no such thing. Raises one of ``_UNREACHED``."""
        for renewed in (not self._token, True):
            if renewed:
                token = "/latest/api/token"
                status, self._token = self._ask("PUT", token, "X-aws-ec2-metadata-token-ttl-seconds", "21600")
                if status != 200:
                    raise OSError(f"it answers with HTTP status {status}")
            status, text = self._ask("GET", f"/latest/meta-data/{path}", "X-aws-ec2-metadata-token", self._token)
            if status == 200:
                return text
            if status == 404:
                return None
            if status != 401 or renewed:  # 401: the token has ended
                raise OSError(f"it answers with HTTP status {status}")
        return None

    def _ask(self, method: str, path: str, header: str, value: str) -> tuple[int, str]:
        """Status and text of an answer; straight from the service, and never by way of a proxy or a redirection."""
        parts = urlsplit(self._endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("its endpoint is not an http:// address")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname, parts.port or kind.default_port, timeout=_TIMEOUT)
        connection.connect()
        until = time.monotonic() + _WHOLE  # not after the timer's: what was cut off must not pass for an answer
        # The timeout is one of silence: what sends a byte now and then is cut off.
        end = threading.Timer(_WHOLE, _cut, (connection.sock,))
        end.daemon = True
        end.start()
        try:
            connection.request(method, parts.path + path, headers={header: value})
            answer = connection.getresponse()
            text = answer.read(_MAX_BYTES).decode().strip() if answer.status == 200 else ""
            answer.close()
        finally:
            end.cancel()
            connection.close()
        if time.monotonic() >= until:
            raise TimeoutError("it answers too slowly")
        return answer.status, text

    def notice(self) -> Notice | None:
        """That the instance will be taken away; None as long as nothing is known of it, or nothing answers."""
        try:
            text = self.read("spot/instance-action")
        except _UNREACHED as error:
            log.debug("the instance metadata service does not answer: %s", error)
            return None
        if text is None:
            return None
        with suppress(ResightError, ValueError, LookupError, TypeError, ArithmeticError):
            told = parse_json(text)
            return Notice(f"{told['action']:.40}", datetime.fromisoformat(told["time"]).astimezone(UTC))
        return Notice("interruption", None)


def _cut(line: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        line.shutdown(socket.SHUT_RDWR)


def find_service(run: object) -> tuple[InstanceMetadata, str] | None:
    """The metadata service of this machine and the instance's type; None where there is none. It is looked for where
    the environment names it, in a job of AWS Batch, and for a run in a store: others do not wait for it."""
    named = os.environ.get(ENDPOINT)
    expected = named or os.environ.get("AWS_BATCH_JOB_ID")
    if os.environ.get(DISABLED, "").lower() == "true" or not (expected or is_remote(run)):
        return None
    service = InstanceMetadata(named or "http://169.254.169.254")
    try:
        kind, life = service.read("instance-type"), service.read("instance-life-cycle")
    except _UNREACHED as error:
        if expected:
            log.warning("no instance metadata service: an interruption will be noticed by its signal alone (%s)", error)
        return None
    if not re.fullmatch(r"[\w.-]{1,40}", kind or ""):  # something else that answers there
        return None
    log.info("running on %s (%s)", kind, life or "purchase option unknown")
    return service, kind or ""
