"""A model that TFOD trained: its weights, configuration and classes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...config.tree import ModelConfig
from ...errors import ResightError
from ...label_map import LabelMap, read_label_map
from ..config import TfodModelConfig, TfodTree, load_tfod
from ..pipeline.config import Pipeline, examine_pipeline
from ..specs import SPECS
from .folder import PIPELINE, find_tfod
from .reader import Variables, read_checkpoint
from .variables import Facts, examine, to_state_dict

log = logging.getLogger(__name__)

COCO_IDS = 90  # ids of COCO's 80 classes go up to it


@dataclass(frozen=True)
class Trained:
    weights: dict[str, Tensor]  # by the names of our model's state dict
    config: TfodTree
    label_map: LabelMap
    facts: Facts


def read_tfod(
    path: str | Path, *, config: str | Path | None = None, labels: str | os.PathLike[str] | None = None
) -> Trained:
    """A model that TFOD left.

    Args:
        path: an exported model, one of the zoo's, the folder of a training, or the prefix of a checkpoint.
        config: its `pipeline.config`; by default the one beside it.
        labels: its label map; by default the one that the config names, or the `label_map.pbtxt` beside the config.

    Raises:
        ResightError: it is none, is damaged, is refused, or its checkpoint and its config are of different models.
    """
    settings, pipeline, variables = _described(path, config)
    weights, facts = to_state_dict(variables)
    if facts.by_order:
        log.warning("%s: layers told apart by their order, because %s", variables.prefix, facts.by_order)
    beside = Path(pipeline.path).with_name("label_map.pbtxt")
    labels = labels or pipeline.label_map or (beside if beside.is_file() else "")
    return Trained(weights, settings, _label_map(labels, pipeline.num_classes), facts)


def read_settings(path: str | Path) -> TfodTree:
    """The configuration of a model that TFOD left, without reading its weights; raises as :func:`read_tfod`."""
    return _described(path, None)[0]


def inherited(model: ModelConfig, place: Path) -> dict[str, Any]:
    """The keys of ``model`` that the model at ``place`` decides, where the configuration names no model.

    Raises:
        ResightError: the configuration names a model of the other dialect.
    """
    if isinstance(model, TfodModelConfig):
        return {}
    if "name" in model.model_fields_set:
        message = f"is a model of TFOD's, and model.name is {model.name}"
        fix = "Leave model.name out, or choose another start."
        raise ResightError(message, where=place, fix=fix)
    own, given = read_settings(place).model, model.model_dump(exclude_unset=True)
    return {**own.model_dump(), "start_type": model.start_type, **given}


def _described(path: str | Path, config: str | Path | None) -> tuple[TfodTree, Pipeline, Variables]:
    found = find_tfod(path)
    if found is None:
        fix = "It needs checkpoint/ckpt-0.index, or ckpt-N.index of a training."
        raise ResightError("holds no model of TFOD", where=path, fix=fix)
    if config is None and found.pipeline is None:
        raise ResightError(f"has no {PIPELINE} beside it", where=found.prefix, fix="Name it with --config.")
    pipeline = examine_pipeline(config or found.pipeline or "", model_only=True).check()
    settings, variables = load_tfod(pipeline.overrides), read_checkpoint(found.prefix)
    tfod, facts = settings.model.tfod, examine(variables)[1]
    if facts.num_classes is None:
        raise ResightError("holds a backbone alone, and no detector", where=found.prefix, fix="Train from it: --start.")
    stated = {
        "ResNet": (facts.depth, SPECS[settings.model.name].depth),
        "number of classes": (facts.num_classes, pipeline.num_classes),
        "share_box_across_classes": (facts.share_boxes, tfod.share_boxes if facts.share_boxes is not None else None),
        "anchors a location": (facts.anchors, len(tfod.anchor_scales) * len(tfod.anchor_ratios)),
    }
    differ = [f"{what} {ours} and {theirs}" for what, (ours, theirs) in stated.items() if ours != theirs]
    if differ:
        message = f"the checkpoint and {pipeline.path} are of different models: {'; '.join(differ)}"
        raise ResightError(message, where=found.prefix, fix="Name the config it was trained with: --config.")
    return settings, pipeline, variables


def _label_map(labels: str | os.PathLike[str], count: int) -> LabelMap:
    """Class names where a class is its id less one, as in TFOD."""
    if labels:
        return read_label_map(labels).by_id(count)
    if count != COCO_IDS:
        log.warning("no label map: classes are named by their numbers; --labels MAP names them")
        return LabelMap(()).by_id(count)
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    log.info("no label map: assuming the %d classes are COCO's; --labels MAP names them", count)
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by id, "N/A" where there is none
    return LabelMap.from_names(name if name != "N/A" else f"class {id}" for id, name in enumerate(names) if id)
