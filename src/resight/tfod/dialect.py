"""TFOD's dialect, as :class:`resight.dialect.Dialect` describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..config.tree import Config, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.boxes import Instances, area, clip, rescale
from ..detection.model import DetectionModel
from ..detection.parity import Parity, Stages, nms_faults
from ..errors import ResightError, listed
from ..input.augment import LEFT_RIGHT
from ..input.dataset import Transform, finite_boxes
from ..records.example import Record
from ..records.reader import RecordSplit
from . import parts
from .config import TfodModelConfig
from .faster_rcnn import TfodRCNN
from .input import TfodTransform, boxes_beyond, tfod_boxes
from .input import to_sample as to_sample
from .metrics import as_tfod
from .specs import SPECS

if TYPE_CHECKING:
    from onnx import ModelProto

classes_by_id = True
evaluates_losses = True
export_formats: tuple[str, ...] = ("onnx", "savedmodel")
input_dtype = torch.float32
left_out = "beyond model.tfod.evaluated_boxes per image or "
pads_batches = False
publishes_weights = False
size_remedy = ""
stronger_models: dict[str, str] = {}


def check_name(name: str) -> None:
    if name not in SPECS:
        raise ResightError(f"unknown model '{name}'", where="model.name", fix=f"There are {listed(SPECS)}.")


def build(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> TfodRCNN:
    return TfodRCNN(config, num_classes).to(memory_format=torch.channels_last).train()


def default_anchors(config: ModelConfig) -> AnchorSettings:
    return parts.anchor_settings(config.tfod)


def level_strides(config: ModelConfig) -> list[int]:
    return [SPECS[config.name].stride]


def fits_anchors(config: ModelConfig) -> bool:
    return config.anchors == "fit" and config.start in ("none", "pretrained")


def transform(config: Config, classes: Sequence[str]) -> Transform:
    return TfodTransform(config)


def ground_truth(record: Record, labels: np.ndarray, model: ModelConfig, where: str) -> tuple[Record, np.ndarray]:
    assert isinstance(model, TfodModelConfig)
    return tfod_boxes(record, labels, model.tfod.evaluated_boxes, where)


own_metrics = as_tfod


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


def to_onnx(model: DetectionModel) -> ModelProto:
    from .onnx_export import TfodGraph  # with onnx, an extra

    assert isinstance(model, TfodRCNN)
    return TfodGraph(model).build()


def compare_stages(parity: Parity, model: DetectionModel, pixels: Tensor, stages: Stages) -> Instances:
    assert isinstance(model, TfodRCNN)
    tfod = model.tfod
    small = model.resize(pixels)
    true_size, (height, width) = (small.shape[1], small.shape[2]), pixels.shape[1:]
    batch = model.batch([small])
    size = (batch.shape[2], batch.shape[3])
    features = model.backbone(batch)
    (deltas,), (logits,) = model.rpn(features)
    their_deltas, their_logits = stages["rpn_deltas"], stages["rpn_logits"]
    score = their_logits.softmax(1)[:, 1]
    parity.scores(logits.softmax(1)[:, 1], score)
    parity.heads(logits, their_logits)
    parity.heads(deltas, their_deltas)
    box = parts.decode(their_deltas, clip(model.anchor_grid(features), *size))
    kept = stages["rpn_kept"]
    floor = float(score[kept].min()) if len(kept) == tfod.proposals else tfod.rpn_score
    parity.wrong += nms_faults(box, score, kept, tfod.rpn_nms_iou, tfod.rpn_score, floor)
    parity.ordered(score[kept])
    clipped = clip(box[kept], *true_size)
    proposals = stages["proposals"][:, [1, 0, 3, 2]]
    parity.listed(clipped[area(clipped) > 0], proposals, max(size))
    count = len(proposals)

    def classify(rois: Tensor) -> tuple[Tensor, Tensor]:
        own_deltas, own_logits = model.classify(features, [parts.padded(rois, rois[:, 0], len(rois))], size)
        return own_logits, own_deltas

    class_logits, box_deltas = stages["class_logits"][:count], stages["box_deltas"][:count]
    parity.second_stage(classify, proposals, class_logits, box_deltas)
    scores = class_logits.softmax(1)[:, 1:]
    boxes = parts.decode(box_deltas, proposals[:, None]).expand(-1, scores.shape[1], -1)
    rows, labels = stages["kept"].flatten().long(), stages["kept_labels"].flatten().long()
    for kind in range(scores.shape[1]):
        own, score = rows[labels == kind], scores[:, kind]
        full = len(own) == min(tfod.detections_per_class, tfod.proposals)
        floor = float(score[own].min()) if full else tfod.score
        parity.wrong += nms_faults(boxes[:, kind], score, own, tfod.nms_iou, tfod.score, floor)
    parity.ordered(scores[rows, labels])
    chosen = clip(boxes[rows, labels], *true_size)
    whole = torch.where(area(chosen) > 0)[0][: tfod.detections]
    rows, labels = rows[whole], labels[whole]
    return Instances(rescale(chosen[whole], true_size, (height, width)), scores[rows, labels], labels)
