"""The TFOD dialect: Faster R-CNN (Ren et al. 2015) on ResNet V1 (He et al. 2015), equal in its numbers to TFOD's.

One feature map of stride 16; the fifth stage of the ResNet, applied to each RoI, is the head of the second stage.

Shapes:
    B images of a batch, all padded to H x W; K classes without background; G objects of an image.
    The feature map is h x w with A anchors a place; N anchors of an image, N = h * w * A, fewer in training.
    P proposals of an image, always ``tfod.proposals``: those beyond ``Proposals.count`` are padding.
Names:
    logits: of background and object ``[B, N, 2]``, or of classes ``[P, K + 1]``, background first.
    deltas: ``parts.encode`` of a box beside its anchor ``[B, N, 4]``, or beside its proposal: ``[P, K, 4]``, or
        ``[P, 1, 4]`` where classes share boxes.
    size, true_size: height and width of the network's input, and of the image in it without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..config.tree import ModelConfig
from ..detection import matcher
from ..detection.anchors import AnchorSettings
from ..detection.boxes import Instances, area, clip, stable_nms
from ..detection.losses import StageLoss, stage_loss
from ..detection.model import DetectionModel
from ..detection.processes import SINGLE_PROCESS, Shared
from ..errors import ResightError
from ..input.target import Target
from . import parts
from .parts import Draw, PlainSelection, Proposals, StaticSelection, single
from .resnet_v1 import HEAD_CHANNELS, MEAN, TRUNK_CHANNELS, BoxHead, Norm, Trunk
from .specs import SPECS

RPN_WIDTH = 512


@dataclass(frozen=True)
class TfodOutputs:
    """What TFOD's exported model returns for one image: boxes yxyx in 0..1 of the image, D detections, P proposals.

    All float32 but the indices; what is beyond ``num_detections`` is 0 (classes: 1).
    """

    detection_boxes: Tensor  # [1, D, 4]
    detection_scores: Tensor  # [1, D]
    detection_classes: Tensor  # [1, D], from 1
    detection_multiclass_scores: Tensor  # [1, D, K + 1]; 0 is background
    detection_anchor_indices: Tensor  # [1, D]: which proposal
    num_detections: Tensor  # [1]
    raw_detection_boxes: Tensor  # [1, P, 4]: of each proposal, for its best class
    raw_detection_scores: Tensor  # [1, P, K + 1]


class RPN(nn.Module):
    """The region proposal network: features ``[B, C, h, w]`` -> deltas ``[B, h*w*A, 4]``, logits ``[B, h*w*A, 2]``."""

    def __init__(self, channels: int, anchors: int, stddev: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, RPN_WIDTH, 3, padding=1)
        self.box = nn.Conv2d(RPN_WIDTH, anchors * 4, 1)
        self.objectness = nn.Conv2d(RPN_WIDTH, anchors * 2, 1)
        for layer in (self.conv, self.box, self.objectness):
            nn.init.trunc_normal_(layer.weight, std=stddev, a=-2 * stddev, b=2 * stddev)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu6(self.conv(features))
        return single(_by_anchor(self.box(hidden), 4)), single(_by_anchor(self.objectness(hidden), 2))


class TfodBoxPredictor(nn.Module):
    """``[N, width]`` -> box deltas ``[N, K, 4]``, ``[N, 1, 4]`` where classes share them, and logits ``[N, K + 1]``."""

    def __init__(self, width: int, num_classes: int, share_boxes: bool) -> None:
        super().__init__()
        self.box = nn.Linear(width, 4 if share_boxes else 4 * num_classes)
        self.classes = nn.Linear(width, num_classes + 1)
        for layer in (self.box, self.classes):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.box(hidden).unflatten(1, (-1, 4)), self.classes(hidden)


class TfodRCNN(DetectionModel):
    """Takes images ``[3, H, W]`` RGB, uint8 or float, of 0..255.

    Args:
        rpn_loss, box_loss: of the first and of the second stage.
        sampler: draws the minibatches of both in training; by default as ``tfod.static_shapes`` says.
        nms: as :func:`.boxes.stable_nms`, in both stages.
    """

    class_heads: ClassVar = {"predictor.classes": True, "predictor.box": False}

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        *,
        rpn_loss: StageLoss = stage_loss,
        box_loss: StageLoss = stage_loss,
        sampler: Draw | None = None,
        nms: Callable[..., Tensor] = stable_nms,
    ) -> None:
        super().__init__()
        self.rpn_loss, self.box_loss, self.nms = rpn_loss, box_loss, nms
        blocks = SPECS[config.name].blocks
        self.config, self.tfod, self.num_classes = config, config.tfod, num_classes
        self.class_agnostic_nms = False
        self.backbone = Trunk(blocks)
        self.rpn = RPN(TRUNK_CHANNELS, parts.anchor_settings(self.tfod).per_location, self.tfod.rpn_stddev)
        self.head = BoxHead(blocks[3])
        self.predictor = TfodBoxPredictor(HEAD_CHANNELS, num_classes, self.tfod.share_boxes)
        # The exported model never has static shapes.
        self.serving = PlainSelection(nms=nms)
        static = self.tfod.static_shapes
        draw = sampler or (parts.static_draw if static else parts.balanced_draw)
        self.learning = (StaticSelection if static else PlainSelection)(draw, nms)
        self.border = parts.matmul_border if self.tfod.matmul_crop else parts.native_border

    @property
    def anchors(self) -> AnchorSettings:
        return parts.anchor_settings(self.tfod)

    def train(self, mode: bool = True) -> TfodRCNN:
        super().train(mode)
        if not self.tfod.train_norms:
            for module in self.modules():
                if isinstance(module, Norm):
                    module.eval()
        return self

    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        if iou is not None:
            self.tfod = self.tfod.model_copy(update={"nms_iou": iou})
        self.class_agnostic_nms = self.class_agnostic_nms or class_agnostic

    def detect(self, images: list[Tensor]) -> list[Instances]:
        return [self.found(self.outputs(image), image.shape[1], image.shape[2]) for image in images]

    def resize(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` of any size, uint8 or float -> float of 0..255 at the network's size, without padding."""
        return parts.tfod_resize(image, self.config.fit_size(image.shape[1], image.shape[2]))

    def batch(self, images: list[Tensor]) -> Tensor:
        """``[B, 3, H, W]``, padded right and below and the mean subtracted.

        Raises:
            ResightError: the sizes differ, and the configuration has no padding.
        """
        weight = next(self.parameters())
        sizes = {(image.shape[1], image.shape[2]) for image in images}
        height, width = next(iter(sizes))
        if self.tfod.pad and self.tfod.fixed_size is None:
            height = width = self.config.max_size
        elif len(sizes) > 1:
            fix = "Set model.tfod.pad = true, or model.tfod.fixed_size, or train.batch_size = 1."
            raise ResightError("the images of one batch differ in size", where="model.tfod.pad", fix=fix)
        values = weight.new_tensor(self.tfod.pad_value)
        batch = values.repeat(len(images), height, width, 1).permute(0, 3, 1, 2)
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image.to(weight.device)
        batch = batch - weight.new_tensor(MEAN)[:, None, None]
        return batch.contiguous() if weight.is_contiguous() else batch  # in the memory format of the weights

    def outputs(self, image: Tensor) -> TfodOutputs:
        """What TFOD's exported model returns for an image ``[3, H, W]`` of any size."""
        small = self.resize(image)
        true_size = (small.shape[1], small.shape[2])
        batch = self.batch([small])
        size = (batch.shape[2], batch.shape[3])
        features = self.backbone(batch)
        deltas, logits = self.rpn(features)
        anchors = clip(self.anchor_grid(features), *size)
        proposals = self.propose(deltas[0], logits[0], anchors, true_size, self.serving)
        deltas, logits = self.classify(features, [proposals], size)
        return self.postprocess_detections(deltas, logits, proposals, true_size)

    def anchor_grid(self, features: Tensor) -> Tensor:
        """The grid's anchors, not clipped."""
        return parts.tfod_anchors(self.tfod, (features.shape[2], features.shape[3]), features.device)

    def propose(
        self, deltas: Tensor, logits: Tensor, anchors: Tensor, true_size: tuple[int, int], selection: PlainSelection
    ) -> Proposals:
        """Proposals of one image from the RPN's answer ``[N, 4]`` and ``[N, 2]``, inside the image without padding."""
        boxes = parts.decode(deltas.detach(), anchors)
        return selection.propose(boxes, logits.detach().softmax(1)[:, 1], self.tfod, true_size)

    def classify(self, features: Tensor, proposals: list[Proposals], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Box deltas ``[N, K or 1, 4]`` and class logits ``[N, K + 1]`` of all proposals of all images."""
        tfod = self.tfod
        boxes = torch.cat([proposal.boxes for proposal in proposals])
        counts = torch.tensor([len(proposal.boxes) for proposal in proposals], device=boxes.device)
        image = torch.arange(len(proposals), device=boxes.device).repeat_interleave(counts)
        boxes = boxes * (1 / boxes.new_tensor([size[1], size[0], size[1], size[0]]))
        crops = parts.crop_and_resize(features, boxes, image, tfod.crop_size, self.border)
        if tfod.pool_size > 1 or tfod.pool_stride > 1:
            crops = F.max_pool2d(crops, tfod.pool_size, tfod.pool_stride)
        deltas, logits = self.predictor(self.head(crops))
        return single(deltas), single(logits)

    def postprocess_detections(
        self, deltas: Tensor, logits: Tensor, proposals: Proposals, true_size: tuple[int, int]
    ) -> TfodOutputs:
        """Detections of one image from the second stage's answer for its proposals."""
        tfod, count = self.tfod, proposals.count
        scores = logits.softmax(1)
        boxes = parts.decode(deltas, proposals.boxes[:, None])
        rows, labels = self._suppressed(boxes[:count], scores[:count, 1:])
        order = scores[rows, labels + 1].sort(descending=True, stable=True).indices
        rows, labels = rows[order], labels[order]
        chosen = clip(boxes[rows, labels if boxes.shape[1] > 1 else 0], *true_size)
        kept = torch.where(area(chosen) > 0)[0][: tfod.detections]
        rows, labels = rows[kept], labels[kept]
        best = scores[:, 1:].argmax(1) if boxes.shape[1] > 1 else torch.zeros_like(scores[:, 0], dtype=torch.int64)
        raw = boxes[torch.arange(len(boxes), device=boxes.device), best]

        def full(values: Tensor) -> Tensor:
            return torch.cat([values, values.new_zeros(tfod.detections - len(values), *values.shape[1:])])[None]

        return TfodOutputs(
            detection_boxes=full(_normalised(chosen[kept], true_size)),
            detection_scores=full(scores[rows, labels + 1]),
            detection_classes=full(labels.to(scores.dtype)) + 1,
            detection_multiclass_scores=full(scores[rows]),
            detection_anchor_indices=full(rows),
            num_detections=scores.new_tensor([len(rows)]),
            raw_detection_boxes=_normalised(raw, true_size).clamp(0, 1)[None],
            raw_detection_scores=scores[None],
        )

    def _suppressed(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Proposal and class, each ``[N]`` int64, of what suppression leaves, class after class."""
        tfod, kinds = self.tfod, scores.shape[1]
        of_class = boxes.expand(-1, kinds, -1)
        if self.class_agnostic_nms:
            kept = self.nms(of_class.reshape(-1, 4), scores.flatten(), tfod.detections, tfod.nms_iou, tfod.score)
            return kept // kinds, kept % kinds
        limits = tfod.detections_per_class, tfod.nms_iou, tfod.score
        rows = [self.nms(of_class[:, kind], scores[:, kind], *limits) for kind in range(kinds)]
        counts = torch.tensor([len(row) for row in rows], device=boxes.device)
        return torch.cat(rows), torch.arange(kinds, device=boxes.device).repeat_interleave(counts)

    def losses(self, images: list[Tensor], targets: list[Target], shared: Shared = SINGLE_PROCESS) -> dict[str, Tensor]:
        """The four losses, as TFOD weighs and names them; in eval mode those of its evaluation loop."""
        batch = self.batch(images)
        size = (batch.shape[2], batch.shape[3])
        features = self.backbone(batch)
        deltas, logits = self.rpn(features)
        anchors = self.anchor_grid(features)
        if self.training and not self.tfod.clip_anchors:
            kept = parts.inside(anchors, *size)
            anchors, deltas, logits = anchors[kept], deltas[:, kept], logits[:, kept]
        else:
            anchors = clip(anchors, *size)
        targets = [target.to(features.device) for target in targets]
        generators = [Generator().manual_seed(target.seed) for target in targets]
        rpn_box, objectness = self.rpn_losses(deltas, logits, anchors, targets, generators)
        proposals = [
            self.propose(delta, logit, anchors, (image.shape[1], image.shape[2]), self.learning)
            for delta, logit, image in zip(deltas, logits, images, strict=True)
        ]
        if self.training:
            proposals = [self.sample(*each) for each in zip(proposals, targets, generators, strict=True)]
        box, classes = self.box_losses(*self.classify(features, proposals, size), proposals, targets)
        part = len(images) / shared.count(len(images))
        return {
            "RPNLoss/localization_loss": part * rpn_box,
            "RPNLoss/objectness_loss": part * objectness,
            "BoxClassifierLoss/localization_loss": part * box,
            "BoxClassifierLoss/classification_loss": part * classes,
        }

    def rpn_losses(
        self, deltas: Tensor, logits: Tensor, anchors: Tensor, targets: list[Target], generators: list[Generator]
    ) -> tuple[Tensor, Tensor]:
        """Localisation and objectness loss, each divided by the number of anchors drawn, the mean of the images."""
        tfod = self.tfod
        box_losses, object_losses = [], []
        for delta, logit, target, generator in zip(deltas, logits, targets, generators, strict=True):
            matches = parts.match_anchors(parts.iou(target.boxes, anchors))
            known = matches != matcher.IGNORED
            drawn = self.learning.draw(matches >= 0, known, tfod.rpn_batch, tfod.rpn_positive, generator)
            count = drawn.sum().clamp(min=1)
            positive = torch.where(drawn & (matches >= 0))[0]
            wanted = parts.encode(target.boxes[matches[positive]], anchors[positive])
            truth = (matches[drawn] >= 0).long()
            object_loss, box_loss = self.rpn_loss(logit[drawn], truth, delta[positive], wanted)
            box_losses.append(box_loss / count)
            object_losses.append(object_loss / count)
        box, objectness = torch.stack(box_losses).mean(), torch.stack(object_losses).mean()
        return tfod.rpn_box_weight * box, tfod.rpn_object_weight * objectness

    def sample(self, proposals: Proposals, target: Target, generator: Generator) -> Proposals:
        """The minibatch of one image for the second stage."""
        tfod = self.tfod
        positive = self._match(proposals, target) >= 0
        drawn = self.learning.draw(positive, proposals.valid, tfod.box_batch, tfod.box_positive, generator)
        return self.learning.take(proposals, drawn, tfod.box_batch)

    def box_losses(
        self, deltas: Tensor, logits: Tensor, proposals: list[Proposals], targets: list[Target]
    ) -> tuple[Tensor, Tensor]:
        """Localisation and classification loss, each divided by the number of proposals, the mean of the images."""
        lengths = [len(proposal.boxes) for proposal in proposals]
        each = zip(deltas.split(lengths), logits.split(lengths), proposals, targets, strict=True)
        box_losses, class_losses = [], []
        for delta, logit, proposal, target in each:
            matches = self._match(proposal, target)
            positive = torch.where((matches >= 0) & proposal.valid)[0]
            label = torch.zeros_like(matches)
            label[positive] = target.labels[matches[positive]] + 1
            wanted = parts.encode(target.boxes[matches[positive]], proposal.boxes[positive])
            own = delta[positive, label[positive] - 1 if delta.shape[1] > 1 else 0]
            count, valid = max(proposal.count, 1), proposal.valid
            class_loss, box_loss = self.box_loss(logit[valid], label[valid], own, wanted)
            box_losses.append(box_loss / count)
            class_losses.append(class_loss / count)
        box, classes = torch.stack(box_losses).mean(), torch.stack(class_losses).mean()
        return self.tfod.box_weight * box, self.tfod.class_weight * classes

    @staticmethod
    def _match(proposals: Proposals, target: Target) -> Tensor:
        """Object of every proposal, or ``matcher.NEGATIVE``."""
        return matcher.match(parts.iou(target.boxes, proposals.boxes), 0.5, 0.5, allow_low_quality_matches=False)

    @staticmethod
    def found(outputs: TfodOutputs, height: int, width: int) -> Instances:
        """The detections in pixels of the image ``height`` x ``width`` that they were found in."""
        count = int(outputs.num_detections)
        boxes = outputs.detection_boxes[0, :count]
        boxes = boxes[:, [1, 0, 3, 2]] * boxes.new_tensor([width, height, width, height])
        return Instances(boxes, outputs.detection_scores[0, :count], outputs.detection_classes[0, :count].long() - 1)


def _by_anchor(plane: Tensor, values: int) -> Tensor:
    """``[B, A * values, h, w]`` -> ``[B, h * w * A, values]``."""
    return plane.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, values))


def _normalised(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """xyxy in pixels -> yxyx in 0..1 of ``size`` (height, width)."""
    height, width = size
    return boxes[:, [1, 0, 3, 2]] / boxes.new_tensor([height, width, height, width])
