"""The run folder: where everything of one training lies."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from ..config import Config, to_toml
from ..errors import ResightError
from ..labels import LabelMap, to_pbtxt

BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.safetensors"


def find_checkpoint(model: str | os.PathLike[str]) -> Path:
    """The checkpoint that ``model`` means: a ``.safetensors`` file, or a run folder's best, else last.

    Raises:
        ResightError: there is none; says what was looked for.
    """
    path = Path(model)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        if (path / "dataset.json").exists() or list(path.glob("*.tfrecord")):
            fix = f"That is a records folder. Train first: resight train --data {path}"
        else:
            fix = f"A run folder holds {BEST} or {LAST}."
        raise ResightError("holds no checkpoint", where=path, fix=fix)
    if not path.exists():
        raise ResightError("there is no such model", where=path, fix="Name a run folder or a checkpoint.")
    raise ResightError("is no model", where=path, fix="A model is a run folder, a .safetensors checkpoint or an .onnx.")


def new_run(path: Path) -> None:
    """Makes the folder.

    Raises:
        ResightError: it holds a run already, or something else, or cannot be made.
    """
    if (path / LAST).exists() or (path / "config.toml").exists():
        raise ResightError(
            "holds a run already", where=path, fix=f"Continue it with --resume -o {path}, or choose another folder."
        )
    if path.is_dir() and any(path.iterdir()):
        raise ResightError("is not empty", where=path, fix="Choose another folder with -o.")
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make the run folder: {error.strerror}", where=path) from error


def describe_run(path: Path, config: Config, label_map: LabelMap, facts: dict[str, Any]) -> None:
    """Writes config.toml, label_map.pbtxt and environment.json."""
    try:
        (path / "config.toml").write_text(to_toml(config), encoding="utf-8")
        (path / "label_map.pbtxt").write_text(to_pbtxt(label_map), encoding="utf-8")
        (path / "environment.json").write_text(json.dumps(environment() | facts, indent=1), encoding="utf-8")
    except OSError as error:
        raise ResightError(f"cannot write into the run folder: {error.strerror}", where=path) from error


def environment() -> dict[str, Any]:
    """Command line, versions and machine."""
    import torch
    import torchvision

    from .. import __version__

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "resight": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
