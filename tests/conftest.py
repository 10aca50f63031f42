import os

# Tests run a process a core: one thread in each and in what it starts, set before a library asks for the number.
os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import ONNX Runtime themselves

import io
import logging
import random
import re
import runpy
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

# No deadline: how long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("resight", deadline=None, print_blob=True)
hypothesis.settings.load_profile("resight")

collect_ignore = [] if torch.cuda.is_available() else ["training/test_cuda.py"]

pytest_plugins = [
    "fixtures.browser",
    "fixtures.models",
    "fixtures.pretended_cuda",
    "fixtures.records",
    "fixtures.saved_models",
    "fixtures.served",
    "fixtures.serving",
    "fixtures.tfod",
]

COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 220)}


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once(name, make)``: a folder that ``make(folder)`` fills, once for all processes of a run of pytest.

    No test changes what it holds.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (done := shared / f"{name}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Nothing is kept in the user's cache folder, nor found there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def kept_answers():
    """``kept_answers("tfod/oracles/operators")``: the arrays that this oracle was given, and those it answered.

    See ``oracles.py``.
    """
    return runpy.run_path(str(Path(__file__).with_name("oracles.py")))["kept"]


@pytest.fixture(scope="session")
def shapes(once):
    """Folders of records with red and blue squares: ``shapes(train=8, val=3)``, made once, not to be changed.

    Every third image is portrait; ``broken=2`` cuts the images of two more records of each split in half.
    """
    from resight.label_map import LabelMap
    from resight.records.writer import write_records_folder

    def make(broken: int = 0, **counts: int) -> Path:
        def write(folder: Path) -> None:
            splits = {
                split: [draw_squares(f"{split}-{number}", number, number >= count) for number in range(count + broken)]
                for split, count in counts.items()
            }
            write_records_folder(splits, folder / "records", LabelMap.from_names(list(COLOURS)))

        name = "-".join(f"{key}{value}" for key, value in (("shapes", broken), *sorted(counts.items())))
        return once(name, write) / "records"

    return make


@pytest.fixture(scope="session")
def squares():
    """``squares(name, number)``: an annotated picture, 96x64 or 64x96."""
    return draw_squares


def draw_squares(name: str, number: int, broken: bool = False):
    from resight.types import Annotation, Box

    draw = np.random.default_rng([len(name), number])
    width, height = (64, 96) if number % 3 == 2 else (96, 64)
    image = draw.integers(90, 130, (height, width, 3), dtype=np.uint8)
    boxes = []
    # One square on each side of the middle, so that none covers another.
    for half in range(1 + number % 2):
        label = list(COLOURS)[(number + half) % 2]
        side = int(draw.integers(20, 28))
        x = int(draw.integers(0, width // 2 - side + 1)) + half * width // 2
        y = int(draw.integers(0, height - side + 1))
        image[y : y + side, x : x + side] = COLOURS[label]
        boxes.append(Box(label, x, y, x + side, y + side))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data = file.getvalue()
    return Annotation(data[: len(data) // 2] if broken else data, tuple(boxes), width, height, f"{name}.png")


# The least that TFOD's own protos ask for.
_PIPELINE = """
model { faster_rcnn {
  num_classes: 2
  image_resizer { keep_aspect_ratio_resizer { pad_to_max_dimension: true } }
  feature_extractor { type: "faster_rcnn_resnet50_keras" }
  first_stage_anchor_generator { grid_anchor_generator { scales: 1.0 aspect_ratios: 1.0 } }
  first_stage_box_predictor_conv_hyperparams { initializer { truncated_normal_initializer { } } }
  initial_crop_size: 14 maxpool_kernel_size: 2 maxpool_stride: 2
  second_stage_box_predictor { mask_rcnn_box_predictor { use_dropout: false } }
  second_stage_post_processing { score_converter: SOFTMAX }
} }
train_config {
  num_steps: 10 MORE
  optimizer { momentum_optimizer { learning_rate { constant_learning_rate { learning_rate: 0.01 } } } }
}
"""


@pytest.fixture(scope="session")
def least_pipeline():
    """``least_pipeline(fields)``: the smallest `pipeline.config`, with these fields in its train_config."""
    return lambda fields: _PIPELINE.replace("MORE", fields)


@pytest.fixture(scope="session")
def untrained(once):
    """A checkpoint of a small model for ``shapes`` with random weights, which finds something everywhere."""
    import torch

    from resight.fpn.config import FpnModelConfig
    from resight.label_map import LabelMap
    from resight.models.build import build_model
    from resight.models.checkpoints import Checkpoint, ModelMetadata, save_checkpoint

    def write(folder: Path) -> None:
        config = FpnModelConfig(name="test_efficientnet", min_size=64, max_size=96)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(config, len(COLOURS))
        card = ModelMetadata.of(model, config, LabelMap.from_names(list(COLOURS)), score=0.3)
        weights = {f"model.{key}": value for key, value in model.state_dict().items()}
        save_checkpoint(folder / "model.safetensors", Checkpoint(card, weights, {}))

    return once("untrained", write) / "model.safetensors"


@pytest.fixture(scope="session")
def s3_server():
    """Address of an S3 server on loopback that runs in this process."""
    import moto.backends
    from moto.server import ThreadedMotoServer

    modules = list(moto.backends.list_of_moto_modules())  # read from the disk once, and not with every request
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moto.backends.list_of_moto_modules", lambda: modules)
        server.start()
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
        server.stop()


@pytest.fixture
def s3(s3_server, tmp_path, monkeypatch):
    """An empty bucket behind a :class:`Proxy`, credentials in a profile's file, and a cache of the test's own."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    proxy = Proxy(s3_server)
    proxy.use_key = lambda key: credentials.write_text(
        f"[tester]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"
    )
    credentials = tmp_path / "credentials"
    proxy.use_key("first")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "tester")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    proxy.bucket = f"bucket-{time.time_ns()}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=proxy.bucket)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


class Proxy(ThreadingHTTPServer):
    """Passes requests on, but for ``faults`` (a share of them); counts both, and knows only the keys in ``keys``."""

    daemon_threads = True
    KINDS = ("busy", "reset", "truncated", "slow")

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), _Pass)
        self.target, self.faults, self.keys, self.expired = target, 0.0, None, set()
        self.requests, self.injected, self.only = [], [], None
        self.draw, self.lost_answer = random.Random(1), ""  # the answer to the next request of that pattern is cut
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, folder, prefix):
        """Uploads the files of a folder and returns its address."""
        from resight.io import object_store as storage

        address = f"s3://{self.bucket}/{prefix}"
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            storage.write(storage.join(address, path.relative_to(folder).as_posix()), path)
        return address

    def next_fault(self, request):
        if self.lost_answer and re.match(self.lost_answer, request):
            self.lost_answer = ""
            return "truncated"
        if self.draw.random() >= self.faults:
            return ""
        self.injected.append(self.only or self.KINDS[len(self.injected) % len(self.KINDS)])
        return self.injected[-1]

    def handle_error(self, *_):
        pass  # a client that gave up


class _Pass(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _pass(self):
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.requests.append((self.command, self.path, self.headers.get("Range")))
        key = (re.findall(r"Credential=([^/]+)/", self.headers.get("Authorization", "")) or [""])[0]
        if key in proxy.expired:
            return self._answer(400, _error("ExpiredToken", "The provided token has expired."))
        if proxy.keys is not None and key not in proxy.keys:
            return self._answer(403, _error("InvalidAccessKeyId", "The key you provided does not exist."))
        fault = proxy.next_fault(f"{self.command} {self.path}")
        if fault == "busy":
            return self._answer(503, _error("SlowDown", "Please reduce your request rate."))
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if fault == "slow":
            time.sleep(0.2)
        connection = HTTPConnection(proxy.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        self._answer(response.status, data, response.getheaders(), fault == "truncated")
        connection.close()

    def _answer(self, status, data, headers=(), truncated=False):
        self.send_response_only(status)
        own = {"connection", "transfer-encoding", "content-length"}
        for name, value in headers:
            if name.lower() not in own or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if truncated:
            data, self.close_connection = data[: len(data) // 2], True
        self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass


def _error(code, message):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
