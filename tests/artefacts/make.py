"""Writes what this version of Resight leaves behind, for later versions to read: ``python make.py FOLDER``.

One small records folder, and for each dialect a run that was interrupted in mid-training, an export, and what this
version makes of them: detections, metrics, and the weights of the training that was never interrupted.

The networks are whole, but all weights beyond the first few channels of each layer are zero and stay zero in training
(a zero channel feeds nothing and gets no gradient), so that files of 100 MB pack into some kB.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import resight
from resight.config.toml_text import to_toml
from resight.config.tree import Config
from resight.dialect import load_config
from resight.label_map import LabelMap
from resight.models.build import build_model
from resight.models.checkpoints import Checkpoint, ModelMetadata, load_checkpoint, save_checkpoint
from resight.records.reader import open_records

COLOURS = {"blue": (30, 60, 220), "red": (220, 30, 30)}
CHANNELS = 6  # of each layer that are not zero, but for those whose outputs are the answer
LAST_LAYERS = ("cls_logits", "bbox_pred", "cls_score", "predictor", "rpn.box", "rpn.objectness")
WRITTEN = 1_795_888_000  # seconds
STEPS, INTERRUPTED_AFTER = 8, 3
COMMON = {
    "data.path": "records",
    "data.workers": 0,
    "model.min_size": 64,
    "model.max_size": 96,
    "model.start": "start.safetensors",
    "train.steps": STEPS,
    "train.batch_size": 2,
    "train.device": "cpu",
    "train.learning_rate": 0.001,
    "checkpoint.every_steps": 1,
}
DIALECTS = {
    "fpn": COMMON | {"model.anchors": "default"},
    "tfod": COMMON
    | {
        "model.name": "faster_rcnn_resnet50_v1",
        "model.start_type": "full",
        "model.tfod": {"anchor_scales": [0.0625, 0.125], "proposals": 40, "box_batch": 16, "detections": 20},
        "train.optimizer": "momentum",
    },
}
EXPORTS = {"fpn": ("onnx", "model.onnx"), "tfod": ("savedmodel", "exported")}


def picture(number: int) -> resight.Annotation:
    """An annotated picture of one or two squares, 96x64 or 64x96; eight are for training."""
    draw = np.random.default_rng(number)
    width, height = (64, 96) if number % 3 == 2 else (96, 64)
    image = np.full((height, width, 3), 110, np.uint8)
    boxes = []
    for half in range(1 + number % 2):
        label = list(COLOURS)[(number + half) % 2]
        side = int(draw.integers(20, 28))
        x = int(draw.integers(0, width // 2 - side + 1)) + half * width // 2
        y = int(draw.integers(0, height - side + 1))
        image[y : y + side, x : x + side] = COLOURS[label]
        boxes.append(resight.Box(label, x, y, x + side, y + side))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return resight.Annotation(file.getvalue(), tuple(boxes), width, height, f"{number}.png", split=split_of(number))


def split_of(number: int) -> str:
    return "train" if number < 8 else "val" if number < 12 else "test"


def sparse(config: Config) -> Checkpoint:
    """A checkpoint of random weights in which only ``CHANNELS`` channels of each layer are not zero."""
    draw = torch.Generator().manual_seed(0)
    model = build_model(config.model, len(COLOURS))
    tensors = {}
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):  # TFOD's first norm is of raw pixels
            value = torch.full_like(value, 1e4 if name.startswith("backbone.norm1") else 1.0)
        elif value.is_floating_point() and value.ndim:
            value = torch.randn(value.shape, generator=draw)
            if not any(last in name for last in LAST_LAYERS):
                value[CHANNELS:] = 0
            if value.ndim > 1:
                samples = 49 if value.shape[1] % 49 == 0 else 1  # of a RoI, each with its channel's weight
                value[:, CHANNELS * samples :] = 0
                value *= (2 / max(int((value[0] != 0).sum()), 1)) ** 0.5
            elif name.endswith("weight"):
                value[:CHANNELS] = 0.65
            else:
                value *= 0.05
        tensors[f"model.{name}"] = value
    card = ModelMetadata.of(model, config.model, LabelMap.from_names(list(COLOURS)), score=0.3)
    return Checkpoint(card, tensors, {})


def train(run: str, *options: str, interrupt: bool = False) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "resight", "train", *options, "-o", run]
    process = subprocess.Popen(command, env=environment)
    last = Path(run, "checkpoints", "last.safetensors")
    while interrupt and process.poll() is None:
        if last.exists() and load_checkpoint(last, tensors=False).state["step"] >= INTERRUPTED_AFTER:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.01)
    code = process.wait()
    assert code == (75 if interrupt else 0), code


def detections_of(model: str) -> list[list[object]]:
    """``[label, score, box]`` of everything found in the test images."""
    detector = resight.load(model, device="cpu")
    found = []
    for number in range(12, 16):
        image = np.array(Image.open(io.BytesIO(picture(number).image)))
        rows = detector(image, score=0.01)
        found.append([[name, round(score, 6), [round(side, 3) for side in box]] for name, score, box in rows])
    return found


def pack(folder: Path, archive: Path) -> None:
    with lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.name.startswith("events."):
                continue
            content = path.read_bytes()
            if path.name == "environment.json":  # where Resight lay is nobody's business
                facts = json.loads(content)
                facts["command"][0] = "resight"
                content = json.dumps(facts, indent=1).encode()
            entry = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
            entry.size, entry.mtime = len(content), WRITTEN
            tar.addfile(entry, io.BytesIO(content))


def main(target: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    target.mkdir(parents=True, exist_ok=True)
    target = target.resolve()
    os.chdir(work)
    resight.write_records([picture(number) for number in range(16)], "records", split="given")
    for path in Path("records").glob("*.tfrecord"):  # whole seconds, which an archive keeps; the index tells them
        os.utime(path, (WRITTEN, WRITTEN))
    Path("records/records.index").unlink()
    open_records("records")
    pack(Path("records").resolve(), target / "records.tar.xz")
    expected: dict[str, object] = {"version": resight.__version__, "steps": STEPS}
    for dialect, overrides in DIALECTS.items():
        os.chdir(work)
        folder = work / dialect
        folder.mkdir()
        shutil.copytree("records", folder / "records")
        os.chdir(folder)
        config = load_config(None, overrides)
        save_checkpoint(Path("start.safetensors"), sparse(config))
        Path("config.toml").write_text(to_toml(config))
        train("whole", "config.toml")
        train("run", "config.toml", interrupt=True)
        state = load_checkpoint(Path("run/checkpoints/last.safetensors"))
        whole = load_checkpoint(Path("whole/checkpoints/last.safetensors"))
        format, name = EXPORTS[dialect]
        resight.export("whole", format, name)
        report = resight.evaluate("whole", device="cpu")
        rows = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
        expected[dialect] = {
            "interrupted_at": state.state["step"],
            "weights": {
                key: [float(f"{x:.9g}") for x in (value.double().sum(), value.double().norm())]
                for key, value in sorted(whole.weights().items())
                if value.is_floating_point() and value.norm() > 0
            },
            "metrics_jsonl": rows,
            "metrics": report.metrics,
            "detections": detections_of("whole"),
            "exported": detections_of(name if format == "onnx" else f"{name}/saved_model"),
        }
        for kept in ("run", name):
            path = folder / kept
            if path.is_file():
                (target / f"{kept}.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
            else:
                pack(path, target / f"{dialect}-{kept}.tar.xz")
        best = folder / "whole" / "checkpoints" / "best.safetensors"
        (target / f"{dialect}-best.safetensors.xz").write_bytes(lzma.compress(best.read_bytes(), preset=9))
    (target / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
