"""The run folder: where everything of one training lies."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torchvision
from filelock import FileLock, Timeout

from .._version import __version__
from ..config.defaults import PIPELINE
from ..config.toml_text import to_toml
from ..config.tree import Config
from ..errors import ResightError, listed
from ..io.files import LARGE, parse_json, read_file
from ..io.outputs import clear_partials, is_partial, write_text
from ..label_map import LabelMap, to_pbtxt
from ..models.checkpoints import LAST
from .run_record import FILE, LAUNCH, git_commit

METRICS = "metrics.jsonl"
LOCK = ".lock"
_OF_SAFETENSORS = re.compile(r"\.tmp\w{6}")


def check_run(path: Path, resume: bool = False) -> None:
    """Raises ResightError: the folder holds a run and not to ``resume`` it, or something else, or is no folder."""
    try:
        if path.exists() and not path.is_dir():
            raise ResightError("expected a folder, found a file", where=path, fix="Choose another with -o.")
        if path.is_symlink() and not path.exists():
            raise ResightError("is a link that leads nowhere", where=path, fix="Choose another with -o.")
        present = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        if not resume and ("config.toml" in present or (path / LAST).exists()):
            fix = f"Continue it with --resume -o {shlex.quote(str(path))}, or choose another folder."
            raise ResightError("holds a run already", where=path, fix=fix)
        # A launch leaves the record and a folder; a pipeline.config lies where it trains, in TFOD's habit.
        known = ("checkpoints", LOCK, FILE, LAUNCH, PIPELINE)
        others = [name for name in present if name not in known and not is_partial(name)]
        if others and "config.toml" not in present:
            raise ResightError(f"is not empty: {listed(others)}", where=path, fix="Choose another folder with -o.")
    except OSError as error:
        raise ResightError(f"cannot be a run folder: {error.strerror}", where=path) from error


def new_run(path: Path, resume: bool = False) -> None:
    """Makes the folder. Raises ResightError as ``check_run``, or if it cannot be made."""
    check_run(path, resume)
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make the run folder: {error.strerror}", where=path) from error


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Keeps every other training out of the run folder, and removes what a killed one left half-written; the lock ends
    with the process, however it ends. Raises ResightError: another training holds it, or it cannot be written to."""
    lock = FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
        for folder in (path, path / "checkpoints"):
            clear_partials(folder)
            for left in folder.glob(".*"):  # earlier versions left files, and a library its own beside them
                if left.is_file() and (is_partial(left.name) or _OF_SAFETENSORS.fullmatch(left.name)):
                    left.unlink()
    except Timeout:
        fix = "Wait for it, or choose another."
        raise ResightError("another training is writing to this run folder", where=path, fix=fix) from None
    except OSError as error:
        raise ResightError(f"cannot write into the run folder: {error.strerror}", where=path) from error
    try:
        yield
    finally:
        lock.release()


def forget_metrics(path: Path, step: int, evaluated_at: int = 0) -> None:
    """Takes the lines after ``step`` out of metrics.jsonl, and those of evaluations after ``evaluated_at``: a training
    that goes on from there writes them again."""
    file = path / METRICS
    if not file.exists():
        return
    kept = []
    for line in read_file(file, LARGE).decode(errors="replace").splitlines():
        with suppress(ResightError, KeyError, TypeError):  # a kill can leave a part of a line
            row = parse_json(line)
            if row["step"] <= (step if row["split"] == "train" else evaluated_at):
                kept.append(line)
    write_text(file, "".join(line + "\n" for line in kept))


def describe_run(path: Path, config: Config, label_map: LabelMap, facts: dict[str, Any] | None) -> None:
    """Writes config.toml first, as a folder that holds it is a run's, label_map.pbtxt and environment.json, which
    without ``facts``, as when a run goes on, keeps telling how it began."""
    write_text(path / "config.toml", to_toml(config))
    write_text(path / "label_map.pbtxt", to_pbtxt(label_map))
    if facts is None:
        return
    environment = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "resight": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }
    write_text(path / "environment.json", json.dumps(environment | facts, indent=1))
