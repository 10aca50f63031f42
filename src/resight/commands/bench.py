"""``resight bench``: how fast models are on one's own pictures, each engine beside the others."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import check_types
from ..config.defaults import ExportFormat
from ..config.tree import DataConfig
from ..datasets.summary import table
from ..dialect import dialect_of
from ..errors import ResightError, counted
from ..evaluation.evaluate import evaluate, split_of
from ..exporting.export import export
from ..inference.detector import load
from ..inference.exported import ExportedDetector
from ..inference.inputs import Inputs
from ..io.cores import core_count
from ..io.progress import track
from ..models.fingerprint import files_of
from ..records.reader import open_configured

IMAGES = 20  # of a folder, spread over it
ROUNDS, ROUNDS_SECONDS = 5, 30.0  # at most so many rounds over the images, and no further one after so long
MODULES: dict[ExportFormat, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "savedmodel": "tensorflow",
}  # what runs an export


@dataclass(frozen=True)
class Timing:
    """One model with one number of threads.

    Args:
        first_detection: seconds from the start of a process to the first image's detections.
        median_ms, p95_ms: of an image, decoded already.
        images_per_second: one image after the other.
        memory_mb: of the process, at most.
        disk_mb: of the model's files.
        mAP: on the records that were named, else None.
    """

    model: str
    engine: str
    threads: int
    first_detection: float
    median_ms: float
    p95_ms: float
    images_per_second: float
    memory_mb: float
    disk_mb: float
    mAP: float | None


@dataclass(frozen=True)
class BenchReport:
    """
    Args:
        machine: processor and number of cores that the process may use.
        images: how many pictures were looked at.
    """

    timings: tuple[Timing, ...]
    machine: str
    images: int

    def text(self) -> str:
        head = ["model", "engine", "threads", "first detection", "median", "p95", "images/s", "memory", "size"]
        measured = any(one.mAP is not None for one in self.timings)
        rows = [[*head, "mAP"] if measured else head]
        for one in self.timings:
            row = [one.model, one.engine, str(one.threads), f"{one.first_detection:.1f} s"]
            row += [f"{one.median_ms:.1f} ms", f"{one.p95_ms:.1f} ms", f"{one.images_per_second:.2f}"]
            row += [f"{one.memory_mb:,.0f} MB", f"{one.disk_mb:.1f} MB"]
            rows.append([*row, "-" if one.mAP is None else f"{one.mAP:.4f}"] if measured else row)
        return "\n".join([*table(rows), "", f"{counted(self.images, 'image')}; {self.machine}"])

    def json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    images: str | os.PathLike[str],
    *,
    limit: int = IMAGES,
    threads: int | None = None,
    data: str | os.PathLike[str] | None = None,
    split: str = "test",
    device: str = "auto",
) -> BenchReport:
    """Times models on pictures, with one thread and with several; what is no export also as one, for each engine that
    is installed.

    Each is in a process of its own. They look at the images in turn, one image after the other, until each was timed at
    every image and for half a minute, or five times at each.

    Args:
        models: runs, checkpoints and exported models, or one of them.
        images: an image, or a folder of images.
        limit: look at so many of the images, spread evenly over them.
        threads: the larger number of threads; by default one a core.
        data: records on which AP is measured, too,
        split: and which of them.

    Raises:
        ResightError: a model or an image cannot be used, or an engine is not installed.
    """
    check_types(locals(), bench)
    for name, count in (("limit", limit), ("threads", threads)):
        if count is not None and count < 1:
            raise ResightError(f"is {count}, and must be at least 1", where=name)
    names = [os.fspath(one) for one in ([models] if isinstance(models, str | os.PathLike) else models)]
    if not names:
        raise ResightError("there is none", where="MODEL", fix="Name a run or an exported model.")
    inputs = Inputs([images])
    if inputs.as_lines:
        raise ResightError("is no image or folder on this machine", where=images, fix="Copy some images here first.")
    inputs.survey()
    found = [source.file for source in inputs]
    chosen = [found[at] for at in np.unique(np.linspace(0, len(found) - 1, min(limit, len(found))).astype(int))]
    if data is not None:  # not after minutes of timing
        split_of(open_configured(DataConfig(path=os.fspath(data))), split)
    cores = core_count()
    most = threads or cores
    with tempfile.TemporaryDirectory(prefix="resight-bench-") as folder:
        candidates = dict(each for name in names for each in _with_exports(name, Path(folder)))
        timings = [one for count in sorted({1, most}) for one in _timed(candidates, count, chosen, device)]
        if data is not None:
            measured = {name: _mean_ap(path, data, split, device, folder) for name, path in candidates.items()}
            timings = [replace(one, mAP=measured[one.model]) for one in timings]
    timings.sort(key=lambda one: list(candidates).index(one.model))
    return BenchReport(tuple(timings), f"{_processor()}, {counted(cores, 'core')}", len(chosen))


def _with_exports(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Names and paths of a model and, unless it is an export, of its exports for the engines that are installed."""
    yield name, name
    detector = load(name, "cpu")
    if isinstance(detector, ExportedDetector):
        return
    for format, module in MODULES.items():
        if format in dialect_of(detector.config).export_formats and importlib.util.find_spec(module):
            out = Path(tempfile.mkdtemp(dir=folder)) / f"model.{format}"
            yield f"{name}, as {format}", export(name, format, out).model


def _timed(models: Mapping[str, str], threads: int, files: Sequence[str], device: str) -> Iterator[Timing]:
    """Rounds over the images in turn, so that whatever else the machine does slows all models down alike."""
    with ExitStack() as stack:
        title = f"timing with {counted(threads, 'thread')}"
        started = [
            stack.enter_context(_Process(name, path, device, threads, files))
            for name, path in track(models.items(), f"starting, {counted(threads, 'thread')}")
        ]
        for process in started:
            process.round()  # an image of a new size takes longer
            process.seconds.clear()
        for _ in track(range(ROUNDS), title):
            for process in started:
                if sum(process.seconds) < ROUNDS_SECONDS:
                    process.round()
        yield from (process.timing() for process in started)


class _Process:
    """A model in a process of its own, as long as the block lasts.

    Raises:
        ResightError: the model or an image cannot be used there, or the process has died.
    """

    def __init__(self, name: str, model: str, device: str, threads: int, files: Sequence[str]) -> None:
        self.name, self.threads = name, threads
        self.disk_mb = sum(file.stat().st_size for file in files_of(model)) / 1e6
        self.seconds: list[float] = []
        start = time.perf_counter()
        command = [sys.executable, "-m", f"{__package__}.bench_process"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._loaded = self._ask({"model": model, "device": device, "threads": threads, "files": files})
        self.first_detection = time.perf_counter() - start

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def round(self) -> None:
        answer = self._ask({})
        self.seconds += answer["seconds"]
        self.memory_mb = answer["memory_mb"]

    def timing(self) -> Timing:
        median, p95 = np.percentile(self.seconds, (50, 95)) * 1000
        return Timing(
            self.name,
            self._loaded["engine"],
            self.threads,
            round(self.first_detection, 3),
            round(float(median), 3),
            round(float(p95), 3),
            round(len(self.seconds) / sum(self.seconds), 3),
            round(self.memory_mb, 1),
            round(self.disk_mb, 3),
            None,
        )

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:  # it is gone: it writes nothing but whole answers
            code = self._process.wait()
            fix = "The memory may not suffice: bench fewer models at once."
            raise ResightError(f"its process ended with {code}", where=self.name, fix=fix) from error
        if refused := answer.get("error"):
            raise ResightError(**refused)
        return answer


def _mean_ap(model: str, data: str | os.PathLike[str], split: str, device: str, folder: str) -> float | None:
    out = Path(tempfile.mkdtemp(dir=folder)) / "evaluation"
    mean = evaluate(model, data, split=split, out=out, device=device).metrics["mAP"]
    return None if mean is None else round(mean, 6)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
