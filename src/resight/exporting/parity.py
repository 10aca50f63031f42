"""Whether an exported graph computes what the model computes.

A detector decides: of two boxes that overlap and score alike NMS keeps one, and the last digit says which. Two correct
models may decide differently and then find different things, so their detections are not compared. Each stage is: the
model works out every number of a stage from what the exported graph had before that stage, and what NMS chose is held
against its rule, by the graph's own boxes and scores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ..detection import box_coder
from ..detection.boxes import Instances, area, clip, rescale
from ..errors import counted
from ..fpn.faster_rcnn import BOX_WEIGHTS, RPN_WEIGHTS, FasterRCNN
from ..inference.detector import Detector
from ..inference.exported import STAGE, ExportedDetector
from ..tfod import parts as tfod_parts
from ..tfod.faster_rcnn import TfodRCNN

log = logging.getLogger(__name__)

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of the score, and pixels per 100 px of the image's longer side
HEAD_TOLERANCE = 5e-4  # of a logit or box delta; where those of a head are larger than 1, of their root mean square
NEAR = 1e-6  # scores closer than this have no order
SLACK = 1e-3  # of an IoU, and pixels of a box: how far rounding may move them across a limit
AT_ONCE = 10_000  # boxes whose overlaps are worked out at a time


@dataclass(frozen=True)
class Parity:
    """How close an exported model is to its own on a set of images.

    Args:
        proposals, detections: of the exported model, compared.
        score, head, box: largest differences: of scores, of logits and box deltas in parts of their size, and of
            corners in pixels per 100 px of the image's longer side.
        wrong: boxes that the exported model kept or left out against the rule of NMS, or listed in a wrong place.
    """

    images: int
    proposals: int = 0
    detections: int = 0
    score: float = 0.0
    head: float = 0.0
    box: float = 0.0
    wrong: int = 0

    @property
    def ok(self) -> bool:
        near = self.score <= SCORE_TOLERANCE and self.head <= HEAD_TOLERANCE and self.box <= BOX_TOLERANCE
        return near and self.wrong == 0

    def text(self) -> str:
        verdict = "equal within the tolerance" if self.ok else "NOT equal within the tolerance"
        return (
            f"{self.proposals} proposals and {self.detections} detections in {self.images} images: largest difference "
            f"of a score {self.score:.1e} (tolerance {SCORE_TOLERANCE:.0e}), of a logit or box delta {self.head:.1e} "
            f"(tolerance {HEAD_TOLERANCE:.0e}), of a corner {self.box:.1e} % of the image (tolerance "
            f"{BOX_TOLERANCE:.0e}), {self.wrong} wrongly kept or left out: {verdict}"
        )


Stages = Mapping[str, Tensor]


def compare(detector: Detector, exported: ExportedDetector, images: list[np.ndarray]) -> Parity:
    """
    Args:
        exported: an export of ``detector``, loaded with its stages among its outputs.
    """
    tally = Tally()
    log.info("comparing the two in %s", counted(len(images), "image"))
    for image in images:
        found = exported.outputs(image)
        stages = {
            name.removeprefix(STAGE): torch.from_numpy(value.copy())
            for name, value in found.items()
            if name.startswith(STAGE)
        }
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        with torch.inference_mode():
            if isinstance(detector.model, TfodRCNN):
                wanted = _look_tfod(tally, detector.model, pixels, stages)
            else:
                assert isinstance(detector.model, FasterRCNN)
                wanted = _look_fpn(tally, detector.model, pixels, stages)
        listed = exported.read(found, image)
        boxes, scores, labels = (torch.from_numpy(each.copy()) for each in (listed.boxes, listed.scores, listed.labels))
        tally.detections += len(listed)
        tally.listed(wanted.boxes, boxes, max(image.shape[:2]))
        if len(labels) == len(wanted.labels):
            tally.scores(wanted.scores, scores)
            tally.wrong += int((labels != wanted.labels).sum())
    return Parity(len(images), tally.proposals, tally.detections, tally.score, tally.head, tally.box, tally.wrong)


class Tally:
    """The largest differences found so far, and how much was compared."""

    def __init__(self) -> None:
        self.proposals = self.detections = self.wrong = 0
        self.score = self.head = self.box = 0.0

    def scores(self, ours: Tensor, theirs: Tensor) -> None:
        self.score = _largest(self.score, ours - theirs)

    def heads(self, ours: Tensor, theirs: Tensor) -> None:
        self.head = _largest(self.head, (ours - theirs) / _size(ours))

    def listed(self, ours: Tensor, theirs: Tensor, side: int) -> None:
        """Boxes ``[N, 4]`` that must be the same in the same order, of an image of ``side`` pixels."""
        self.wrong += abs(len(ours) - len(theirs))
        both = min(len(ours), len(theirs))
        self.box = _largest(self.box, (ours[:both] - theirs[:both]) / side * 100)

    def ordered(self, scores: Tensor) -> None:
        self.wrong += int((scores.diff() > NEAR).sum())

    def second_stage(
        self, classify: Callable[[Tensor], tuple[Tensor, Tensor]], proposals: Tensor, logits: Tensor, deltas: Tensor
    ) -> None:
        """What the graph answered for ``proposals`` ``[N, 4]`` against ``classify`` of them.

        A sample that lies on the border of the feature map counts or not by the last digit, so where the answers
        differ the model is asked again with the far corner a hair further in or out.
        """
        self.proposals += len(proposals)
        if not len(proposals):
            return
        own_logits, own_deltas = classify(proposals)

        def apart(rows: Tensor, own_logits: Tensor, own_deltas: Tensor) -> Tensor:
            score = (own_logits.softmax(1) - logits[rows].softmax(1)).abs().amax(1) / SCORE_TOLERANCE
            logit = (own_logits - logits[rows]).abs().amax(1) / _size(logits) / HEAD_TOLERANCE
            delta = (own_deltas - deltas[rows]).abs().flatten(1).amax(1) / _size(deltas) / HEAD_TOLERANCE
            return torch.stack([score, logit, delta]).amax(0)

        rows = torch.where(~(apart(torch.arange(len(proposals)), own_logits, own_deltas) <= 1))[0]
        for x, y in product((-SLACK, SLACK), repeat=2) if len(rows) else ():
            again = classify(proposals[rows] + proposals.new_tensor([0, 0, x, y]))
            better = apart(rows, *again) < apart(rows, own_logits[rows], own_deltas[rows])
            own_logits[rows[better]], own_deltas[rows[better]] = again[0][better], again[1][better]
        self.scores(own_logits.softmax(1), logits.softmax(1))
        self.heads(own_logits, logits)
        self.heads(own_deltas, deltas)


def _look_fpn(tally: Tally, model: FasterRCNN, pixels: Tensor, stages: Stages) -> Instances:
    """Compares the stages of an image ``[3, H, W]``; what its detections must be."""
    config = model.config
    before, after = config.rpn_pre_nms_top_n[1], config.rpn_post_nms_top_n[1]
    small = model.resize(pixels)
    size = (small.shape[1], small.shape[2])
    features, logits, deltas, anchors = model.features(model.batch([small]))
    boxes, scores = [], []
    for level, anchor in enumerate(anchors):
        theirs, delta = stages[f"rpn_logits{level}"][0], stages[f"rpn_deltas{level}"][0]
        tally.scores(logits[level][0].sigmoid(), theirs.sigmoid())
        tally.heads(logits[level][0], theirs)
        tally.heads(deltas[level][0], delta)
        best = stages[f"rpn_best{level}"][: len(theirs)]  # filled up where these are fewer
        tally.wrong += len(best) - len(best.unique()) + int((theirs[best] < theirs.topk(len(best)).values[-1]).sum())
        boxes.append(clip(box_coder.decode(delta[best], anchor[best], RPN_WEIGHTS), *size))
        scores.append(theirs[best].sigmoid())
    kept = stages["rpn_kept"][stages["rpn_kept"] >= 0]
    levels, places = kept // before, kept % before
    kept_scores = torch.nn.utils.rnn.pad_sequence(scores)[places, levels]
    tally.ordered(kept_scores)
    floor = float(kept_scores.min()) if len(kept) == after else config.rpn_score
    for level, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        own = places[levels == level]
        tally.wrong += nms_faults(box, score, own, config.rpn_nms_iou, config.rpn_score, floor, 1e-3)
    proposals = stages["proposals"][: len(kept)]
    tally.listed(torch.nn.utils.rnn.pad_sequence(boxes)[places, levels], proposals, max(size))
    class_logits, box_deltas = stages["class_logits"][: len(kept)], stages["box_deltas"][: len(kept)]
    tally.second_stage(lambda rois: model.classify(features, [rois]), proposals, class_logits, box_deltas)
    score = class_logits.softmax(1)[:, 1:]
    box = clip(box_coder.decode(box_deltas, proposals[:, None], BOX_WEIGHTS), *size)[:, 1:]
    rows, labels = stages["kept"] % len(stages["proposals"]), stages["kept"] // len(stages["proposals"])
    found = Instances(rescale(box[rows, labels], size, (pixels.shape[1], pixels.shape[2])), score[rows, labels], labels)
    floor = float(found.scores.min()) if len(rows) == config.detections else config.score
    for kind in range(score.shape[1]):
        own = rows[labels == kind]
        tally.wrong += nms_faults(box[:, kind], score[:, kind], own, config.nms_iou, config.score, floor, 1e-2)
    tally.ordered(found.scores)
    return found


def _look_tfod(tally: Tally, model: TfodRCNN, pixels: Tensor, stages: Stages) -> Instances:
    """Compares the stages of an image ``[3, H, W]``; what its detections must be."""
    tfod = model.tfod
    small = model.resize(pixels)
    true_size, (height, width) = (small.shape[1], small.shape[2]), pixels.shape[1:]
    batch = model.batch([small])
    size = (batch.shape[2], batch.shape[3])
    features = model.backbone(batch)
    (deltas,), (logits,) = model.rpn(features)
    their_deltas, their_logits = stages["rpn_deltas"], stages["rpn_logits"]
    score = their_logits.softmax(1)[:, 1]
    tally.scores(logits.softmax(1)[:, 1], score)
    tally.heads(logits, their_logits)
    tally.heads(deltas, their_deltas)
    box = tfod_parts.decode(their_deltas, clip(model.anchor_grid(features), *size))
    kept = stages["rpn_kept"]
    floor = float(score[kept].min()) if len(kept) == tfod.proposals else tfod.rpn_score
    tally.wrong += nms_faults(box, score, kept, tfod.rpn_nms_iou, tfod.rpn_score, floor)
    tally.ordered(score[kept])
    clipped = clip(box[kept], *true_size)
    proposals = stages["proposals"][:, [1, 0, 3, 2]]
    tally.listed(clipped[area(clipped) > 0], proposals, max(size))
    count = len(proposals)

    def classify(rois: Tensor) -> tuple[Tensor, Tensor]:
        own_deltas, own_logits = model.classify(features, [tfod_parts.padded(rois, rois[:, 0], len(rois))], size)
        return own_logits, own_deltas

    class_logits, box_deltas = stages["class_logits"][:count], stages["box_deltas"][:count]
    tally.second_stage(classify, proposals, class_logits, box_deltas)
    scores = class_logits.softmax(1)[:, 1:]
    boxes = tfod_parts.decode(box_deltas, proposals[:, None]).expand(-1, scores.shape[1], -1)
    rows, labels = stages["kept"].flatten().long(), stages["kept_labels"].flatten().long()
    for kind in range(scores.shape[1]):
        own, score = rows[labels == kind], scores[:, kind]
        full = len(own) == min(tfod.detections_per_class, tfod.proposals)
        floor = float(score[own].min()) if full else tfod.score
        tally.wrong += nms_faults(boxes[:, kind], score, own, tfod.nms_iou, tfod.score, floor)
    tally.ordered(scores[rows, labels])
    chosen = clip(boxes[rows, labels], *true_size)
    whole = torch.where(area(chosen) > 0)[0][: tfod.detections]
    rows, labels = rows[whole], labels[whole]
    return Instances(rescale(chosen[whole], true_size, (height, width)), scores[rows, labels], labels)


def nms_faults(
    boxes: Tensor, scores: Tensor, kept: Tensor, iou: float, least: float, floor: float, side: float = 0.0
) -> int:
    """How many of ``boxes`` ``[N, 4]`` greedy NMS cannot have kept, or not have left out.

    No two that are kept overlap by more than the limit; what is left out overlaps a kept one of its score or a better
    one. What rounding may decide either way is right both ways.

    Args:
        scores: ``[N]``.
        kept: ``[M]`` int64, which of them are.
        least: boxes take part whose score is more than this,
        side: and that are as many pixels high and wide.
        floor: ``least``, or the lowest score that was kept where there was no room for more.
    """
    extent = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    slack = SLACK + SLACK / extent.clamp(min=0)
    wrong = int(((scores[kept] < least - NEAR) | (extent[kept] < side - SLACK)).sum())
    wrong += int(
        (_overlaps(boxes[kept], boxes[kept]) > iou + torch.maximum(slack[kept], slack[kept, None])).triu(1).sum()
    )
    for part in torch.where((scores > floor + NEAR) & (extent > side + SLACK))[0].split(AT_ONCE):
        better = scores[kept, None] >= scores[part] - NEAR
        explained = better & (_overlaps(boxes[kept], boxes[part]) > iou - slack[part])
        wrong += int((~explained.any(0)).sum())
    return wrong


def _overlaps(some: Tensor, others: Tensor) -> Tensor:
    return box_iou(some, others).nan_to_num(0)  # two empty boxes


def _size(values: Tensor) -> float:
    return max(1.0, float(values.square().mean().sqrt())) if len(values) else 1.0


def _largest(so_far: float, differences: Tensor) -> float:
    """Also where one of them is NaN: then it is NaN."""
    return float(torch.cat([differences.abs().flatten(), differences.new_tensor([so_far])]).max())
