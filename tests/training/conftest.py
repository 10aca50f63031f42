import os
import signal
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fixtures.runs import OFTEN, TINY
from resight.dialect import load_config
from resight.training.train import train
from resight.training.trainer import Trainer


@pytest.fixture(scope="session")
def tiny():
    """A configuration that trains on the records at ``data`` within seconds, with any keys changed."""

    def settings(data, **changes):
        given = {key.replace("__", "."): value for key, value in changes.items()}
        heads = {} if given.keys() & {"model.name", "model.start"} else {"model.heads": 1}  # quicker to save
        return load_config(None, TINY | heads | {"data.path": str(data)} | given)

    return settings


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def interrupt_after(monkeypatch):
    """A SIGTERM to this process after so many steps."""

    def after(steps):
        step = Trainer.step

        def then_stop(self, *arguments):
            step(self, *arguments)
            if self.state.step == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "step", then_stop)

    return after


@pytest.fixture(scope="module")
def whole(shapes, tiny, once):
    """A run of 8 steps, which are 3 an epoch."""

    def make(folder):
        result = train(tiny(shapes(train=5, val=1), train__steps=8, **OFTEN), folder / "run")
        assert (result.exit_code, result.steps, result.run) == (0, 8, str(folder / "run"))

    return once("whole", make) / "run"


@pytest.fixture
def metadata(monkeypatch):
    """The metadata service of an instance on loopback, which the environment names; see :class:`Metadata`."""
    server = Metadata()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


class Metadata(ThreadingHTTPServer):
    """Knows only the tokens that it gave and did not withdraw; once ``dead`` it says nothing."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Metadata)
        self.answers = {"instance-type": "g5.xlarge", "instance-life-cycle": "spot"}
        self.tokens, self.asked, self.dead = [], [], False
        self.drips, self.redirect = False, ""  # whether it sends answers byte by byte; where else to ask for them
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def announce(self, seconds):
        """That the instance will be taken away in so many seconds."""
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        self.answers["spot/instance-action"] = f'{{"action": "terminate", "time": "{end:%Y-%m-%dT%H:%M:%SZ}"}}'


class _Metadata(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, code, text=""):
        self.send_response(code)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        with suppress(OSError):  # whoever asked has gone
            for byte in text.encode() if self.server.drips else [text.encode()]:
                self.wfile.write(bytes([byte]) if self.server.drips else byte)
                threading.Event().wait(0.02 if self.server.drips else 0)

    def _ask(self):
        server = self.server
        server.asked.append((self.command, self.path))
        if server.dead:
            return self.connection.close()
        if (self.command, self.path) == ("PUT", "/latest/api/token"):
            if "X-aws-ec2-metadata-token-ttl-seconds" not in self.headers:
                return self._answer(400)
            server.tokens.append(f"token-{len(server.asked)}")
            return self._answer(200, server.tokens[-1])
        if self.headers.get("X-aws-ec2-metadata-token") not in server.tokens:
            return self._answer(401)
        answer = server.answers.get(self.path.removeprefix("/latest/meta-data/"))
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            return self.end_headers()
        return self._answer(404) if answer is None else self._answer(200, answer)

    do_GET = do_PUT = _ask
