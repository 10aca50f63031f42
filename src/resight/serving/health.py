"""The health of a container, for its HEALTHCHECK: that of the server that runs in it; one without a server is healthy.

python -m resight.serving.health
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.defaults import SERVE_HOST, SERVE_PORT

SECONDS = 4.0
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def served_at(command: Sequence[str]) -> tuple[str, int] | None:
    """Where the server of this command line answers; None where it starts none.

    Args:
        command: of the first process, which may be an init that has resight's after its own.
    """
    words = list(command)
    if "serve" not in words or not any(Path(word).name in ("resight", "resight.__main__") for word in words):
        return None
    options = {"--host": SERVE_HOST, "--port": str(SERVE_PORT)}
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in options:
            options[name] = value if equals else (words[number + 1 :] or [""])[0]
    host, port = options.values()
    return ANY.get(host, host), int(port)


def is_healthy(command: Sequence[str]) -> bool:
    try:
        if (place := served_at(command)) is None:
            return True
        connection = http.client.HTTPConnection(*place, timeout=SECONDS)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, ValueError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    words = Path("/proc/1/cmdline").read_bytes().decode(errors="surrogateescape").rstrip("\0").split("\0")
    sys.exit(0 if is_healthy(words) else 1)
