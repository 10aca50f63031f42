"""Whether parts are what one run is: 10,000 images of 64 px and a tiny model, in 7 parts, of which two are killed
(SIGKILL) and started again, for `resight predict` and, with objects, for `resight evaluate`.

    python benchmarks/parts.py [--images 10000] [--evaluated 1000] [--parts 7]

Each part is a process of the command line; two run at a time. Prints whether the bytes are the same, and seconds of
processor time and the peak of memory of one run, of a part and of the merge.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resight import Annotation, Box, write_records
from resight.fpn.config import FpnModelConfig
from resight.label_map import LabelMap
from resight.models.build import build_model
from resight.models.checkpoints import Checkpoint, ModelMetadata, save_checkpoint

SIDE, CLASSES = 64, ("red", "blue")
COMMAND = (sys.executable, "-m", "resight")
AT_A_TIME = 2
STARTED = 5.0  # seconds of processor time after which an evaluation looks at images


def draw(folder: Path, count: int) -> list[Annotation]:
    """Noise with a square, in folders of 1,000."""
    colours, annotations = ((220, 30, 30), (30, 60, 220)), []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = rng.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
        (x, y), side = rng.integers(0, 36, 2).tolist(), int(rng.integers(16, 28))
        image[y : y + side, x : x + side] = colours[number % 2]
        path = folder / f"{number // 1000:03}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        box = Box(CLASSES[number % 2], x, y, x + side, y + side)
        annotations.append(Annotation(str(path), (box,), SIDE, SIDE))
    return annotations


def write_model(path: Path) -> None:
    config = FpnModelConfig(name="test_efficientnet", min_size=32, max_size=32, detections=10)
    torch.manual_seed(0)
    model = build_model(config, len(CLASSES))
    card = ModelMetadata.of(model, config, LabelMap.from_names(list(CLASSES)), score=0.3)
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(card, weights, {}))


def start(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *map(str, words), "--quiet"], stdout=subprocess.DEVNULL)


def wait(process: subprocess.Popen[bytes], title: str = "") -> None:
    """Waits for success, and tells what it took."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    if title:
        seconds = used.ru_utime + used.ru_stime
        print(f"  {title}: {seconds:.0f} s of processor time, {used.ru_maxrss / 1024:.0f} MB", flush=True)


def kill(process: subprocess.Popen[bytes], folder: Path, name: str) -> None:
    """Kills a part when it has begun to write lines, or in the midst of its images."""

    def begun() -> bool:
        if name.endswith(".jsonl"):
            return any(file.stat().st_size for file in folder.glob(f".{name}*/*"))
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11]
        return int(ticks) / os.sysconf("SC_CLK_TCK") > STARTED

    while not begun():
        assert process.poll() is None, "it was done before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def in_parts(words: Sequence[object], option: str, folder: Path, count: int) -> None:
    """All parts; the second and the last but one are killed first."""
    waiting: list[subprocess.Popen[bytes]] = []
    for number in range(1, count + 1):
        part = (*words, "--part", f"{number}/{count}", option, folder)
        if number in (2, count - 1):
            suffix = ".jsonl" if option == "-o" else ".safetensors"
            kill(start(*part), folder, f"part-{number:05}-of-{count:05}{suffix}")
        waiting.append(start(*part))
        if len(waiting) == AT_A_TIME:
            wait(waiting.pop(0), "a part" if number == AT_A_TIME else "")
    for process in waiting:
        wait(process)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left and len(list(folder.iterdir())) == 2 * count, left


def same(one: Path, other: Path) -> None:
    with open(one, "rb") as first, open(other, "rb") as second:
        while piece := first.read(1 << 20):
            assert piece == second.read(1 << 20), other
        assert not second.read(1)
    print(f"  {other.name}: {one.stat().st_size:,} bytes, the same", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--evaluated", type=int, default=1_000)
    parser.add_argument("--parts", type=int, default=7)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="resight-parts-") as name:
        folder = Path(name)
        annotations = draw(folder / "photos", args.images)
        write_model(model := folder / "model.safetensors")
        words = ("predict", model, folder / "photos")
        print(f"predict, {args.images:,} images in {args.parts} parts, two of them killed")
        wait(start(*words, "--no-pictures", "-o", folder / "one"), "one run")
        in_parts(words, "-o", folder / "parts", args.parts)
        merge = ("predict", "--merge", folder / "parts")
        wait(start(*merge, "-o", folder / "merged"), "the merge")
        same(folder / "one" / "detections.json", folder / "merged" / "detections.json")
        if not args.evaluated:
            return
        assigned = [replace(one, split="train" if number < 2 else "test") for number, one in enumerate(annotations)]
        write_records(assigned[: args.evaluated + 2], folder / "records")
        print(f"evaluate, {args.evaluated:,} images in {args.parts} parts, two of them killed")
        words = ("evaluate", model, "--data", folder / "records")
        wait(start(*words, "--out", folder / "measured"), "one run")
        in_parts(words, "--out", folder / "measured parts", args.parts)
        wait(start(*words, "--merge", folder / "measured parts", "--out", folder / "measured merged"), "the merge")
        for file in ("metrics.json", "detections.safetensors"):
            same(folder / "measured" / file, folder / "measured merged" / file)


if __name__ == "__main__":
    main()
