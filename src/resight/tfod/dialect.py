"""TFOD's dialect, as :class:`resight.dialect.Dialect` describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
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
from ..input.augment import LEFT_RIGHT, Sample, Unresized
from ..input.dataset import Transform, finite_boxes
from ..input.sampler import SampleKey
from ..random_streams import torch_stream
from ..records.example import Record, on_image
from ..records.reader import RecordSplit
from . import parts
from .config import TfodModelConfig
from .faster_rcnn import TfodRCNN
from .metrics import as_tfod
from .network_input import NetworkInput
from .operations import COLORS, apply_operations
from .resnet_v1 import MEAN
from .specs import SPECS

if TYPE_CHECKING:
    from onnx import ModelProto

bfloat16 = False
classes_by_id = True
evaluates_losses = True
export_formats: tuple[str, ...] = ("onnx", "openvino", "savedmodel")
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
    return False  # they are model.tfod's


def transform(config: Config, classes: Sequence[str], resized: bool = True) -> Transform:
    return partial(network_input, config, resized=resized)


def network_input(
    config: Config,
    record: Record,
    labels: np.ndarray,
    image: np.ndarray,
    key: SampleKey,
    where: str,
    *,
    resized: bool = True,
) -> Sample:
    """What TFOD gives the network: all operations, its resizing, and the first ``max_boxes`` of the boxes; the image
    ``[3, H, W]`` is float32 0..255. If it need not be ``resized`` it stays as it is where that is less to hand over."""
    assert isinstance(config.model, TfodModelConfig)
    generator = torch_stream(config.train.seed, "augment", key.epoch, key.record, key.copy)
    sample = to_sample(*tfod_boxes(record, labels, where=where), image)
    operations = config.augment.operations or ()
    if any(operation.name in COLORS for operation in operations):
        sample = replace(sample, image=sample.image.to(torch.float32))
    sample = apply_operations(operations, sample, generator)
    height, width = sample.image.shape[1:]
    rows, columns = config.model.fit_size(height, width)
    boxes = sample.boxes * torch.tensor([columns / width, rows / height] * 2)
    most = config.model.tfod.max_boxes
    objects = boxes[:most], sample.labels[:most], sample.crowd[:most]
    if resized or sample.image.nbytes > 4 * 3 * rows * columns:  # of float32
        return Sample(parts.tfod_resize(sample.image, (rows, columns)), *objects)
    return Unresized(sample.image, *objects)


def to_sample(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The boxes stay as they are; a crowd is an object like any other."""
    boxes = on_image(record, *image.shape[:2]).boxes
    return Sample.of(image, boxes, labels, np.zeros(len(boxes), bool))


def ground_truth(record: Record, labels: np.ndarray, model: ModelConfig, where: str) -> tuple[Record, np.ndarray]:
    assert isinstance(model, TfodModelConfig)
    return tfod_boxes(record, labels, model.tfod.evaluated_boxes, where)


def tfod_boxes(
    record: Record, labels: np.ndarray, limit: int | None = None, where: str = ""
) -> tuple[Record, np.ndarray]:
    """The record with the boxes that TFOD takes, and their class indices.

    Boxes of unknown classes and with a NaN are left out, then all beyond the first ``limit``. What remains passes as it
    is, also without area or outside the image. An area that the record states does not count: it is the box's own.

    Args:
        labels: ``[N]`` int64; -1 is no known class.

    Raises:
        ResightError: a box ends before it begins.
    """
    kept = np.flatnonzero((labels >= 0) & np.isfinite(record.boxes).all(1))
    boxes = record.boxes[kept]
    if turned := kept[(boxes[:, 2:] < boxes[:, :2]).any(1)].tolist():
        shown = listed((f"{number + 1} {record.boxes[number].tolist()}" for number in turned), 3)
        message = f"a box ends before it begins (x1, y1, x2, y2 in pixels): box {shown}"
        fix = "Fix the records; `resight data check` lists all of them."
        raise ResightError(message, where=where or record.filename, fix=fix)
    kept = kept[:limit]
    columns = {name: getattr(record, name)[kept] for name in ("boxes", "label_ids", "difficult", "crowd", "occluded")}
    texts = tuple(record.label_texts[number] for number in kept)
    own = np.full(len(kept), np.nan, np.float32)
    return replace(record, label_texts=texts, area=own, **columns), labels[kept]


own_metrics = as_tfod


def prepare_plan(config: Config, classes: Sequence[str], train: RecordSplit) -> tuple[Config, list[str]]:
    """Says what this dialect does as TFOD does, and somebody may not expect."""
    assert isinstance(config.model, TfodModelConfig)
    notes, limit = [], config.model.tfod.max_boxes
    if config.model.anchors == "fit":
        notes.append('model.anchors = "fit" has no effect: the anchors are model.tfod.anchor_scales and anchor_ratios')
    if beyond := np.maximum(np.bincount(train.box_records[train.box_labels >= 0]) - limit, 0).sum():
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


def to_body(model: DetectionModel) -> ModelProto:
    from .onnx_export import TfodGraph

    assert isinstance(model, TfodRCNN)
    return TfodGraph(model).body()


def exported_input(model: DetectionModel) -> NetworkInput:
    assert isinstance(model, TfodRCNN)
    config, tfod = model.config, model.tfod
    return NetworkInput(
        min_size=config.min_size,
        max_size=config.max_size,
        fixed_size=tfod.fixed_size,
        mean=MEAN,
        pad_value=tfod.pad_value if tfod.pad and not tfod.fixed_size else None,
    )


def proposal_counts(model: DetectionModel) -> tuple[int | None, int]:
    assert isinstance(model, TfodRCNN)
    return None, model.tfod.proposals


def limit_proposals(model: DetectionModel, before: int | None, after: int) -> ModelConfig:
    assert isinstance(model, TfodRCNN)
    model.tfod = model.tfod.model_copy(update={"proposals": after})
    model.config = model.config.model_copy(update={"tfod": model.tfod})
    return model.config


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
        (own_deltas,), (own_logits,) = model.classify(features, rois[None], size)
        return own_logits, own_deltas

    class_logits, box_deltas = stages["class_logits"][:count], stages["box_deltas"][:count]
    parity.proposals += count
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
