"""What a path is that was given where something else is asked for, and the command that was meant."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from typing import Literal, get_args

from .files import IMAGE_SUFFIXES, IS_RECORD
from .outputs import beside

Wanted = Literal["config", "model", "records", "annotations", "images"]
Kind = Literal["run", "model", "records", "images", "config", ""]

_ANNOTATIONS = (".json", ".csv", ".xml", ".yaml", ".yml", ".zip")
_LOOKED_AT = 2_000  # files of a folder

_MEANT = {
    ("run", "config"): "It is a run folder. Continue it: resight train --resume -o {path}\n"
    "  Or start from its weights: resight train --data RECORDS --start {path}",
    ("run", "records"): "It is a run folder, which is a model: resight evaluate {path}, or to go on with it "
    "resight train --resume -o {path}",
    ("run", "annotations"): "It is a run folder, which is a model: resight evaluate {path}",
    ("run", "images"): "It is a run folder, and the model comes first: resight predict {path} PHOTOS -o found",
    ("model", "config"): "It is a model. Start from its weights: resight train --data RECORDS --start {path}",
    ("model", "records"): "It is a model: resight evaluate {path} --data RECORDS",
    ("model", "annotations"): "It is a model: resight evaluate {path} --data RECORDS",
    ("model", "images"): "It is a model, and the model comes first: resight predict {path} PHOTOS -o found",
    ("records", "config"): "It is a records folder: resight train --data {path}",
    ("records", "model"): "It is a records folder. Train on it: resight train --data {path}\n"
    "  Or measure a model on it: resight evaluate MODEL --data {path}",
    ("records", "images"): "It is a records folder. Look at it: resight data show {path} -o look\n"
    "  Or measure a model on it: resight evaluate MODEL --data {path}",
    ("images", "config"): "Make records of it first: resight data build {path} -o {records}\n"
    "  Then: resight train --data {records}",
    ("images", "records"): "Make records of it first: resight data build {path} -o {records}",
    ("images", "model"): "It holds images or annotations, and the model comes first: resight predict MODEL {path}, or\n"
    "  resight evaluate MODEL --data RECORDS (resight data build {path} -o {records} makes records).",
}
_MEANT |= {("config", wanted): "It is a configuration: resight train {path}" for wanted in get_args(Wanted)[1:]}


def meant(path: object, wanted: Wanted) -> str:
    """A sentence with the command that fits ``path`` where ``wanted`` is asked for, or an empty string."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    sentence = _MEANT.get((kind_of(text), wanted), "")
    return sentence.format(path=shlex.quote(text), records=shlex.quote(beside(text))) if sentence else ""


def kind_of(path: str) -> Kind:
    """What lies at ``path``, by names alone; empty where nothing does or it cannot be told."""
    try:
        if os.path.isfile(path):
            return _of_file(path.lower())
        names = set(islice(os.listdir(path), _LOOKED_AT)) if os.path.isdir(path) else set()
        if "config.toml" in names or "checkpoints" in names or "pipeline.config" in names:
            return "run"
        if "model.xml" in names:
            return "model"
        if "dataset.json" in names or any(map(IS_RECORD.search, names)):
            return "records"
        below = (name for _, _, files in os.walk(path) for name in files)
        return "images" if any(_of_file(name.lower()) == "images" for name in islice(below, _LOOKED_AT)) else ""
    except (OSError, ValueError):
        return ""


def _of_file(name: str) -> Kind:
    if name.endswith((".safetensors", ".onnx", ".pb", ".pt", ".pth")):
        return "model"
    if IS_RECORD.search(name):
        return "records"
    if name.endswith((".toml", ".config")):
        return "config"
    return "images" if name.endswith(IMAGE_SUFFIXES + _ANNOTATIONS) else ""
