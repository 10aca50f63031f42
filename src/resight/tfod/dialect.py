"""TFOD's dialect, as :class:`resight.dialect.Dialect` describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..config.tree import Config, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.model import DetectionModel
from ..errors import listed
from ..input.augment import LEFT_RIGHT, Sample
from ..input.dataset import Transform, finite_boxes
from ..records.example import Record
from ..records.reader import Records, RecordSplit
from .boxes import tfod_boxes
from .build import build_tfod
from .build import check_name as check_name
from .build import default_anchors as default_anchors
from .build import level_strides as level_strides
from .config import TfodModelConfig
from .faster_rcnn import TfodRCNN
from .input import TfodTransform, boxes_beyond, to_sample
from .metrics import as_tfod
from .parity import compare_stages as compare_stages

if TYPE_CHECKING:
    from onnx import ModelProto

evaluates_losses = True
export_formats = ("onnx", "savedmodel")
evaluation_cost = 1.0  # the losses are taken too
input_dtype = torch.float32
pads_batches = False
publishes_weights = False
size_remedy = ""
left_out = "beyond model.tfod.evaluated_boxes of an image or "


def build(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None) -> TfodRCNN:
    return build_tfod(config, num_classes)


def fits_anchors(config: ModelConfig) -> bool:
    return config.anchors == "fit" and config.start in ("none", "pretrained")


def stronger_start(config: ModelConfig) -> str:
    return ""


def transform(config: Config, classes: Sequence[str]) -> Transform:
    return TfodTransform(config)


def ground_truth(record: Record, labels: np.ndarray, model: ModelConfig, where: str) -> tuple[Record, np.ndarray]:
    assert isinstance(model, TfodModelConfig)
    return tfod_boxes(record, labels, model.tfod.evaluated_boxes, where)


def loss_sample(record: Record, labels: np.ndarray, image: np.ndarray, model: ModelConfig) -> Sample:
    return to_sample(*ground_truth(record, labels, model, ""), image)


def own_metrics(summary: Mapping[str, float | None], losses: Mapping[str, float]) -> dict[str, Any]:
    return {"tfod": as_tfod(summary, losses)}


def prepare_plan(config: Config, classes: Sequence[str], train: RecordSplit) -> tuple[Config, list[str]]:
    """Says what this dialect does as TFOD does, and somebody may not expect."""
    assert isinstance(config.model, TfodModelConfig)
    notes, limit = [], config.model.tfod.max_boxes
    if beyond := boxes_beyond(train, limit):
        notes.append(f"{beyond:,} boxes are cut off, beyond the first {limit:,} of their images (model.tfod.max_boxes)")
    handed = [name for name in classes if LEFT_RIGHT.search(name)]
    operations = config.augment.operations or ()
    if handed and any(operation.name == "random_horizontal_flip" for operation in operations):
        notes.append(f"random_horizontal_flip mirrors {listed(handed)} too, which keep their class, as in TFOD")
    return config, notes


def trained_boxes(split: RecordSplit) -> tuple[np.ndarray, str]:
    return finite_boxes(split), "corners that are not finite"


def class_order(records: Records) -> Records:
    return records.by_id()


def to_onnx(model: DetectionModel) -> ModelProto:
    from .onnx_export import to_onnx as written  # with onnx, an extra

    return written(model)
