"""``resight demo``: the complete workflow on generated road scenes, offline, on a CPU, in a few minutes."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ..config.tree import Config
from ..datasets.build import build_data
from ..dialect import load_config
from ..evaluation.evaluate import Evaluation, evaluate
from ..exporting.export import ExportReport, export
from ..io.outputs import atomic_folder
from ..records.reader import open_records
from ..reporting.report import report
from ..scenes import make_scenes
from ..training.train import train
from .check import check_data
from .predict import predict

log = logging.getLogger(__name__)

CLASSES = ("stop", "pedestrianCrossing", "signalAhead")
MINUTES = 5.25
SCENES, RECORDS, RUN, FOUND, MODEL = "lisa", "records", "run", "found", "model.onnx"
PICTURES = 12
MARK = ".resight-demo"  # by which --force knows a folder that an earlier demo made


@dataclass(frozen=True)
class DemoReport:
    """Where everything is and how good it is."""

    out: str
    evaluation: Evaluation
    export: ExportReport | None
    report: str
    minutes: float

    def text(self) -> str:
        out = self.out
        rows = [
            ("scenes", os.path.join(out, SCENES), "dash-cam videos in LISA's layout"),
            ("records", os.path.join(out, RECORDS), "what training reads"),
            ("run", os.path.join(out, RUN), "checkpoints, metrics, configuration"),
            ("pictures", os.path.join(out, FOUND), "detections drawn into test scenes: look at them"),
        ]
        if self.export:
            rows.append(("model", os.path.join(out, MODEL), self.export.parity.text()))
        lines = [f"{name:<10}{path:<28}{remark}" for name, path, remark in rows]
        end = f"\nall in {self.minutes:.1f} minutes; where it fails, and what to do about it: {self.report}"
        return "\n".join([self.evaluation.text(), "", *lines, end])


def demo_config(records: str, seed: int) -> Config:
    """Small signs in large frames: full resolution, and windows of the frame rather than all of it."""
    overrides: dict[str, object] = {"data.path": records, "train.seed": seed, "train.max_minutes": MINUTES}
    overrides |= {"model.min_size": 480, "model.max_size": 704, "evaluate.every": 4.0}
    return load_config(None, overrides | {"augment.scale": (0.8, 1.7), "augment.crop": 0.5})


def demo(out: str | os.PathLike[str] = "demo", *, seed: int = 42, force: bool = False) -> DemoReport:
    """Draws scenes, builds records, checks, trains, evaluates, exports and predicts, all below ``out``.

    Test scenes are from videos that training has not seen. Without the extra ``onnx`` the export is left out.

    Raises:
        ResightError: ``out`` holds something and ``force`` is off, or cannot be written.
    """
    began = time.monotonic()
    with atomic_folder(out, force, _is_ours) as empty:
        (empty / MARK).touch()
    folder = Path(out)
    scenes, records, run = (str(folder / name) for name in (SCENES, RECORDS, RUN))
    log.info("drawing road scenes")
    make_scenes(scenes, seed=seed)
    built = build_data(
        scenes, records, format="lisa", classes=CLASSES, split="group", group_by="video", background="all", seed=seed
    )
    log.info("%s", built.text())
    checked = check_data(records)
    log.info("check: %d errors, %d warnings", len(checked.errors), len(checked.warnings))
    if train(demo_config(records, seed), run).exit_code:
        raise KeyboardInterrupt  # a training that was interrupted ends the demo, too
    measured = evaluate(run)
    predict(run, _test_frames(records, scenes), folder / FOUND)
    exported, page = _export(run, folder / MODEL), report(run).path
    return DemoReport(str(out), measured, exported, page, (time.monotonic() - began) / 60)


def _test_frames(records: str, scenes: str) -> list[str]:
    """The frames of some test images, at equal distances."""
    names = [record.source_id for record in open_records(records).splits["test"].summaries]
    step = max(len(names) // PICTURES, 1)
    return [os.path.join(scenes, name) for name in names[::step][:PICTURES]]


def _export(run: str, out: Path) -> ExportReport | None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        from ..inference.onnx_runtime import onnxruntime

        onnxruntime()
    except ImportError:  # not installed, or not for this machine
        log.info("no ONNX export: pip install 'resight[onnx]'")
        return None
    return export(run, "onnx", out)


def _is_ours(path: Path) -> bool:
    return (path.parent / MARK).is_file() and path.name in (SCENES, RECORDS, RUN, FOUND, MODEL, MARK)
