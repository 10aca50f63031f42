"""The model a training starts with: what is loaded, and what the configuration takes over from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ..config.loading import explain
from ..config.tree import Config, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.heads import set_norm_eps
from ..detection.model import DetectionModel, load_detector
from ..dialect import dialect_of, left_by_tfod, model_config
from ..errors import ResightError, counted, nearest
from ..fpn.pretrained import load_pretrained, write_published
from ..fpn.specs import spec_of
from ..io.object_store import is_remote
from ..models.build import build_model
from ..models.checkpoints import Checkpoint, find_checkpoint, load_checkpoint
from ..models.remote import fetch_model
from ..random_streams import stream_seed
from .run_record import PUBLISHED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Trained weights; ``initialize`` puts them into a model of the classes given, and names the tensors left new."""

    anchors: AnchorSettings | None  # those that a trained RPN comes with; None: those of the configuration
    initialize: Callable[[DetectionModel, Sequence[str]], list[str]]


def find_start(config: Config, resumed: Checkpoint | None = None) -> tuple[Start | None, Config]:
    """What ``model.start`` names, which a training that is ``resumed`` needs no more; what the configuration does not
    say of the model is as the start has it. Raises ResightError: there is no such model, or it does not fit."""
    model = config.model
    if model.start == "none" and model.freeze:
        # Random weights that stay as they are would be a handicap for good.
        config = _changed(config, {"freeze": 0})
    if resumed is not None:
        return None, _inherited(config, resumed.card.model, tuple(type(config.model).model_fields))
    if model.start == "none" or (model.start == "pretrained" and dialect_of(model).publishes_weights):
        return None, config
    if model.start == "pretrained":
        fix = "Name a model of TFOD's or of its zoo (resight zoo list), or none for random weights."
        raise ResightError(f"{model.name} comes with no weights", where="model.start", fix=fix)
    place = _place(model.start)
    if found := left_by_tfod(place):
        from ..tfod.checkpoint.reader import read_checkpoint
        from ..tfod.checkpoint.trained import inherited
        from ..tfod.checkpoint.variables import load_start

        if changes := inherited(model, place):
            config = _changed(config, changes)
        variables, start_type = read_checkpoint(found.prefix), config.model.start_type
        return Start(None, lambda net, _: list(load_start(net, variables, start_type).new)), config
    start = load_checkpoint(find_checkpoint(place))
    config = _inherited(config, start.card.model, ("name", "min_size", "max_size", "detections", "heads", "tfod"))
    wanted, has = (getattr(model, "heads", 1) for model in (config.model, start.card.model))
    if wanted != has and config.model.dialect == start.card.model.dialect:
        message = f"the model of the start has {counted(has, 'box head')}, and model.heads is {wanted}"
        raise ResightError(message, where=model.start, fix=f"Set model.heads to {has}.")
    return Start(start.card.anchors, partial(_initialize, start, model.start)), config


def _place(start: str) -> Path:
    """The local path of the model that ``model.start`` names; of the zoo's and of one in a store, of its copy."""
    if is_remote(start):
        return fetch_model(start)
    place = Path(start)
    if len(place.parts) > 1 and place.exists():
        return place
    from ..tfod.zoo import NAMES, fetch

    if start in NAMES:
        return fetch(start)
    if not place.exists() and not Path(f"{start}.index").exists():
        fix = nearest(start, NAMES) or "Name a run folder or a checkpoint."
        raise ResightError("there is no such model", where=f"model.start = {start}", fix=fix)
    return place


def _initialize(start: Checkpoint, where: str, model: DetectionModel, classes: Sequence[str]) -> list[str]:
    new = load_detector(model, start.weights(), where, start.card.label_map.names, classes)
    if start.card.norm_eps is not None:
        set_norm_eps(model, start.card.norm_eps)
    return new


def start_name(config: Config) -> str | None:
    """What the files of the model that ``model.start`` names are called in a copy: ``start...``, or that of published
    weights; None where nothing has to be copied. Raises ResightError: there is no such model."""
    from ..tfod.zoo import NAMES

    if config.model.start in NAMES:  # told without fetching it
        return "start"
    return next((name.partition("/")[0] for name in start_files(config)), None)


def start_files(config: Config, folder: Path | None = None) -> dict[str, Path]:
    """The files of that model by the names under which a copy of them is a start, too: ``start.safetensors``,
    ``start/...``, or the published weights, which are downloaded into ``folder`` if it is given."""
    model = config.model
    if model.start == "none" or is_remote(model.start):
        return {}
    if model.start == "pretrained" and dialect_of(model).publishes_weights:
        if spec_of(model.name).source == "packaged":
            return {}
        if folder:
            write_published(model.name, folder / PUBLISHED)
        return {PUBLISHED: (folder or Path()) / PUBLISHED}
    place = _place(model.start)
    if found := left_by_tfod(place):
        return {f"start/{name}": file for name, file in found.files().items()}
    return {"start.safetensors": find_checkpoint(place)}


def _inherited(config: Config, model: ModelConfig, keys: tuple[str, ...]) -> Config:
    own = config.model.model_fields_set
    known = type(model).model_fields.keys() & type(config.model).model_fields
    return _changed(config, {key: getattr(model, key) for key in keys if key in known and key not in own})


def _changed(config: Config, changes: dict[str, Any]) -> Config:
    try:
        model = model_config(config.model.model_dump(exclude_unset=True) | changes)
    except ValidationError as error:  # what is set does not fit the model of the start
        wrong = "; ".join(map(explain, error.errors()))
        raise ResightError(wrong, where=f"model, started from {config.model.start}") from error
    return config.model_copy(update={"model": model})


def start_model(
    config: Config, start: Start | None, classes: Sequence[str], anchors: AnchorSettings
) -> tuple[DetectionModel, dict[str, Any]]:
    """The model with the weights it starts from, those of ``start`` or published ones, and a report of them."""
    with torch.random.fork_rng(devices=[]):
        # Layers draw their first weights from the global generator.
        torch.manual_seed(stream_seed(config.train.seed, "weights"))
        model = build_model(config.model, len(classes), anchors)
    report: dict[str, Any] = {"start": config.model.start}
    if start is not None:
        report["new"] = start.initialize(model, classes)
    elif config.model.start == "pretrained":
        report["start"] = load_pretrained(model, config.model.name)
    report["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    report["trained"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return model, report
