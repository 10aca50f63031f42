"""The FPN dialect: Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017).

Equal in its numbers to ``torchvision.models.detection.FasterRCNN``; parameter names are the same. It differs in what
training needs: minibatches are drawn by a generator of each image, crowd boxes are neither object nor background,
images without boxes are ordinary, BatchNorm statistics stay as they are.

Shapes:
    B images of a batch, all padded to H x W; K classes without background; G objects of an image.
    Level l of the pyramid is h_l x w_l with A anchors a place, N_l = h_l * w_l * A; N anchors on all levels.
    P proposals of an image, at most ``rpn_post_nms_top_n``.
Names:
    logits: objectness before the sigmoid ``[B, N_l]`` a level, or of classes ``[P, K + 1]``, background first.
    deltas: ``box_coder.encode`` of a box beside its anchor ``[B, N_l, 4]`` a level, or its proposal ``[P, K + 1, 4]``.
    size: height and width of an image at the network, without padding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision.ops import batched_nms, box_iou

from ..detection import box_coder, matcher
from ..detection.anchors import AnchorSettings, grid_anchors
from ..detection.boxes import Instances, big_enough, clip, rescale
from ..detection.losses import StageLoss, stage_loss
from ..detection.matcher import Sampler, balanced_sample
from ..detection.model import DetectionModel
from ..detection.processes import SINGLE_PROCESS, Shared
from ..detection.roi_align import pool
from ..input.target import Target
from .backbones import Backbone
from .config import fit_size

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
POOL_SIZE = 7

fpn_loss = partial(stage_loss, beta=1 / 9)
Seeded = list[tuple[Target, Generator]]  # of each image, with what draws its minibatches


@dataclass(frozen=True)
class RCNNConfig:
    """Input, anchors, counts and thresholds; the defaults are torchvision's. Mean and std are of RGB in 0..1."""

    min_size: int
    max_size: int
    anchors: AnchorSettings
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    multiple: int = 32
    antialias: bool = False  # shrink as torchvision does, or with a filter as wide as the step
    rpn_pre_nms_top_n: tuple[int, int] = (2000, 1000)  # proposals a level: training, inference
    rpn_post_nms_top_n: tuple[int, int] = (2000, 1000)  # proposals per image
    rpn_nms_iou: float = 0.7
    rpn_score: float = 0.0
    rpn_batch: int = 256
    rpn_positive: float = 0.5
    box_batch: int = 512
    box_positive: float = 0.25
    score: float = 0.05
    nms_iou: float = 0.5
    class_agnostic_nms: bool = False
    detections: int = 100


class FasterRCNN(DetectionModel):
    """Takes images ``[3, H, W]`` RGB, uint8 or float in 0..1.

    Args:
        backbone: ``[B, 3, H, W]`` -> list of ``[B, C, H, W]``, finest level first; the RoIs are pooled from those
            whose strides are ``backbone.pooled_strides``.
        rpn, roi_heads: "head" of the first stage, "box_head" and "box_predictor" of the second.
        rpn_loss, box_loss: of the first and of the second stage.
        sampler: draws the minibatches of both.
        nms: boxes ``[N, 4]``, scores ``[N]``, groups ``[N]`` and the IoU -> indices of what is kept, best first.
    """

    class_heads: ClassVar = {"roi_heads.box_predictor.cls_score": True, "roi_heads.box_predictor.bbox_pred": True}

    def __init__(
        self,
        backbone: Backbone,
        rpn: nn.ModuleDict,
        roi_heads: nn.ModuleDict,
        config: RCNNConfig,
        *,
        rpn_loss: StageLoss = fpn_loss,
        box_loss: StageLoss = fpn_loss,
        sampler: Sampler = balanced_sample,
        nms: Callable[[Tensor, Tensor, Tensor, float], Tensor] = batched_nms,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads, self.config = backbone, rpn, roi_heads, config
        self.rpn_loss, self.box_loss, self.sampler, self.nms = rpn_loss, box_loss, sampler, nms

    @property
    def anchors(self) -> AnchorSettings:
        return self.config.anchors

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()  # it normalises with its stored statistics
        return self

    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        iou = self.config.nms_iou if iou is None else iou
        class_agnostic = class_agnostic or self.config.class_agnostic_nms
        self.config = replace(self.config, nms_iou=iou, class_agnostic_nms=class_agnostic)

    def resize(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` of any size, uint8 or float -> float in 0..1 at the network's size (bilinear, half-pixel)."""
        image = as_float(image)
        size = fit_size(image.shape[1], image.shape[2], self.config.min_size, self.config.max_size)
        filtered = self.config.antialias
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=filtered)[0]

    def batch(self, images: list[Tensor], shared: Shared = SINGLE_PROCESS) -> Tensor:
        """Normalised and padded with zeros right and below: ``[B, 3, H, W]`` float32, sides a multiple of 32."""
        multiple = self.config.multiple
        height = -(-max(image.shape[1] for image in images) // multiple) * multiple
        width = -(-max(image.shape[2] for image in images) // multiple) * multiple
        height, width = shared.largest(height, width)
        weight = next(self.parameters())
        batch = torch.zeros(len(images), height, width, 3, device=weight.device, dtype=weight.dtype).permute(0, 3, 1, 2)
        mean = torch.tensor(self.config.mean, device=weight.device, dtype=weight.dtype)[:, None, None]
        std = torch.tensor(self.config.std, device=weight.device, dtype=weight.dtype)[:, None, None]
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = (as_float(image.to(weight.device)) - mean) / std
        return batch.contiguous() if weight.is_contiguous() else batch  # in the memory format of the weights

    def features(self, batch: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Features, objectness logits, box deltas and anchors of each level."""
        features = self.backbone(batch)
        logits, deltas = self.rpn["head"](features)
        anchors = []
        for level, feature in enumerate(features):
            grid = (feature.shape[2], feature.shape[3])
            stride = (batch.shape[2] // grid[0], batch.shape[3] // grid[1])
            anchors.append(grid_anchors(self.config.anchors.cell_anchors(level).to(batch.device), grid, stride))
        return features, logits, deltas, anchors

    def detect(self, images: list[Tensor]) -> list[Instances]:
        small = [self.resize(image) for image in images]
        features, logits, deltas, anchors = self.features(self.batch(small))
        sizes = [(image.shape[1], image.shape[2]) for image in small]
        proposals = self.propose(logits, deltas, anchors, sizes, training=False)
        scores, boxes = self.classify(features, proposals)
        counts = [len(boxes) for boxes in proposals]
        found = [
            self.postprocess_detections(s.softmax(-1), box_coder.decode(b, p[:, None], BOX_WEIGHTS), size)
            for s, b, p, size in zip(scores.split(counts), boxes.split(counts), proposals, sizes, strict=True)
        ]
        return [
            Instances(rescale(one.boxes, size, (image.shape[1], image.shape[2])), one.scores, one.labels)
            for one, size, image in zip(found, sizes, images, strict=True)
        ]

    def propose(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        sizes: list[tuple[int, int]],
        training: bool,
    ) -> list[Tensor]:
        """Proposals ``[P, 4]`` xyxy of each image, best first, after the NMS of the first stage."""
        config, phase = self.config, 0 if training else 1
        before, after = config.rpn_pre_nms_top_n[phase], config.rpn_post_nms_top_n[phase]
        proposals = []
        for image, (height, width) in enumerate(sizes):
            boxes, scores, levels = [], [], []
            for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
                best, index = logit[image].detach().topk(min(before, logit.shape[1]))
                boxes.append(box_coder.decode(delta[image].detach()[index], anchor[index], RPN_WEIGHTS))
                scores.append(best.sigmoid())
                levels.append(torch.full_like(index, level))
            box, score, lvl = clip(torch.cat(boxes), height, width), torch.cat(scores), torch.cat(levels)
            keep = big_enough(box, 1e-3) & (score >= config.rpn_score)
            box, score, lvl = box[keep], score[keep], lvl[keep]
            proposals.append(box[self.nms(box, score, lvl, config.rpn_nms_iou)[:after]])
        return proposals

    def classify(self, features: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits ``[N, K + 1]`` and box deltas ``[N, K + 1, 4]`` of all boxes of all images."""
        image = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)])
        strides = self.backbone.pooled_strides
        rois = pool(features[: len(strides)], strides, torch.cat(boxes), image, POOL_SIZE)
        return self.roi_heads["box_predictor"](self.roi_heads["box_head"](rois))

    def postprocess_detections(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> Instances:
        """The detections of one image from class scores ``[P, K + 1]`` and boxes ``[P, K + 1, 4]``: the last NMS."""
        config = self.config
        boxes = clip(boxes, *size)[:, 1:].reshape(-1, 4)
        labels = torch.arange(scores.shape[1] - 1, device=scores.device).expand(len(scores), -1).reshape(-1)
        scores = scores[:, 1:].reshape(-1)
        keep = (scores > config.score) & big_enough(boxes, 1e-2)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        groups = torch.zeros_like(labels) if config.class_agnostic_nms else labels
        keep = self.nms(boxes, scores, groups, config.nms_iou)[: config.detections]
        return Instances(boxes[keep], scores[keep], labels[keep])

    def losses(self, images: list[Tensor], targets: list[Target], shared: Shared = SINGLE_PROCESS) -> dict[str, Tensor]:
        """The four losses of Faster R-CNN, as torchvision computes and names them."""
        features, logits, deltas, anchors = self.features(self.batch(images, shared))
        targets = [target.to(features[0].device) for target in targets]
        seeded = [(target, Generator().manual_seed(target.seed)) for target in targets]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        objectness, rpn_box = self._rpn_losses(
            torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), seeded, shared
        )
        proposals = self.propose(logits, deltas, anchors, sizes, training=True)
        classifier, box = self._box_losses(features, proposals, seeded, shared)
        return {
            "loss_objectness": objectness,
            "loss_rpn_box_reg": rpn_box,
            "loss_classifier": classifier,
            "loss_box_reg": box,
        }

    def _rpn_losses(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, seeded: Seeded, shared: Shared
    ) -> tuple[Tensor, Tensor]:
        config, count = self.config, 0.0
        objectness_loss = box_loss = logits.new_zeros(())
        for logit, delta, (target, generator) in zip(logits, deltas, seeded, strict=True):
            objects = target.boxes[~target.crowd]
            matches = matcher.match(box_iou(objects, anchors), 0.7, 0.3, allow_low_quality_matches=True)
            matches = matcher.ignore_crowd(matches, anchors, target.boxes[target.crowd])
            positive, negative = self.sampler(matches, config.rpn_batch, config.rpn_positive, generator)
            chosen = logit[torch.cat([positive, negative])]
            truth = (torch.arange(len(chosen), device=chosen.device) < len(positive)).to(chosen.dtype)
            wanted = box_coder.encode(objects[matches[positive]], anchors[positive], RPN_WEIGHTS)
            objectness, box = self.rpn_loss(chosen, truth, delta[positive], wanted)
            objectness_loss, box_loss = objectness_loss + objectness, box_loss + box
            count += len(chosen)
        count = max(shared.count(count), 1)
        return objectness_loss / count, box_loss / count

    def _box_losses(
        self, features: list[Tensor], proposals: list[Tensor], seeded: Seeded, shared: Shared
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        boxes, labels, wanted = [], [], []
        for proposal, (target, generator) in zip(proposals, seeded, strict=True):
            objects, classes = target.boxes[~target.crowd], target.labels[~target.crowd] + 1
            # True boxes are proposals too: without them the second stage would see few positives at first.
            proposal = torch.cat([proposal, objects])
            matches = matcher.match(box_iou(objects, proposal), 0.5, 0.5, allow_low_quality_matches=False)
            matches = matcher.ignore_crowd(matches, proposal, target.boxes[target.crowd])
            positive, negative = self.sampler(matches, config.box_batch, config.box_positive, generator)
            boxes.append(torch.cat([proposal[positive], proposal[negative]]))
            labels.append(torch.cat([classes[matches[positive]], classes.new_zeros(len(negative))]))
            wanted.append(box_coder.encode(objects[matches[positive]], proposal[positive], BOX_WEIGHTS))
        label = torch.cat(labels)
        scores, deltas = self.classify(features, boxes)
        positives = torch.where(label > 0)[0]
        class_loss, box_loss = self.box_loss(scores, label, deltas[positives, label[positives]], torch.cat(wanted))
        count = max(shared.count(len(label)), 1)
        return class_loss / count, box_loss / count


def as_float(image: Tensor) -> Tensor:
    return image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image
