"""The stages of an exported FPN model against the model's own."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..detection import box_coder
from ..detection.boxes import Instances, clip, rescale
from ..detection.model import DetectionModel
from ..detection.parity import Parity, Stages, nms_faults
from .faster_rcnn import BOX_WEIGHTS, RPN_WEIGHTS, FasterRCNN


def compare_stages(parity: Parity, model: DetectionModel, pixels: Tensor, stages: Stages) -> Instances:
    """Compares the stages of an image ``[3, H, W]``; returns what its detections must be."""
    assert isinstance(model, FasterRCNN)
    config = model.config
    before, after = config.rpn_pre_nms_top_n[1], config.rpn_post_nms_top_n[1]
    small = model.resize(pixels)
    size = (small.shape[1], small.shape[2])
    features, logits, deltas, anchors = model.features(model.batch([small]))
    boxes, scores = [], []
    for level, anchor in enumerate(anchors):
        theirs, delta = stages[f"rpn_logits{level}"][0], stages[f"rpn_deltas{level}"][0]
        parity.scores(logits[level][0].sigmoid(), theirs.sigmoid())
        parity.heads(logits[level][0], theirs)
        parity.heads(deltas[level][0], delta)
        best = stages[f"rpn_best{level}"][: len(theirs)]  # filled up where these are fewer
        parity.wrong += len(best) - len(best.unique()) + int((theirs[best] < theirs.topk(len(best)).values[-1]).sum())
        boxes.append(clip(box_coder.decode(delta[best], anchor[best], RPN_WEIGHTS), *size))
        scores.append(theirs[best].sigmoid())
    kept = stages["rpn_kept"][stages["rpn_kept"] >= 0]
    levels, places = kept // before, kept % before
    kept_scores = pad_sequence(scores)[places, levels]
    parity.ordered(kept_scores)
    floor = float(kept_scores.min()) if len(kept) == after else config.rpn_score
    for level, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        own = places[levels == level]
        parity.wrong += nms_faults(box, score, own, config.rpn_nms_iou, config.rpn_score, floor, 1e-3)
    proposals = stages["proposals"][: len(kept)]
    parity.listed(pad_sequence(boxes)[places, levels], proposals, max(size))
    class_logits, box_deltas = stages["class_logits"][: len(kept)], stages["box_deltas"][: len(kept)]
    parity.second_stage(lambda rois: model.classify(features, [rois]), proposals, class_logits, box_deltas)
    score = class_logits.softmax(1)[:, 1:]
    box = clip(box_coder.decode(box_deltas, proposals[:, None], BOX_WEIGHTS), *size)[:, 1:]
    rows, labels = stages["kept"] % len(stages["proposals"]), stages["kept"] // len(stages["proposals"])
    found = Instances(rescale(box[rows, labels], size, (pixels.shape[1], pixels.shape[2])), score[rows, labels], labels)
    floor = float(found.scores.min()) if len(rows) == config.detections else config.score
    for kind in range(score.shape[1]):
        own = rows[labels == kind]
        parity.wrong += nms_faults(box[:, kind], score[:, kind], own, config.nms_iou, config.score, floor, 1e-2)
    parity.ordered(found.scores)
    return found
