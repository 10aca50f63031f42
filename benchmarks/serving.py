"""What a server adds to its model's time, and how it stands more than it can do.

    python benchmarks/serving.py MODEL PICTURE... [--minutes 30] [--clients 64] [--requests 300]

Overhead: one client asks for one picture after another; the median of its time, less what the network took for that
request and less the median of decoding the picture, is what HTTP, the queue and the worker's socket cost. Load:
requests come at twice the rate that the workers can do, 5 % of them broken and 1 % too large. Every answer is
compared with the model's, statuses are counted, and the memory of all processes is followed after the first fifth of
the time.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

MB = 1 << 20
MAX_MB = 4
BOUNDARY = "a-boundary-of-parts"
REFUSED = set(range(400, 500)) | {504}  # and 503 while it stops
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Server:
    """``resight serve`` in a process of its own; its access log is kept."""

    def __init__(self, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "resight", "serve", model, "--port", "0", "--max-mb", str(MAX_MB)]
        self.process = subprocess.Popen([*command, "--log-format", "json", *options], stderr=subprocess.PIPE, text=True)
        self.model_seconds: list[float] = []
        self._found, self._told = threading.Event(), threading.Semaphore(0)
        threading.Thread(target=self._read, daemon=True).start()
        if not self._found.wait(300):
            raise SystemExit("the server did not start")

    def _read(self) -> None:
        for line in self.process.stderr or ():
            told = json.loads(line) if line.startswith("{") else {"message": line}
            if "Serving " in told["message"]:
                self.port = int(told["message"].partition("http://")[2].partition(" ")[0].rpartition(":")[2])
                self._found.set()
            elif told.get("status") == 200 and told["model_seconds"]:
                self.model_seconds.append(told["model_seconds"])
                self._told.release()
            elif "status" not in told:
                print(told["message"], file=sys.stderr)

    def next_model_seconds(self) -> float:
        """Of the request that was just answered, where one follows the other."""
        self._told.acquire()
        return self.model_seconds[-1]

    def memory(self) -> int:
        """Bytes of it and its workers that are its own."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sum(_memory(pid) for pid in [str(self.process.pid), *children])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def _memory(pid: str) -> int:
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it ended
        return 0
    return 1024 * sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("RssAnon"))


def multipart(picture: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


def ask(connection: http.client.HTTPConnection, body: bytes, path: str = "/predict") -> tuple[int, bytes]:
    connection.request("POST", path, body, HEADERS)
    answer = connection.getresponse()
    return answer.status, answer.read()


def overhead(model: str, picture: bytes, count: int) -> dict[str, float]:
    """Medians in milliseconds."""
    from resight.io.images import decode_upright

    server = Server(model, "--workers", "1", "--threads", "1")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body, less_network, decoding = multipart(picture), [], []
    for _ in range(count + 10):
        start = time.perf_counter()
        status, _ = ask(connection, body)
        took = time.perf_counter() - start
        assert status == 200
        less_network.append(took - server.next_model_seconds())
        start = time.perf_counter()
        decode_upright(picture, "x.jpg")
        decoding.append(time.perf_counter() - start)
    server.stop()
    rest, decode = (1000 * statistics.median(times[10:]) for times in (less_network, decoding))
    network = 1000 * statistics.median(server.model_seconds[10:])
    return {"network": network, "all else": rest, "of it decoding": decode, "overhead": rest - decode}


@dataclass
class Load:
    """What became of the requests of one run."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of those that were accepted
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, status: int, seconds: float) -> None:
        with self.lock:
            self.statuses[status] += 1
            if status == 200:
                self.seconds.append(seconds)

    def slope(self) -> float:
        """Megabytes that the server gains in an hour, after the first fifth of the time."""
        return slope(self.memory[len(self.memory) // 5 :]) / MB * 3600


def slope(points: list[tuple[float, int]]) -> float:
    """Of the line through ``points``, by least squares."""
    if len(points) < 2:
        return 0.0
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


def put_under_load(
    model: str, pictures: list[bytes], minutes: float, clients: int, options: tuple[str, ...] = ()
) -> tuple[Load, dict[str, float]]:
    """Asks for twice what the workers can do, and returns what came of it and the numbers that bound it."""
    expected = answers(model, pictures)
    server = Server(model, *options)
    workers = int(metric(server, "resight_workers_ready"))
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for picture in pictures * 3:
        ask(connection, multipart(picture))
    rate = 2 * workers / statistics.median(server.model_seconds)
    load, end = Load(), time.monotonic() + 60 * minutes
    arrivals = Arrivals(rate, end)
    threads = [
        threading.Thread(target=client, args=(server.port, number, arrivals, pictures, expected, load))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        load.memory.append((time.monotonic(), server.memory()))
        time.sleep(min(2.0, max(end - time.monotonic(), 0)))
    for thread in threads:
        thread.join()
    queue = 8 * workers
    service = statistics.median(server.model_seconds)
    told = {"workers": workers, "rate": rate, "service": service, "bound": 2 * queue * service / workers}
    told["restarts"] = metric(server, "resight_worker_restarts_total")
    told["code"] = server.stop()
    return load, told


class Arrivals:
    """When the next request is due, for whichever client is free."""

    def __init__(self, rate: float, end: float) -> None:
        self._interval, self._end, self._next, self._lock = 1 / rate, end, time.monotonic(), threading.Lock()

    def wait(self) -> bool:
        """Whether there is one before the end."""
        with self._lock:
            due = self._next = max(self._next + self._interval, time.monotonic() - 1)  # no burst after a stall
        if due >= self._end:
            return False
        time.sleep(max(0.0, due - time.monotonic()))
        return True


def client(port: int, seed: int, arrivals: Arrivals, pictures: list[bytes], expected: list[object], load: Load) -> None:
    draw = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while arrivals.wait():
        number, kind = draw.randrange(len(pictures)), draw.random()
        path, body, allowed = "/predict", multipart(pictures[number]), {200, 429, 504}
        if kind < 0.05:
            (path, body), allowed = broken(draw, pictures[number]), REFUSED
        elif kind < 0.06:
            body, allowed = huge(draw), REFUSED
        start = time.perf_counter()
        try:
            status, answer = ask(connection, body, path)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            with load.lock:
                load.wrong.append(f"{path}, {len(body)} bytes: {error!r}")
            continue
        load.count(status, time.perf_counter() - start)
        with load.lock:
            if status not in allowed:
                load.wrong.append(f"{path}, {len(body)} bytes: {status} {answer[:200]!r}")
            elif status == 200 and not same(json.loads(answer)["images"][0]["detections"], expected[number]):
                load.wrong.append(f"picture {number}: {answer[:300]!r}")


def broken(draw: random.Random, picture: bytes) -> tuple[str, bytes]:
    """A request that is wrong in one of many ways."""
    half = picture[: draw.randrange(len(picture) // 2)]
    return draw.choice(
        [
            ("/predict", multipart(half)),
            ("/predict", multipart(draw.randbytes(1000))),
            ("/predict", draw.randbytes(1000)),
            ("/predict", b""),
            ("/v1/models/x:predict", b'{"instances": [[[[' + b"1," * draw.randrange(1000)),
            ("/v1/models/x:predict", b'{"instances": [{"b64": "////"}]}'),
            ("/v1/models/:nothing", b"{}"),
        ]
    )


def huge(draw: random.Random) -> bytes:
    """More bytes than are taken, or an image of more pixels."""
    if draw.random() < 0.5:
        return multipart(bytes(8 * MAX_MB * MB))
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return multipart(file.getvalue())


def answers(model: str, pictures: list[bytes]) -> list[object]:
    """What the model finds, as a server tells it."""
    from resight.serving.answer import answer
    from resight.serving.request import Request, Route
    from resight.serving.worker import Task, load_servable

    servable = load_servable(Task(model, "x"))
    headers = {"content-type": HEADERS["Content-Type"]}
    found = [answer(servable, Request(Route("images"), multipart(picture), headers)) for picture in pictures]
    return [json.loads(one.body)["images"][0]["detections"] for one in found]


def same(found: list[dict[str, object]], expected: object) -> bool:
    """Up to what the order of additions in another process may change."""
    assert isinstance(expected, list)
    return len(found) == len(expected) and all(
        one["label"] == other["label"]
        and np.allclose([one["score"], *one["box"]], [other["score"], *other["box"]], rtol=1e-3, atol=2e-2)  # type: ignore[misc]
        for one, other in zip(found, expected, strict=True)
    )


def metric(server: Server, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    pictures = [Path(picture).read_bytes() for picture in options.pictures]
    if options.requests:
        cost = overhead(options.model, pictures[0], options.requests)
        print(f"{len(pictures[0]):,} bytes:", ", ".join(f"{name} {value:.2f} ms" for name, value in cost.items()))
        print(f"overhead at most 3 ms: {cost['overhead'] <= 3}")
    if not options.minutes:
        return 0
    load, told = put_under_load(options.model, pictures, options.minutes, options.clients)
    p99 = float(np.quantile(load.seconds, 0.99))
    print(
        f"{told['workers']:.0f} workers, {told['service'] * 1000:.1f} ms a picture, asked {told['rate']:.1f} a second"
    )
    print("statuses:", dict(sorted(load.statuses.items())), f"restarts: {told['restarts']:.0f}")
    print(f"accepted and right: {len(load.seconds)}; wrong: {len(load.wrong)}", *load.wrong[:5], sep="\n  ")
    print(f"p99 of accepted {p99:.3f} s, bound {told['bound']:.3f} s: {p99 <= told['bound']}")
    megabytes = [bytes_ / MB for _, bytes_ in load.memory]
    start, growth = megabytes[len(megabytes) // 5], load.slope() * options.minutes * 0.8 / 60
    flat = growth <= 0.02 * start
    print(
        f"memory {start:.0f} to {megabytes[-1]:.0f} MB, slope {load.slope():+.1f} MB an hour, flat within 2 %: {flat}"
    )
    print(f"ended with code {told['code']:.0f}")
    return 1 if load.wrong or p99 > told["bound"] or not flat else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
