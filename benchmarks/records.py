"""How fast records are read: one thread, 90 kB each, CRC verified, from the page cache.

    python benchmarks/records.py

Prints records/s for sequential reading (`read_tfrecord`), random access (`ShardReader`) and whole records of a folder
(`split[i]`: parsed, with boxes), and each as a ratio to reading the same bytes without any CRC in the same run. The
fastest of several rounds counts: other work on the machine can only slow a round down.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np
from PIL import Image

from resight.label_map import LabelMap
from resight.records.reader import open_records
from resight.records.tfrecord import ShardReader, read_tfrecord
from resight.records.writer import write_records_folder
from resight.types import Annotation, Box

RECORDS, BYTES, ROUNDS = 4000, 90_000, 7


def image_of(size: int) -> bytes:
    """A PNG that is padded to ``size`` bytes, as nothing but its header is read."""
    with tempfile.TemporaryFile() as file:
        Image.new("RGB", (704, 480)).save(file, "PNG")
        file.seek(0)
        data = file.read()
    return data + np.random.default_rng(0).bytes(size - len(data))


def without_crc(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while header := file.read(12):
            yield file.read(struct.unpack_from("<Q", header)[0])
            file.read(4)


def rate(job: Callable[[], int]) -> float:
    start = time.perf_counter()
    count = job()
    return count / (time.perf_counter() - start)


def main() -> None:
    print(f"CRC32C by google_crc32c, implementation: {google_crc32c.implementation}")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "records")
        image = image_of(BYTES)
        annotations = (Annotation(image, (Box("stop", 10, 20, 50, 60),), filename=f"{i}.png") for i in range(RECORDS))
        start = time.perf_counter()
        write_records_folder({"train": annotations}, out, LabelMap.from_names(["stop"]))
        print(f"written and indexed: {RECORDS / (time.perf_counter() - start):,.0f} records/s")
        split = open_records(out).splits["train"]
        path = split.shards[0]
        offsets, lengths = zip(*((offset, len(payload)) for offset, payload in read_tfrecord(path)), strict=True)
        reader = ShardReader([path], [0] * RECORDS, offsets, lengths)
        order = np.random.default_rng(1).permutation(RECORDS).tolist()
        jobs = {
            "sequential, no CRC": lambda: sum(1 for _ in without_crc(path)),
            "read_tfrecord": lambda: sum(1 for _ in read_tfrecord(path)),
            "ShardReader, shuffled": lambda: sum(1 for i in order if reader[i]),
            "split[i], shuffled": lambda: sum(1 for i in order if split[i]),
        }
        rates = {name: 0.0 for name in jobs}
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                rates[name] = max(rates[name], rate(job))
        base = rates["sequential, no CRC"]
        for name, value in rates.items():
            print(f"{name:<24} {value:>8,.0f} records/s   {value / base:.2f} of no CRC")


if __name__ == "__main__":
    main()
