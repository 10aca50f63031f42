"""Training from S3 beside training from local files: a server on loopback, the same seed, the same weights.

    python benchmarks/s3.py [--images 480] [--steps 21] [--rounds 3]

Makes records in 20 shards, more than are shuffled together, uploads them to moto's S3 server in a process of its own,
and trains the default model from both in turn, without evaluation: from S3 first with an empty cache, then with a warm
one. Prints seconds a step (the first one left out), their ratio, and how long records alone take to read.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from resight import Annotation, Box, load_config
from resight.io import object_store as storage
from resight.label_map import LabelMap
from resight.models.checkpoints import LAST, load_checkpoint, weights_digest
from resight.records.reader import open_records
from resight.records.writer import write_records_folder
from resight.training.train import train

WIDTH, HEIGHT = 704, 480


def pictures(count: int) -> list[Annotation]:
    """Different JPEG files of some 90 kB, each with one box."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
        x, y = draw.integers(0, WIDTH - 60), draw.integers(0, HEIGHT - 60)
        box = Box("sign", float(x), float(y), float(x + 50), float(y + 50))
        found.append(Annotation(file.getvalue(), (box,), WIDTH, HEIGHT, f"{number}.jpg"))
    return found


def serve(folder: Path) -> subprocess.Popen[bytes]:
    """An S3 server with an empty bucket, which this process and its children use from now on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "RESIGHT_CACHE": str(folder / "cache")}
    import boto3

    for _ in range(100):
        try:
            boto3.client("s3").create_bucket(Bucket="benchmark")
            break
        except Exception:
            time.sleep(0.2)
    return server


def seconds_a_step(data: str, run: Path, steps: int) -> float:
    """Of a training of ``steps`` steps from ``data``, after the first."""
    options = {"data.path": data, "train.steps": steps, "train.device": "cpu", "model.start": "none"}
    train(load_config(None, options), run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    return (rows[-1]["seconds"] - rows[0]["seconds"]) / (rows[-1]["step"] - rows[0]["step"])


def seconds_to_read(path: str) -> float:
    """Of all records of the training split, without decoding."""
    split = open_records(path).splits["train"]
    for i in range(len(split)):
        split[i]
    began = time.perf_counter()
    for _ in range(5):
        for i in range(len(split)):
            split[i]
    return (time.perf_counter() - began) / 5 / len(split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        server = serve(place)
        try:
            compare(place, args)
        finally:
            server.terminate()


def compare(place: Path, args: argparse.Namespace) -> None:
    local, remote = place / "records", "s3://benchmark/records"
    write_records_folder({"train": pictures(args.images)}, local, LabelMap.from_names(["sign"]), shards=20)
    for file in local.iterdir():
        storage.write(f"{remote}/{file.name}", file)
    print(f"from S3, nothing cached: {seconds_a_step(remote, place / 'cold', args.steps):.3f} s a step")
    times: dict[str, list[float]] = {str(local): [], remote: []}
    for number in range(args.rounds):
        for name, data in (("local", str(local)), ("remote", remote)):
            times[data].append(seconds_a_step(data, place / f"{name}-{number}", args.steps))
    a, b = (statistics.median(some) for some in times.values())
    print(f"local {a:.3f}, from S3 {b:.3f} s a step: {b / a - 1:+.1%}; rounds {list(times.values())}")
    digests = {weights_digest(load_checkpoint(place / name / LAST).tensors) for name in ("cold", "local-0", "remote-0")}
    print("the weights are the same" if len(digests) == 1 else "the weights DIFFER")
    a, b = seconds_to_read(str(local)), seconds_to_read(remote)
    print(f"reading a record: local {a * 1e6:.0f}, from S3 through the cache {b * 1e6:.0f} microseconds")


if __name__ == "__main__":
    main()
