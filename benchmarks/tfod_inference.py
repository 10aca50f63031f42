"""The exports of TFOD's Faster R-CNN ResNet-101 on the CPU: seconds an image, and of a cold `resight predict`.

    python benchmarks/tfod_inference.py [--height 600] [--width 1024] [--times 5]

Batch 1, three classes, random image and weights. Both are timed beside the rate of plain float32 matrix products;
a cold prediction is a new process, from its start to its end, on the SavedModel and on the ONNX.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tfod_step import matrix_rate
from torch.utils.flop_counter import FlopCounterMode

from resight.exporting.export import write_onnx
from resight.exporting.saved_model import write_export
from resight.inference.detector import Detector, load
from resight.label_map import LabelMap
from resight.models.build import build_model
from resight.models.checkpoints import ModelMetadata
from resight.tfod.config import TfodModelConfig

COLD = [sys.executable, "-m", "resight", "predict", "--force", "-q"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=600)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = TfodModelConfig(
        name="faster_rcnn_resnet101_v1", min_size=options.height, max_size=options.width, tfod={"pad": False}
    )
    model = build_model(config, 3).eval()
    for norm in (module for module in model.modules() if hasattr(module, "running_var")):
        norm.weight.data.fill_(0.6)  # features stay of one size through all layers
    detector = Detector.of(model, ModelMetadata.of(model, config, LabelMap.from_names("abc")), torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 256, (options.height, options.width, 3), np.uint8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.outputs(torch.from_numpy(image).permute(2, 0, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(image).save(folder / "image.png")
        write_onnx(detector, folder / "model.onnx")
        (folder / "export").mkdir()
        write_export(detector, folder / "export", "image_tensor")
        exports = {"ONNX": folder / "model.onnx", "SavedModel": folder / "export" / "saved_model"}
        print(f"ResNet-101, {options.height}x{options.width}, {torch.get_num_threads()} threads", flush=True)
        for kind, path in exports.items():
            exported, seconds, rates = load(path), [], [matrix_rate()]
            for _ in range(options.times):
                began = time.perf_counter()
                exported.detect(image)
                seconds.append(time.perf_counter() - began)
                rates.append(matrix_rate())
            work, least = counter.get_total_flops(), min(seconds)
            print(
                f"{kind}: {least:.2f} s an image, {work / 1e9:.0f} GFLOP; {work / least / max(rates):.0%} of the rate"
            )
            print(f"  of matrix products, {max(rates) / 1e9:.0f} GFLOP/s", flush=True)
        for kind, path in exports.items():
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                subprocess.run([*COLD, path, folder / "image.png", "-o", folder / "found"], check=True)
                seconds.append(time.perf_counter() - began)
            print(f"cold resight predict, {kind}: {min(seconds):.2f} .. {max(seconds):.2f} s", flush=True)


if __name__ == "__main__":
    main()
