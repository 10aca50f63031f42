"""What the default settings are worth: trainings of the same number of steps that differ in one of them.

    OMP_NUM_THREADS=1 python benchmarks/choices.py RECORDS OUT [--steps 200] [--only NAME ...]

Prints AP50 and mAP on the test split and the CPU minutes of each training. A training that is done is not repeated.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from time_to_accuracy import cpu_of

import resight

CHOICES = {
    "defaults": {},
    "no EMA": {"train.ema": 0},
    "320 px": {"model.min_size": 320, "model.max_size": 533},
    "480 px": {"model.min_size": 480, "model.max_size": 800},
    "default anchors": {"model.anchors": "default"},
    "nothing frozen": {"model.freeze": 0},
    "all frozen": {"model.freeze": 5},
    "no repeats": {"data.repeat_threshold": 0},
    "tiles": {"model.tile": 256},
}


def run(records: Path, out: Path, name: str, steps: int) -> tuple[float, dict[str, float]]:
    folder = out / name.replace(" ", "-")
    result = out / f"{folder.name}.json"
    if not result.exists():
        keys = {"train.steps": steps, "train.batch_size": 8, "evaluate.every": 1000, **CHOICES[name]}
        command = [sys.executable, "-m", "resight", "train", "--data", str(records), "-o", str(folder), "--resume"]
        process = subprocess.Popen(
            command + [text for key, value in keys.items() for text in ("--set", f"{key}={value}")]
        )
        seconds = 0.0
        while process.poll() is None:
            seconds = max(seconds, cpu_of(process.pid))
            time.sleep(0.5)
        metrics = resight.evaluate(folder / "checkpoints" / "last.safetensors", records).metrics
        result.write_text(json.dumps([seconds, {key: metrics[key] for key in ("AP50", "mAP", "AP_small")}]))
    seconds, metrics = json.loads(result.read_text())
    return seconds, metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="*", choices=CHOICES, default=list(CHOICES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        seconds, metrics = run(options.records, options.out, name, options.steps)
        print(
            f"{name:16} AP50 {metrics['AP50']:.3f}, mAP {metrics['mAP']:.3f}, {seconds / 60:.1f} CPU minutes",
            flush=True,
        )


if __name__ == "__main__":
    main()
