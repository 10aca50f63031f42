"""Time, memory and size of a report: by default 5,000 images, 35,000 objects, 500,000 detections.

    python benchmarks/report.py [--images 5000] [--classes 3]

The evaluation is made up, in groups of fifteen images, of records of noise images of 640 x 480. The bars are 60 s and
2 GB for 5,000 images, and pages of 15 MB for 1,000 images and 6 MB for 200.
"""

import argparse
import io
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation import images
from resight.evaluation.coco import STANDARD
from resight.evaluation.loop import ImageResult, measure
from resight.evaluation.report import as_dict
from resight.evaluation.saved import to_save, write_evaluation
from resight.fpn.config import FpnModelConfig
from resight.inference.detector import Detector
from resight.label_map import LabelMap
from resight.records.reader import open_records
from resight.records.writer import write_records_folder
from resight.reporting.report import report
from resight.types import Annotation, Box, Detections

WIDTH, HEIGHT, GROUP = 640, 480, 15


def records(count: int, folder: Path, names: tuple[str, ...]) -> str:
    """A records folder of ``count`` noise images; returns its digest."""
    draw, encoded = np.random.default_rng(0), []
    for _ in range(20):
        noise = draw.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    box = Box(names[0], 10, 10, 50, 50)
    annotations = (
        Annotation(encoded[number % 20], (box,), filename=f"{number:05}.jpg", group=f"video {number // GROUP}")
        for number in range(count)
    )
    write_records_folder({"test": annotations}, folder, LabelMap.from_names(list(names)))
    return open_records(folder).digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=3)
    options = parser.parse_args()
    truths, found = images(options.images, options.classes)
    names = found[0].classes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = records(options.images, folder / "records", names)
        sized = [Detections(one.boxes, one.scores, one.labels, names, WIDTH, HEIGHT) for one in found]
        results = [
            ImageResult(number, f"{number:05}.jpg", f"video {number // GROUP}", truth, one, {}, truth.labels, 0)
            for number, (truth, one) in enumerate(zip(truths, sized, strict=True))
        ]
        metrics = as_dict(*measure(truths, sized, names, max_detections=STANDARD), model="made up", split="test")
        metrics |= {"data": str(folder / "records"), "data_digest": digest, "limit": None, "ignore_difficult": False}
        write_evaluation(
            folder / "evaluation", to_save(metrics, Detector(names, None, config=FpnModelConfig()), results)
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.perf_counter(), time.process_time()
        made = report(folder / "evaluation")
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        page = Path(made.path)
        shown = page.read_text(encoding="utf-8").count("data:image/jpeg")
        sizes = {kind: page.with_suffix(kind).stat().st_size / 1e6 for kind in (".html", ".json")}
    print(f"{options.images:,} images, {sum(map(len, found)):,} detections, {options.classes} classes: {seconds:.1f} s")
    print(f"  ({cpu:.1f} s of CPU), {sizes['.html']:.1f} MB with {shown} pictures, report.json {sizes['.json']:.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  at most {peak / 2**20:.2f} GB, {before / 2**20:.2f} GB before; {json.dumps(made.notes)}")


if __name__ == "__main__":
    main()
