"""Exports as they are shipped: how close each engine is to its model on real pictures, and how fast they are in turn.

    python benchmarks/shipping.py parity MODEL PICTURES [--count 200]
    OMP_NUM_THREADS=2 python benchmarks/shipping.py speed [--model MODEL PICTURES] [--threads 2] [--rounds 12]

`parity` exports MODEL for every engine that is installed and compares each with it, stage by stage, on the pictures of
a folder and crops of them; for MODEL `tfod`, it is a ResNet-50 of the TFOD dialect with random weights. `speed` times
ResNet-101 of the TFOD dialect on 600x1024 with random weights, and MODEL on the first pictures: the engines in turn in
one run, so that whatever else the machine does slows all of them down alike.
Both print JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from resight.dialect import dialect_of
from resight.exporting.compare import compare
from resight.exporting.export import write_onnx
from resight.exporting.openvino import openvino_body, write_openvino
from resight.exporting.quantize import quantize
from resight.inference.detector import Detector, load
from resight.inference.exported import OPENVINO, ExportedDetector
from resight.inference.onnx_runtime import load_onnx
from resight.inference.openvino_runtime import load_openvino, run_onnx, stages_of
from resight.io.images import as_array
from resight.label_map import LabelMap
from resight.models.build import build_model
from resight.models.checkpoints import ModelMetadata
from resight.tfod.config import TfodModelConfig

PAUSE = 0.3  # seconds


def pictures(folder: Path, count: int) -> Iterator[np.ndarray]:
    """Those of the folder, every second one cropped to a size of its own."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    draw = np.random.default_rng(0)
    for number in range(count):
        image, _ = as_array(files[number * len(files) // count])
        if number % 2:
            height, width = (int(side * draw.uniform(0.3, 1)) for side in image.shape[:2])
            y, x = (
                int(draw.integers(0, side - own + 1)) for side, own in zip(image.shape, (height, width), strict=False)
            )
            image = image[y : y + height, x : x + width]
        yield image


def exports(detector: Detector, folder: Path, stack: ExitStack) -> dict[str, ExportedDetector]:
    """The exports of the detector by their engines, with their stages among their outputs."""
    write_onnx(detector, folder / "model.onnx")
    (folder / "openvino").mkdir()
    body = openvino_body(detector)
    write_openvino(body, detector, folder / "openvino")
    onnx = load_onnx(folder / "model.onnx", stages=True)
    found: dict[str, ExportedDetector] = {
        "ONNX Runtime": onnx,
        "OpenVINO": load_openvino(folder / "openvino" / OPENVINO, stages=stages_of(body)),
        "OpenVINO, running the .onnx": run_onnx(folder / "model.onnx", onnx),
    }
    if "savedmodel" in dialect_of(detector.config).export_formats and find_spec("tensorflow"):
        from resight.exporting.saved_model import with_stages, write_export
        from resight.inference.saved_model import load_saved_model

        (folder / "export").mkdir()
        write_export(detector, folder / "export", "image_tensor")
        found["TensorFlow"] = load_saved_model(stack.enter_context(with_stages(folder / "export")))
    return found


def parity(options: argparse.Namespace) -> dict[str, object]:
    detector, found = tfod_resnet50() if options.model == "tfod" else load(options.model, "cpu"), {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        images = list(pictures(options.pictures, options.count))
        for engine, exported in exports(detector, Path(name), stack).items():
            result = compare(detector, exported, images)
            found[engine] = {**asdict(result), "ok": result.ok}
            print(f"{engine}: {result.text()}", file=sys.stderr, flush=True)
    return {"sizes": len({image.shape for image in images}), "engines": found}


def tfod_resnet50() -> Detector:
    """As far from its start as if it were trained: scores from 0 to 1, and boxes that leave their anchors."""
    detector = random_tfod("faster_rcnn_resnet50_v1", 256, 416, proposals=100)
    predictor = detector.model.predictor
    predictor.classes.weight.data.mul_(30)
    predictor.box.weight.data.mul_(10)
    return detector


def random_tfod(name: str, min_size: int, max_size: int, proposals: int = 300) -> Detector:
    """With random weights whose features stay of one size through all layers."""
    torch.manual_seed(0)
    config = TfodModelConfig(
        name=name, min_size=min_size, max_size=max_size, tfod={"pad": False, "proposals": proposals}
    )
    model = build_model(config, 3).eval()
    for norm in (module for module in model.modules() if hasattr(module, "running_var")):
        norm.weight.data.fill_(0.6)
    return Detector.of(model, ModelMetadata.of(model, config, LabelMap.from_names("abc")), torch.device("cpu"))


def shipped(detector: Detector, images: list[np.ndarray], folder: Path, threads: int) -> dict[str, Detector]:
    """The exports as a user loads them; in int8 calibrated on ``images``, which matters for mAP and not for speed."""
    write_onnx(detector, folder / "model.onnx")
    (folder / "openvino").mkdir()
    body = openvino_body(detector)
    write_openvino(body, detector, folder / "openvino")
    places = {"ONNX Runtime": folder / "model.onnx", "OpenVINO": folder / "openvino"}
    if find_spec("nncf"):
        (folder / "int8").mkdir()
        feeds = [load_openvino(folder / "openvino" / OPENVINO).prepare(image) for image in images]
        write_openvino(quantize(body, feeds, lambda model: 1.0, 0.0).model, detector, folder / "int8")
        places["OpenVINO int8"] = folder / "int8"
    if "savedmodel" in dialect_of(detector.config).export_formats and find_spec("tensorflow"):
        from resight.exporting.saved_model import write_export

        (folder / "export").mkdir()
        write_export(detector, folder / "export", "image_tensor")
        places["TensorFlow"] = folder / "export" / "saved_model"
    return {engine: load(place, "cpu", threads=threads) for engine, place in places.items()}


def in_turn(engines: dict[str, Detector], images: list[np.ndarray], rounds: int) -> dict[str, object]:
    """Milliseconds an image of each engine, and how many times faster OpenVINO is than the others, in float32 and in
    int8: the median of the rounds' ratios.

    The threads of one engine wait for more work by spinning, and would take the cores from the next: they are given
    time to sleep, and what is measured is the second of two detections.
    """
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for number in range(-len(images), rounds):
        for engine, detector in engines.items():
            time.sleep(PAUSE)
            detector.detect(images[number % len(images)])
            began = time.perf_counter()
            detector.detect(images[number % len(images)])
            if number >= 0:
                seconds[engine].append(time.perf_counter() - began)
    found: dict[str, object] = {
        engine: {"median_ms": round(statistics.median(own) * 1e3, 1), "least_ms": round(min(own) * 1e3, 1)}
        for engine, own in seconds.items()
    }
    for fast in ("OpenVINO", "OpenVINO int8"):
        for engine in seconds if fast in seconds else ():
            if not engine.startswith("OpenVINO"):
                ratios = [one / other for one, other in zip(seconds[engine], seconds[fast], strict=True)]
                found[f"{fast} against {engine}"] = round(statistics.median(ratios), 2)
    return found


def speed(options: argparse.Namespace) -> dict[str, object]:
    found: dict[str, object] = {"threads": options.threads, "load": os.getloadavg()[0]}
    subjects = {
        "ResNet-101 TFOD, 600x1024": (
            random_tfod("faster_rcnn_resnet101_v1", 600, 1024),
            [np.random.default_rng(0).integers(0, 256, (600, 1024, 3), np.uint8)],
        )
    }
    if options.model:
        model, folder = options.model
        subjects[model] = (load(model, "cpu"), list(pictures(Path(folder), 8))[::2])
    for name, (detector, images) in subjects.items():
        with tempfile.TemporaryDirectory() as place:
            found[name] = in_turn(shipped(detector, images, Path(place), options.threads), images, options.rounds)
            print(name, found[name], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("parity")
    one.add_argument("model")
    one.add_argument("pictures", type=Path)
    one.add_argument("--count", type=int, default=200)
    one.set_defaults(part=parity)
    other = parts.add_parser("speed")
    other.add_argument("--model", nargs=2, metavar=("MODEL", "PICTURES"))
    other.add_argument("--threads", type=int, default=2)
    other.add_argument("--rounds", type=int, default=12)
    other.set_defaults(part=speed)
    options = parser.parse_args()
    print(json.dumps(options.part(options), indent=1))


if __name__ == "__main__":
    main()
