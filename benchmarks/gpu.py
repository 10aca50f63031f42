"""Resight on a GPU beside plain torchvision loops on the same images: images a second, memory, and how long it idles.

    python benchmarks/gpu.py [--minutes 6] [--out gpu.json] [--device cuda]

Trains from images in memory: TFOD's Faster R-CNN ResNet-101 at 600 x 1024 in batches of 1, 8 and 16, the default model
at 384 x 512 and torchvision's fasterrcnn_resnet50_fpn_v2 at 800 x 1333 in batches of 8, each in float32, TF32 and
bfloat16; then finds objects, one image and eight at a time. The plain loops are torchvision's models with the same
layers frozen, an optimizer and nothing else: no averaged weights, no clipping, no look at the losses. What does not fit
into the minutes is named at the end. TFOD's model at batch 1 gives the hours of 50,000 steps.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet101
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from training_step import PlainBackbone

from resight.config.tree import ModelConfig, TrainConfig
from resight.detection.model import DetectionModel
from resight.dialect import dialect_of
from resight.fpn.config import FpnModelConfig
from resight.inference.detector import Detector
from resight.input.dataset import TrainingExample
from resight.input.target import Target
from resight.label_map import LabelMap
from resight.models.build import build_model, float32_products
from resight.models.checkpoints import ModelMetadata
from resight.tfod.config import TfodModelConfig
from resight.training.learner import Learner

CLASSES, OBJECTS = 4, 5
PRECISIONS = ("float32", "tf32", "bfloat16")
SEED_STEPS = 50_000  # of the workflow that Resight succeeds, at batch 1


class Case(NamedTuple):
    """One model at one size of image, and a plain torchvision model of the same layers."""

    name: str
    config: ModelConfig
    size: tuple[int, int]  # height and width at the network
    batches: tuple[int, ...]
    plain: Callable[[], nn.Module]


def plain_default() -> nn.Module:
    anchors = AnchorGenerator(((16, 23), (32, 45), (64, 91), (128, 181)), ((0.5, 1.0, 2.0),) * 4)
    backbone = PlainBackbone()
    freeze(backbone.body, ("conv_stem", "bn1", "blocks.0", "blocks.1"))
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        box_head=TwoMLPHead(128 * 7 * 7, 512),
        box_predictor=FastRCNNPredictor(512, CLASSES + 1),
        min_size=384,
        max_size=640,
        rpn_pre_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_train=500,
        rpn_post_nms_top_n_test=300,
        box_batch_size_per_image=128,
    )


def plain_v2() -> nn.Module:
    model = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    freeze(model.backbone.body, ("conv1", "bn1", "layer1"))
    return model


class ConvHead(nn.Module):
    """The last stage of a ResNet on each region, averaged: the head of Faster R-CNN C4."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, regions: Tensor) -> Tensor:
        return self.stage(regions).mean((2, 3))


class NarrowRPNHead(RPNHead):
    """With 512 channels between its convolutions, as TFOD has them, for 1,024 of the features."""

    def __init__(self) -> None:
        super().__init__(512, 12)
        self.conv[0][0] = nn.Conv2d(1024, 512, 3, padding=1)


def plain_c4() -> nn.Module:
    """ResNet-101 C4 with 12 anchors a cell and 300 proposals, as TFOD has them."""
    body = resnet101(weights=None, norm_layer=FrozenBatchNorm2d)
    head = body.layer4
    backbone = IntermediateLayerGetter(body, {"layer3": "0"})
    backbone.out_channels = 1024
    anchors = AnchorGenerator(((64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=NarrowRPNHead(),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=ConvHead(head),
        box_predictor=FastRCNNPredictor(2048, CLASSES + 1),
        min_size=600,
        max_size=1024,
        rpn_post_nms_top_n_train=300,
        rpn_post_nms_top_n_test=300,
        box_batch_size_per_image=64,
    )


def freeze(body: nn.Module, names: tuple[str, ...]) -> None:
    for name, parameter in body.named_parameters():
        if name.startswith(names):
            parameter.requires_grad_(False)


def cases() -> list[Case]:
    tfod = TfodModelConfig(name="faster_rcnn_resnet101_v1", min_size=600, max_size=1024, tfod={"pad": False})
    v2 = FpnModelConfig(name="fasterrcnn_resnet50_fpn_v2")
    return [
        Case("TFOD ResNet-101", tfod, (600, 1024), (1, 8, 16), plain_c4),
        Case("default", FpnModelConfig(), (384, 512), (8,), plain_default),
        Case("resnet50_fpn_v2", v2, (800, 1333), (8,), plain_v2),
    ]


def arithmetic(precision: str) -> AbstractContextManager[None]:
    """Products and convolutions of float32 in TF32, or not."""
    return float32_products("tf32" if precision == "tf32" else "ieee")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def scenes(count: int, size: tuple[int, int]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Images ``[3, H, W]`` uint8 in pinned memory, boxes ``[OBJECTS, 4]`` of each, and the classes of all."""
    draw = torch.Generator().manual_seed(0)
    height, width = size
    images = [torch.randint(256, (3, height, width), generator=draw, dtype=torch.uint8) for _ in range(count)]
    corners = [torch.rand(OBJECTS, 2, generator=draw) * torch.tensor([width - 130, height - 130]) for _ in images]
    sides = [torch.rand(OBJECTS, 2, generator=draw) * 100 + 20 for _ in images]
    boxes = [torch.cat([low, low + side], 1) for low, side in zip(corners, sides, strict=True)]
    if torch.cuda.is_available():
        images = [image.pin_memory() for image in images]
    return images, boxes, torch.arange(OBJECTS) % CLASSES


def our_step(case: Case, batch: int, precision: str, device: torch.device) -> Callable[[], object]:
    images, boxes, labels = scenes(batch, case.size)
    crowd = torch.zeros(OBJECTS, dtype=torch.bool)
    resized = dialect_of(case.config).input_dtype == torch.uint8  # TFOD's model does it, as in a training
    examples = [
        TrainingExample(image, Target(box, labels, crowd, seed), seed, resized)
        for seed, (image, box) in enumerate(zip(images, boxes, strict=True))
    ]
    chosen = "bfloat16" if precision == "bfloat16" else "float32"
    config = TrainConfig(optimizer="sgd", learning_rate=1e-4, precision=chosen)
    learner = Learner(our_model(case, device), config)
    return lambda: learner.step([examples], 1000, 0.5)


def our_model(case: Case, device: torch.device) -> DetectionModel:
    return build_model(case.config, CLASSES).to(device).to(memory_format=torch.channels_last)


def plain_step(case: Case, batch: int, precision: str, device: torch.device) -> Callable[[], object]:
    images, boxes, labels = scenes(batch, case.size)
    model = case.plain().to(device).train()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 1e-4, 0.9, weight_decay=1e-4)

    def step() -> None:
        floats = [image.to(device, non_blocking=True) / 255 for image in images]
        targets = [{"boxes": box.to(device), "labels": labels.to(device) + 1} for box in boxes]
        with autocast(precision, device):
            loss = sum(model(floats, targets).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_search(case: Case, batch: int, precision: str, device: torch.device) -> Callable[[], object]:
    images = [image.permute(1, 2, 0).contiguous().numpy() for image in scenes(batch, case.size)[0]]
    model = our_model(case, device).eval()
    names = LabelMap.from_names([f"class {number}" for number in range(CLASSES)])
    detector = Detector.of(model, ModelMetadata.of(model, case.config, names), device)
    detector.set_precision("bfloat16" if precision == "bfloat16" else "float32")
    return lambda: detector.detect_batch(images)


def plain_search(case: Case, batch: int, precision: str, device: torch.device) -> Callable[[], object]:
    images, _, _ = scenes(batch, case.size)
    model = case.plain().to(device).eval()

    def search() -> None:
        with torch.inference_mode(), autocast(precision, device):
            found = model([image.to(device, non_blocking=True) / 255 for image in images])
        for one in found:
            for value in one.values():
                value.cpu()

    return search


def rate(step: Callable[[], object], batch: int, device: torch.device, seconds: float) -> tuple[float, float]:
    """Images a second, and the most GB of the device's memory."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        step()
    synchronize()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - began < seconds:
        step()
        steps += 1
    synchronize()
    images_per_second = batch * steps / (time.perf_counter() - began)
    return images_per_second, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def idle(step: Callable[[], object], steps: int = 5) -> float | None:
    """Share of the time from the first kernel of some steps to their last in which none ran; None without a GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    if not spans:
        return None
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    return 1 - busy / (until - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, after three steps")
    options = parser.parse_args()
    device, end = torch.device(options.device), time.monotonic() + 60 * options.minutes
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{place}, PyTorch {torch.__version__}", flush=True)
    kinds = {"train": (our_step, plain_step), "find": (our_search, plain_search)}
    work = [
        (what, case, batch, precision)
        for what in kinds
        for precision in reversed(PRECISIONS)
        for case in cases()
        for batch in (case.batches if what == "train" else (1, 8))
    ]
    rows, left = [], []
    for what, case, batch, precision in work:
        if time.monotonic() > end:
            left.append(f"{what} {case.name} {batch} {precision}")
            continue
        row = measure_pair(kinds[what], case, batch, precision, device, options.seconds)
        rows.append({"what": what, "model": case.name, "batch": batch, "precision": precision} | row)
        print(line(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps({"device": place, "rows": rows}, indent=1), encoding="utf-8")
    for row in rows:
        if (row["what"], row["model"], row["batch"]) == ("train", "TFOD ResNet-101", 1):
            hours = SEED_STEPS / row["images_per_second"] / 3600
            print(f"{SEED_STEPS:,} steps of batch 1 in {row['precision']}: {hours:.2f} hours")
    if left:
        print(f"no time was left for: {'; '.join(left)}")


def measure_pair(
    kinds: tuple[Callable[..., Callable[[], object]], ...],
    case: Case,
    batch: int,
    precision: str,
    device: torch.device,
    seconds: float,
) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    with arithmetic(precision):
        for kind, prefix in zip(kinds, ("", "plain_"), strict=True):
            torch.manual_seed(0)
            step = kind(case, batch, precision, device)
            row[f"{prefix}images_per_second"], row[f"{prefix}memory_gb"] = rate(step, batch, device, seconds)
            row[f"{prefix}idle"] = idle(step) if device.type == "cuda" else None
            del step
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return row


def line(row: dict) -> str:
    ours, plain = row["images_per_second"], row["plain_images_per_second"]
    share = "" if row["idle"] is None else f", idle {row['idle']:.0%} (plain {row['plain_idle']:.0%})"
    name = f"{row['what']:<5} {row['model']:<16} batch {row['batch']:<2} {row['precision']:<8}"
    memory = f"{row['memory_gb']:.1f} GB (plain {row['plain_memory_gb']:.1f})"
    return f"{name} {ours:7.1f} images/s, {ours / plain:4.2f} x plain torchvision, {memory}{share}"


if __name__ == "__main__":
    main()
