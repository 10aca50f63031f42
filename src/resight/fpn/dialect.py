"""The FPN dialect, as :class:`resight.dialect.Dialect` describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..config.defaults import MODEL
from ..config.tree import Config, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.model import DetectionModel
from ..errors import ResightError
from ..input.augment import LEFT_RIGHT, Sample, suggest_flip_pairs
from ..input.dataset import Transform, usable_boxes
from ..records.example import Record
from ..records.reader import Records, RecordSplit
from .build import build_fpn
from .build import check_name as check_name
from .build import default_anchors as default_anchors
from .build import level_strides as level_strides
from .faster_rcnn import FasterRCNN
from .input import FpnTransform, to_sample
from .parity import compare_stages as compare_stages
from .specs import spec_of

if TYPE_CHECKING:
    from onnx import ModelProto

evaluates_losses = False
export_formats = ("onnx",)
evaluation_cost = 0.5
input_dtype = torch.uint8
left_out = ""
pads_batches = True
publishes_weights = True
size_remedy = "; or --set model.tile={} for large images"


def build(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None) -> FasterRCNN:
    return build_fpn(config, num_classes, anchors)


def fits_anchors(config: ModelConfig) -> bool:
    trained = config.start != "none" and (config.start != "pretrained" or spec_of(config.name).weights == "COCO")
    return config.anchors == "fit" and not trained


def stronger_start(config: ModelConfig) -> str:
    return "--model fasterrcnn_resnet50_fpn_v2" if config.name == MODEL else ""


def transform(config: Config, classes: Sequence[str]) -> Transform:
    return FpnTransform(config, classes)


def ground_truth(record: Record, labels: np.ndarray, model: ModelConfig, where: str) -> tuple[Record, np.ndarray]:
    return record, labels


def loss_sample(record: Record, labels: np.ndarray, image: np.ndarray, model: ModelConfig) -> Sample:
    return to_sample(record, labels, image)


def own_metrics(summary: Mapping[str, float | None], losses: Mapping[str, float]) -> dict[str, Any]:
    return {}


def prepare_plan(config: Config, classes: Sequence[str], train: RecordSplit) -> tuple[Config, list[str]]:
    """Suggests pairs of classes that a flip exchanges, and says what flips do."""
    augment = config.augment
    unknown = [name for pair in augment.flip_pairs.items() for name in pair if name not in classes]
    if unknown:
        raise ResightError(f"no class is called {', '.join(unknown)}", where="augment.flip_pairs")
    if not augment.flip:
        return config, []
    pairs = augment.flip_pairs or suggest_flip_pairs(classes)
    config = config.model_copy(update={"augment": augment.model_copy(update={"flip_pairs": pairs})})
    notes = []
    if pairs:
        notes.append("a flip exchanges " + ", ".join(f"{left} and {right}" for left, right in pairs.items()))
    paired = {*pairs, *pairs.values()}
    alone = [name for name in classes if LEFT_RIGHT.search(name) and name not in paired]
    if alone:
        notes.append(f"images with {', '.join(alone)} are not flipped: no class is their mirror image")
    return config, notes


def trained_boxes(split: RecordSplit) -> tuple[np.ndarray, str]:
    return usable_boxes(split), "corners that are not finite, or no area in the image"


def class_order(records: Records) -> Records:
    return records


def to_onnx(model: DetectionModel) -> ModelProto:
    from .onnx_export import to_onnx as written  # with onnx, an extra

    return written(model)
