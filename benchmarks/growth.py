"""What more data costs a training: start-up, step time and memory with 1,000, 10,000 and 100,000 records.

    python benchmarks/growth.py [--records 1000 10000 100000] [--steps 60] [--rounds 3]

Makes records of small JPEG files with random boxes (8 distinct images under names of their own) and trains a small
network on them, each in a process of its own with one thread and no loader workers. Prints seconds from the start of
the process to the end of the first step, milliseconds a step after it, both as they passed and as CPU time of the
process, and its resident memory. The fastest round counts: other work on the machine can only slow a round down.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("stop", "yield", "merge")
SIZES = ((96, 64), (64, 96), (96, 72), (96, 96))  # width, height


def annotations(count: int, seed: int) -> Iterator[object]:
    from resight import Annotation, Box

    draw = np.random.default_rng(seed)
    images = []
    for width, height in SIZES * 2:
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file, "JPEG")
        images.append((file.getvalue(), width, height))
    for number in range(count):
        image, width, height = images[number % len(images)]
        boxes = []
        for _ in range(int(draw.integers(1, 4))):
            x, y = draw.integers(0, width - 32), draw.integers(0, height - 32)
            w, h = draw.integers(8, 32, 2)
            label = CLASSES[int(draw.integers(len(CLASSES)))]
            boxes.append(Box(label, float(x), float(y), float(x + w), float(y + h)))
        image += number.to_bytes(4)  # after the end of the JPEG file: other bytes, as of another photograph
        yield Annotation(image, tuple(boxes), width, height, f"{seed}-{number}.jpg")


def measured_training(data: str, run: str, steps: int) -> None:
    """In a process of its own: ``resight train``, whose steps tell when they end."""
    from resight.cli.app import app
    from resight.training.trainer import Trainer

    moments: list[tuple[float, float, float]] = []
    step = Trainer.step

    def watched(self: Trainer, *arguments: object) -> None:
        step(self, *arguments)  # type: ignore[arg-type]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        moments.append((time.time(), time.process_time(), pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    Trainer.step = watched  # type: ignore[method-assign]
    options = f"--start none --size 64,96 --batch 4 --device cpu --steps {steps} --set data.workers=0"
    options += " --set augment.scale=[1,1]"  # few shapes, so that no step prepares code for another
    try:
        app(["train", "--data", data, "-o", run, *options.split()])
    finally:
        print(json.dumps(moments))


def start(data: Path, run: Path, steps: int) -> dict[str, float]:
    began = time.time()
    command = [sys.executable, __file__, "--training", str(data), str(run), "--steps", str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    moments = np.array(json.loads(done.stdout.splitlines()[-1]))
    spent = np.median(np.diff(moments[:, :2], axis=0), axis=0) * 1e3
    return {
        "start s": moments[0, 0] - began,
        "start CPU s": moments[0, 1],
        "step ms": spent[0],
        "step CPU ms": spent[1],
        "memory MB": moments[0, 2],
        "memory at the end MB": moments[-1, 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.training:
        return measured_training(*args.training, args.steps)
    from resight.label_map import LabelMap
    from resight.records.writer import write_records_folder

    with tempfile.TemporaryDirectory() as folder:
        best: dict[int, dict[str, float]] = {}
        for count in args.records:
            splits = {"train": annotations(count, 0), "val": annotations(8, 1)}
            write_records_folder(splits, Path(folder, str(count)), LabelMap.from_names(CLASSES))  # type: ignore[arg-type]
        for number in range(args.rounds):
            for count in args.records:
                found = start(Path(folder, str(count)), Path(folder, f"run-{count}-{number}"), args.steps)
                best[count] = {name: min(value, best.get(count, found)[name]) for name, value in found.items()}
        print("records".rjust(9), *(f"{name:>12}" for name in next(iter(best.values()))))
        for count, row in best.items():
            print(f"{count:>9,}", *(f"{value:>{max(12, len(name))}.2f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
