"""A training that starts from what TFOD left."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..config.tree import ModelConfig
from ..detection.model import DetectionModel
from ..errors import ResightError
from .checkpoint.folder import PIPELINE, TfodModel
from .checkpoint.reader import Variables
from .checkpoint.trained import read_settings
from .checkpoint.variables import StartType, load_start
from .config import TfodModelConfig
from .faster_rcnn import TfodRCNN

log = logging.getLogger(__name__)


def inherited(model: ModelConfig, place: Path) -> dict[str, Any]:
    """The keys of ``model`` that the model at ``place`` decides, where the configuration names no model.

    Raises:
        ResightError: the configuration names a model of the other dialect.
    """
    if isinstance(model, TfodModelConfig):
        return {}
    if "name" in model.model_fields_set:
        raise ResightError(
            f"is a model of TFOD's, and model.name is {model.name}",
            where=place,
            fix="Leave model.name out, or choose another start.",
        )
    own, given = read_settings(place).model, model.model_dump(exclude_unset=True)
    return {**own.model_dump(), "start_type": model.start_type, **given}


def initialize(model: DetectionModel, variables: Variables, start_type: StartType) -> list[str]:
    """Puts TFOD's variables into ``model``; returns the names of tensors that stay new."""
    assert isinstance(model, TfodRCNN)
    loaded = load_start(model, variables, start_type)
    log.info("start     %s", loaded.text())
    return list(loaded.new)


def files(found: TfodModel) -> dict[str, Path]:
    """The files of a model by the names under which a copy of them is one, too."""
    checkpoint = (file for file in found.prefix.parent.iterdir() if file.stem == found.prefix.name)
    named = {f"checkpoint/{file.name}": file for file in checkpoint}
    return named | ({PIPELINE: found.pipeline} if found.pipeline else {})
