"""How fast `data build` is: PNG frames into records, with and without near-duplicate grouping, and the grouping alone.

    python benchmarks/build.py [--images 2000] [--hashes 200000]

The frames are generated (704 x 480, smooth shading and sensor noise, about 0.5 MB each) and lie in the page cache.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from resight import Annotation, Box, write_records
from resight.datasets.near_duplicates import group_near_duplicates

WIDTH, HEIGHT = 704, 480


def frames(folder: Path, count: int) -> list[Annotation]:
    """``count`` different PNG files, each with one box."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    annotations = []
    for number in range(count):
        waves = sum(
            rng.uniform(10, 40) * np.cos(x * rng.uniform(0, 0.03) + y * rng.uniform(0, 0.03) + rng.uniform(0, 6))
            for _ in range(4)
        )
        pixels = (128 + waves)[..., None] * rng.uniform(0.7, 1, 3) + np.roll(noise, number, axis=1)
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=6)
        path = folder / f"{number:05}.png"
        path.write_bytes(buffer.getvalue())
        annotations.append(Annotation(str(path), (Box("stop", 100, 100, 140, 140),), WIDTH, HEIGHT))
    return annotations


def build(name: str, annotations: list[Annotation], out: Path, **options: float) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    write_records(annotations, out, **options)  # type: ignore[arg-type]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = len(annotations)
    print(f"build {name}: {count / wall:.0f} images/s; {cpu / count * 1e3:.1f} ms of processor time an image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--hashes", type=int, default=200_000)
    args = parser.parse_args()

    # Grouping first, while the peak memory of this process is still its own.
    rng = np.random.default_rng(0)
    tracks = np.repeat(rng.integers(0, 2**64, args.hashes // 20 + 1, dtype=np.uint64), 20)[: args.hashes]
    for _ in range(2):
        tracks ^= np.uint64(1) << rng.integers(0, 64, args.hashes, dtype=np.uint64)
    biased = np.packbits(rng.random((args.hashes, 64)) < rng.choice([0.1, 0.9], 64), axis=1).view(">u8").ravel()
    unlike = rng.integers(0, 2**64, args.hashes, dtype=np.uint64)
    for name, values in (("all unlike", unlike), ("tracks of 20 alike", tracks), ("biased bits", biased)):
        hashes = [int(value) for value in values]
        start = time.perf_counter()
        groups = len(np.unique(group_near_duplicates(hashes)))
        taken = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"grouping {len(hashes):,} hashes, {name}: {taken:.1f} s, peak {peak:.0f} MB, {groups:,} groups")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations = frames(folder, args.images)
        size = sum(os.path.getsize(str(item.image)) for item in annotations) / args.images / 1e6
        print(f"{args.images:,} PNG frames of {WIDTH} x {HEIGHT}, {size:.2f} MB each, {os.cpu_count()} cores")
        build("with near-duplicate grouping", annotations, folder / "grouped")
        build("without (one split)", annotations, folder / "plain", test_fraction=0, val_fraction=0)


if __name__ == "__main__":
    main()
