"""The model a training starts with: what is loaded, and what the configuration takes over from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ..config.loading import explain
from ..config.tree import Config, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.heads import count_parameters, set_norm_eps
from ..detection.model import DetectionModel
from ..dialect import model_config
from ..errors import ResightError, nearest
from ..fpn.pretrained import load_detector, load_pretrained, write_published
from ..fpn.specs import spec_of
from ..io.object_store import is_remote
from ..models.build import build_model
from ..models.checkpoints import Checkpoint, find_checkpoint, load_checkpoint
from ..models.remote import fetch_model
from ..random_streams import stream_seed
from ..tfod.checkpoint.folder import PIPELINE, find_tfod
from ..tfod.checkpoint.reader import Variables, read_checkpoint
from ..tfod.checkpoint.trained import read_settings
from ..tfod.checkpoint.variables import load_start
from ..tfod.zoo import NAMES, fetch
from .run_record import PUBLISHED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Trained weights: a checkpoint of ours, or the variables of one of TFOD's."""

    weights: Checkpoint | Variables

    @property
    def anchors(self) -> AnchorSettings | None:
        """The anchors that a trained RPN comes with; TFOD's are always those of the configuration."""
        return self.weights.card.anchors if isinstance(self.weights, Checkpoint) else None


def find_start(config: Config, resumed: Checkpoint | None = None) -> tuple[Start | None, Config]:
    """What ``model.start`` names; what the configuration does not say of the model is as the start has it.

    Args:
        resumed: where a training goes on from; its start is then needed no more.

    Raises:
        ResightError: there is no such model, it is damaged, or it is of another dialect than ``model.name``.
    """
    model = config.model
    if model.start == "none" and model.freeze:
        # Random weights that stay as they are would be a handicap for good.
        config = _changed(config, {"freeze": 0})
    if resumed is not None:
        return None, _inherited(config, resumed.card.model, tuple(type(config.model).model_fields))
    if model.start == "none" or (model.start == "pretrained" and model.dialect != "tfod"):
        return None, config
    if model.start == "pretrained":
        raise ResightError(
            f"{model.name} comes with no weights",
            where="model.start",
            fix="Name a model of TFOD's or of its zoo (resight zoo list), or none for random weights.",
        )
    place = Path(model.start)
    if model.start in NAMES:
        place = fetch(model.start)
    elif is_remote(model.start):
        place = fetch_model(model.start)
    if found := find_tfod(place):
        if model.dialect != "tfod":
            if "name" in model.model_fields_set:
                raise ResightError(
                    f"is a model of TFOD's, and model.name is {model.name}",
                    where=place,
                    fix="Leave model.name out, or choose another start.",
                )
            own, given = read_settings(place).model, model.model_dump(exclude_unset=True)
            config = _changed(config, {**own.model_dump(), "start_type": model.start_type, **given})
        return Start(read_checkpoint(found.prefix)), config
    if not place.exists() and (meant := nearest(model.start, NAMES)):
        raise ResightError("there is no such model", where=model.start, fix=meant)
    start = load_checkpoint(find_checkpoint(place))
    return Start(start), _inherited(config, start.card.model, ("name", "min_size", "max_size", "detections", "tfod"))


def start_name(config: Config) -> str | None:
    """What the files of the model that ``model.start`` names are called in a copy: ``start...``, or that of published
    weights; None where nothing has to be copied.

    Raises:
        ResightError: there is no such model.
    """
    model = config.model
    if model.start == "none" or is_remote(model.start):
        return None
    if model.start == "pretrained" and model.dialect != "tfod":
        return None if spec_of(model.name).source == "packaged" else PUBLISHED
    return "start" if model.start in NAMES else next(iter(_trained_files(model.start))).partition("/")[0]


def start_files(config: Config, folder: Path) -> dict[str, Path]:
    """The files of that model by the names under which a copy of them is a start, too: ``start.safetensors``,
    ``start/...``, or the published weights, which are downloaded into ``folder``.

    Raises:
        ResightError: there is no such model, or it cannot be had.
    """
    if start_name(config) == PUBLISHED:
        write_published(config.model.name, folder / PUBLISHED)
        return {PUBLISHED: folder / PUBLISHED}
    return _trained_files(config.model.start)


def _trained_files(start: str) -> dict[str, Path]:
    place = fetch(start) if start in NAMES else Path(start)
    if found := find_tfod(place):
        files = {file.name: file for file in found.prefix.parent.iterdir() if file.stem == found.prefix.name}
        named = {f"start/checkpoint/{name}": file for name, file in files.items()}
        return named | ({f"start/{PIPELINE}": found.pipeline} if found.pipeline else {})
    if not place.exists():
        raise ResightError("there is no such model", where=f"model.start = {start}", fix=nearest(start, NAMES))
    return {"start.safetensors": find_checkpoint(place)}


def _inherited(config: Config, model: ModelConfig, keys: tuple[str, ...]) -> Config:
    own = config.model.model_fields_set
    return _changed(config, {key: getattr(model, key) for key in keys if key not in own})


def _changed(config: Config, changes: dict[str, Any]) -> Config:
    try:
        model = model_config(config.model.model_dump(exclude_unset=True) | changes)
    except ValidationError as error:  # what is set does not fit the model of the start
        raise ResightError(
            "; ".join(map(explain, error.errors())), where=f"model, started from {config.model.start}"
        ) from error
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
    if start is None:
        if config.model.start == "pretrained":
            report["start"] = load_pretrained(model, config.model.name)
    elif isinstance(start.weights, Variables):
        loaded = load_start(model, start.weights, config.model.start_type)
        log.info("start     %s", loaded.text())
        report["new"] = list(loaded.new)
    else:
        card = start.weights.card
        report["new"] = load_detector(model, start.weights.weights(), config.model.start, card.label_map.names, classes)
        if card.norm_eps is not None:
            set_norm_eps(model, card.norm_eps)
    report["parameters"], report["trained"] = count_parameters(model)
    return model, report
