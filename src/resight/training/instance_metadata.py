"""The metadata service of an EC2 instance (IMDSv2): of what type it is, and whether it is about to be taken away.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from ..data.storage import is_remote

log = logging.getLogger(__name__)

ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DISABLED = "AWS_EC2_METADATA_DISABLED"
_TIMEOUT = 1.0  # seconds: the service is on the machine itself
_MOST = 1 << 16  # bytes of an answer
_UNREACHED = (OSError, HTTPException, ValueError)


@dataclass(frozen=True)
class Notice:
    """The instance will be taken away: what happens ("terminate", "stop", "hibernate") and when, if that is told."""

    action: str
    end: datetime | None


class InstanceMetadata:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._open = build_opener(ProxyHandler({})).open  # never through a proxy, which is another machine
        self._token = ""

    def read(self, path: str) -> str | None:
        """What lies below ``/latest/meta-data/``; None where there is no such thing.

        Raises:
            OSError, HTTPException, ValueError: the service gives no answer.
        """
        for renewed in (not self._token, True):
            if renewed:
                self._token = self._ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "21600")
            try:
                return self._ask("GET", f"/latest/meta-data/{path}", "X-aws-ec2-metadata-token", self._token)
            except HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or renewed:  # 401: the token has ended
                    raise
        return None

    def _ask(self, method: str, path: str, header: str, value: str) -> str:
        request = Request(self._endpoint + path, headers={header: value}, method=method)
        with self._open(request, timeout=_TIMEOUT) as answer:
            return answer.read(_MOST).decode().strip()

    def notice(self) -> Notice | None:
        """That the instance will be taken away; None as long as nothing is known of it, or nothing answers."""
        try:
            text = self.read("spot/instance-action")
        except _UNREACHED as error:
            log.debug("the instance metadata service does not answer: %s", error)
            return None
        if text is None:
            return None
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            told = json.loads(text)
            return Notice(str(told["action"]), datetime.fromisoformat(told["time"]).astimezone(UTC))
        return Notice("interruption", None)


def find_service(run: object) -> tuple[InstanceMetadata, str] | None:
    """The metadata service of this machine and the instance's type; None where there is none.

    It is looked for where the environment names it, in a job of AWS Batch, and for a run in a store: a training from
    disk to disk does not wait for it.
    """
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
    log.info("on an instance %s, %s", kind, life or "whose life cycle is not told")
    return service, kind or ""
