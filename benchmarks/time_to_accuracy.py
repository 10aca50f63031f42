"""CPU minutes to test AP50 .70 and .80: Resight's defaults beside a plain torchvision loop on the same backbone.

    OMP_NUM_THREADS=1 python benchmarks/time_to_accuracy.py RECORDS OUT [--only ours|plain]

Both train on the records' train split from the same ImageNet weights, at the same input size, on the same cores. The
plain loop: SGD at .005 x batch / 2, momentum .9, weight decay 1e-4, 26 epochs, a tenth of the rate from epoch 16 and
again from 22 on, a random flip; the backbone's norms are frozen, as torchvision freezes them. Both are measured on the
test split after each epoch, while the training stands still, and end when they are past both bars; one that never is
counts whole. CPU seconds are those of all processes of the training, without the measuring. Hours on 2 cores.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timm.layers import freeze_batch_norm_2d

from resight.config.toml_text import to_toml
from resight.dialect import load_config
from resight.evaluation.coco import GroundTruth, coco_metrics
from resight.fpn.backbones import lite0_weights
from resight.fpn.dialect import to_sample
from resight.inference.detector import load
from resight.input.augment import mirror
from resight.io.images import decode
from resight.models.checkpoints import LAST
from resight.records.example import on_image
from resight.records.reader import RecordSplit, open_records
from resight.types import Detections

Detect = Callable[[np.ndarray], Detections]
Measure = Callable[[Detect], float]
Curve = list[tuple[float, float]]  # CPU seconds, AP50

BARS, BATCH, EPOCHS = (0.70, 0.80), 8, 26
PLAIN_BATCH = 2  # at 8 the same rule gives .02, with which this loop diverges within ten steps


def cpu_of(pid: int) -> float:
    """User and system seconds of a process and of all that descend from it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        children = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_of, children))


def ours(records: Path, out: Path, measure: Measure) -> Curve:
    """Trains by the command line on the train split alone."""
    files = sorted(str(path) for path in records.glob("train*.tfrecord"))
    epoch = -(-len(open_records(records).splits["train"]) // BATCH)
    keys = {"data.train": files, "data.label_map": str(records / "label_map.pbtxt"), "train.batch_size": BATCH}
    config = load_config(None, keys | {"checkpoint.every_steps": epoch, "checkpoint.keep": 1000})
    (out / "ours.toml").write_text(to_toml(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "resight", "train", str(out / "ours.toml"), "-o", str(out / "ours")]
    )
    curve: Curve = []
    seen: set[Path] = set()
    while process.poll() is None and not past_all(curve):
        time.sleep(0.2)
        for file in sorted(set((out / "ours" / LAST).parent.glob("step-*.safetensors")) - seen):
            seen.add(file)
            seconds = cpu_of(process.pid)
            process.send_signal(signal.SIGSTOP)
            curve.append((seconds, measure(load(file).detect)))
            say("Resight", curve)
            process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait()
    return curve


def plain(records: Path, measure: Measure) -> Curve:
    """The loop one would write by hand."""
    split = open_records(records).splits["train"]
    names = split.label_map.names
    model = plain_model(len(names))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005 * PLAIN_BATCH / 2, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22])
    generator = torch.Generator().manual_seed(0)

    def detect(image: np.ndarray) -> Detections:
        with torch.inference_mode():
            (found,) = model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
        height, width = image.shape[:2]
        return Detections(
            found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy() - 1, names, width, height
        )

    curve: Curve = []
    seconds = 0.0
    while len(curve) < EPOCHS and not past_all(curve):
        begun = time.process_time()
        model.train()
        order = torch.randperm(len(split), generator=generator).tolist()
        losses: list[float] = []
        for start in range(0, len(order), PLAIN_BATCH):
            images, targets = [], []
            for index in order[start : start + PLAIN_BATCH]:
                record = split[index]
                sample = to_sample(record, split.labels(record), decode(record.encoded))
                if torch.rand((), generator=generator) < 0.5:
                    sample = mirror(sample)
                images.append(sample.image.float() / 255)
                targets.append({"boxes": sample.boxes, "labels": sample.labels + 1})
            optimizer.zero_grad()
            loss = sum(model(images, targets).values())
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
        schedule.step()
        seconds += time.process_time() - begun
        model.eval()
        curve.append((seconds, measure(detect)))
        say(f"plain torchvision (loss {sum(losses) / len(losses):.3f})", curve)
    return curve


def plain_model(num_classes: int) -> torch.nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from training_step import PlainBackbone

    backbone = PlainBackbone()
    weights, body = lite0_weights(), backbone.body.state_dict()
    backbone.body.load_state_dict({key: weights[key] for key in body if key in weights})
    backbone.body = freeze_batch_norm_2d(backbone.body)
    sizes = ((16, 23), (32, 45), (64, 91), (128, 181))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    mean = [0.5] * 3
    return FasterRCNN(
        backbone,
        num_classes + 1,
        rpn_anchor_generator=anchors,
        min_size=384,
        max_size=640,
        image_mean=mean,
        image_std=mean,
    )


def average_precision(split: RecordSplit, detect: Detect) -> float:
    truths, found = [], []
    for index in range(len(split)):
        record = split[index]
        image = decode(record.encoded)
        truths.append(GroundTruth.of_record(on_image(record, *image.shape[:2]), split.labels(record)))
        found.append(detect(image))
    return float(coco_metrics(truths, found, split.label_map.names).summary["AP50"] or 0)


def say(name: str, curve: Curve) -> None:
    seconds, value = curve[-1]
    print(f"{name}: epoch {len(curve)}, {seconds / 60:.1f} CPU minutes, AP50 {value:.3f}", flush=True)


def past_all(curve: Curve) -> bool:
    return any(value >= max(BARS) for _, value in curve)


def needed(curve: Curve) -> dict[float, float]:
    """CPU seconds to each bar; all of them where it is never reached."""
    return {bar: next((seconds for seconds, value in curve if value >= bar), curve[-1][0]) for bar in BARS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=["ours", "plain"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    test = open_records(options.records).splits["test"]

    def measure(detect: Detect) -> float:
        return average_precision(test, detect)

    times = {}
    if options.only != "plain":
        times["Resight"] = needed(ours(options.records, options.out, measure))
    if options.only != "ours":
        times["plain torchvision"] = needed(plain(options.records, measure))
    for name, bars in times.items():
        print(f"{name}: " + ", ".join(f"AP50 {bar:.2f} after {bars[bar] / 60:.1f} CPU minutes" for bar in BARS))
    if len(times) == 2:
        first, second = times.values()
        print("Resight / plain: " + ", ".join(f"{first[bar] / second[bar]:.2f} to {bar:.2f}" for bar in BARS))


if __name__ == "__main__":
    main()
