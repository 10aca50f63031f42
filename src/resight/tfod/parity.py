"""The stages of an exported model of TFOD's dialect against the model's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..detection.boxes import Instances, area, clip, rescale
from ..detection.model import DetectionModel
from ..detection.parity import Parity, Stages, nms_faults
from . import parts
from .faster_rcnn import TfodRCNN


def compare_stages(parity: Parity, model: DetectionModel, pixels: Tensor, stages: Stages) -> Instances:
    """Compares the stages of an image ``[3, H, W]``; returns what its detections must be."""
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
