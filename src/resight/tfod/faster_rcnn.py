"""The TFOD dialect: Faster R-CNN (Ren et al. 2015) on ResNet V1 (He et al. 2015), equal in its numbers to TFOD's.

One feature map of stride 16; the fifth stage of the ResNet, applied to each RoI, is the head of the second stage.

Shapes:
    B images of a batch, all padded to H x W; K classes without background; G objects of an image.
    The feature map is h x w with A anchors a place; N anchors of an image, N = h * w * A, fewer in training.
    P proposals of an image, always ``tfod.proposals``, or ``tfod.box_batch`` of them: those beyond ``Proposals.count``
    are padding.
Names:
    logits: of background and object ``[B, N, 2]``, or of classes ``[B, P, K + 1]``, background first.
    deltas: ``parts.encode`` of a box beside its anchor ``[B, N, 4]``, or beside its proposal: ``[B, P, K, 4]``, or
        ``[B, P, 1, 4]`` where classes share boxes.
    size: height and width of the network's input.
    windows: ``windows_of`` the images in it without padding ``[B, 4]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..config.tree import ModelConfig
from ..detection import matcher
from ..detection.anchors import AnchorSettings, grid_anchors
from ..detection.boxes import Instances, area, at_rows, clip, front, grouped_nms, rescale, windows_of, within
from ..detection.losses import StageLoss, stage_loss
from ..detection.model import DetectionModel
from ..detection.processes import SINGLE_PROCESS, Shared
from ..detection.transfers import in_one_copy, sent
from ..errors import ResightError
from ..input.target import Target
from . import parts
from .parts import Draw, PlainSelection, Proposals, StaticSelection, single
from .resnet_v1 import HEAD_CHANNELS, MEAN, TRUNK_CHANNELS, BoxHead, Norm, Trunk
from .specs import SPECS

RPN_WIDTH = 512


@dataclass(frozen=True)
class TfodOutputs:
    """What TFOD's exported model returns for B images: boxes yxyx in 0..1 of the image, D detections, P proposals.

    All float32 but the indices; what is beyond ``num_detections`` is 0 (classes: 1).
    """

    detection_boxes: Tensor  # [B, D, 4]
    detection_scores: Tensor  # [B, D]
    detection_classes: Tensor  # [B, D], from 1
    detection_multiclass_scores: Tensor  # [B, D, K + 1]; 0 is background
    detection_anchor_indices: Tensor  # [B, D]: which proposal
    num_detections: Tensor  # [B]
    raw_detection_boxes: Tensor  # [B, P, 4]: of each proposal, for its best class
    raw_detection_scores: Tensor  # [B, P, K + 1]


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
        nms: as :func:`.boxes.grouped_nms`, in both stages: of images in the first, of their classes in the second.
    """

    mean: Tensor  # [3]
    fill: Tensor  # [3], of the padding
    cells: Tensor  # [A, 4], the anchors of the first place

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        *,
        rpn_loss: StageLoss = stage_loss,
        box_loss: StageLoss = stage_loss,
        sampler: Draw | None = None,
        nms: Callable[..., Tensor] = grouped_nms,
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
        for name, value in (("mean", torch.tensor(MEAN, device="cpu")), ("cells", parts.cell_anchors(self.tfod))):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("fill", torch.tensor(self.tfod.pad_value, device="cpu"), persistent=False)
        self.border = parts.matmul_border if self.tfod.matmul_crop else parts.native_border

    @property
    def class_heads(self) -> dict[str, bool]:
        return {"predictor.classes": True, "predictor.box": False}

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
        small = [self.resize(image) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        if self._padded or len({image.shape for image in small}) == 1:
            return self.found(self._outputs(small), sizes)
        return [
            found for one, size in zip(small, sizes, strict=True) for found in self.found(self._outputs([one]), [size])
        ]

    @property
    def _padded(self) -> bool:
        return self.tfod.pad and self.tfod.fixed_size is None

    def resize(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` of any size, uint8 or float -> float of 0..255 at the network's size, without padding."""
        return parts.tfod_resize(image, self.config.fit_size(image.shape[1], image.shape[2]))

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        return (self.config.max_size,) * 2 if self._padded else self.config.fit_size(height, width)

    def batch(self, images: list[Tensor]) -> Tensor:
        """``[B, 3, H, W]``, padded right and below and the mean subtracted.

        Raises:
            ResightError: the sizes differ, and the configuration has no padding.
        """
        weight = next(self.parameters())
        sizes = {(image.shape[1], image.shape[2]) for image in images}
        height, width = next(iter(sizes))
        if self._padded:
            height = width = self.config.max_size
        elif len(sizes) > 1:
            fix = "Set model.tfod.pad = true, or model.tfod.fixed_size, or train.batch_size = 1."
            raise ResightError("the images of one batch differ in size", where="model.tfod.pad", fix=fix)
        batch = self.fill.to(weight.dtype).repeat(len(images), height, width, 1).permute(0, 3, 1, 2)
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image.to(weight.device)
        batch = batch - self.mean.to(weight.dtype)[:, None, None]
        return batch.contiguous() if weight.is_contiguous() else batch  # in the memory format of the weights

    def outputs(self, image: Tensor) -> TfodOutputs:
        """What TFOD's exported model returns for an image ``[3, H, W]`` of any size."""
        return self._outputs([self.resize(image)])

    def _outputs(self, small: list[Tensor]) -> TfodOutputs:
        """The same for images that make a batch."""
        batch = self.batch(small)
        windows = sent(windows_of(small), batch.device)
        features, proposals = self._proposed(batch, windows)
        deltas, logits = self.classify(features, proposals.boxes, (batch.shape[2], batch.shape[3]))
        return self.postprocess_detections(deltas, logits, proposals, windows)

    def _proposed(self, batch: Tensor, windows: Tensor) -> tuple[Tensor, Proposals]:
        """Features of a batch, and what the first stage proposes."""
        features = self.backbone(batch)
        deltas, logits = self.rpn(features)
        anchors = clip(self.anchor_grid(features), batch.shape[2], batch.shape[3])
        return features, self.propose(deltas, logits, anchors, windows, self.serving)

    def proposals(self, image: Tensor) -> Tensor:
        small = self.resize(image)
        batch = self.batch([small])
        _, found = self._proposed(batch, sent(windows_of([small]), batch.device))
        return rescale(found.boxes[found.valid], (small.shape[1], small.shape[2]), (image.shape[1], image.shape[2]))

    def anchor_grid(self, features: Tensor) -> Tensor:
        """The grid's anchors ``[N, 4]`` float32, y slowest, then x; not clipped."""
        return grid_anchors(self.cells, (features.shape[2], features.shape[3]), self.tfod.anchor_stride)

    def propose(
        self, deltas: Tensor, logits: Tensor, anchors: Tensor, windows: Tensor, selection: PlainSelection
    ) -> Proposals:
        """Proposals from the RPN's answer, inside the images without padding."""
        boxes = parts.decode(deltas.detach(), anchors)
        return selection.propose(boxes, logits.detach().softmax(2)[..., 1], self.tfod, windows)

    def classify(self, features: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Box deltas and class logits of proposals ``[B, P, 4]``."""
        tfod = self.tfod
        image = torch.arange(len(boxes), device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
        factors = (1 / torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype)).tolist()
        boxes = torch.stack([side * factor for side, factor in zip(boxes.unbind(2), factors, strict=True)], 2)
        crops = parts.crop_and_resize(features, boxes.flatten(0, 1), image, tfod.crop_size, self.border)
        if tfod.pool_size > 1 or tfod.pool_stride > 1:
            crops = F.max_pool2d(crops, tfod.pool_size, tfod.pool_stride)
        deltas, logits = self.predictor(self.head(crops))
        both = len(features), -1
        return single(deltas).unflatten(0, both), single(logits).unflatten(0, both)

    def postprocess_detections(
        self, deltas: Tensor, logits: Tensor, proposals: Proposals, windows: Tensor
    ) -> TfodOutputs:
        """Detections from the second stage's answer for the proposals."""
        tfod, scores = self.tfod, logits.softmax(2)
        boxes = parts.decode(deltas, proposals.boxes[:, :, None])
        shared = boxes.shape[2] == 1
        rows, labels = self._suppressed(boxes, torch.where(proposals.valid[..., None], scores[..., 1:], -torch.inf))
        image = torch.arange(len(boxes), device=boxes.device)[:, None]
        score = torch.where(rows >= 0, scores[image, rows, labels + 1], -torch.inf)
        order = score.sort(dim=1, descending=True, stable=True).indices
        rows, labels = rows.gather(1, order), labels.gather(1, order)
        chosen = within(boxes[image, rows, torch.zeros_like(labels) if shared else labels], windows)
        found = (rows >= 0) & (area(chosen) > 0)
        order = front(found)[:, : tfod.detections]
        found, rows, labels = found.gather(1, order), rows.gather(1, order), labels.gather(1, order)
        best = scores[..., 1:].argmax(2) if not shared else torch.zeros_like(scores[..., 0], dtype=torch.int64)
        raw = boxes.gather(2, best[..., None, None].expand(-1, -1, -1, 4))[:, :, 0]

        def full(values: Tensor) -> Tensor:
            there = found if values.ndim == 2 else found[..., None]
            room = (0, 0) * (values.ndim - 2) + (0, tfod.detections - values.shape[1])
            return F.pad(torch.where(there, values, 0), room)

        return TfodOutputs(
            detection_boxes=full(_normalised(at_rows(chosen, order), windows)),
            detection_scores=full(scores[image, rows, labels + 1]),
            detection_classes=full(labels.to(scores.dtype)) + 1,
            detection_multiclass_scores=full(scores[image, rows]),
            detection_anchor_indices=full(rows),
            num_detections=found.sum(1).to(scores.dtype),
            raw_detection_boxes=_normalised(raw, windows).clamp(0, 1),
            raw_detection_scores=scores,
        )

    def _suppressed(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Proposal and class, each ``[B, M]`` int64, of what suppression leaves, class after class; -1 and any class
        between and after them."""
        tfod, (number, count, kinds) = self.tfod, scores.shape
        boxes = boxes.expand(-1, -1, kinds, -1)
        if self.class_agnostic_nms:
            kept = self.nms(boxes.flatten(1, 2), scores.flatten(1), tfod.detections, tfod.nms_iou, tfod.score)
            return kept.div(kinds, rounding_mode="floor"), kept % kinds
        boxes, scores = boxes.transpose(1, 2).reshape(-1, count, 4), scores.transpose(1, 2).reshape(-1, count)
        limit = min(tfod.detections_per_class, count)
        kept = self.nms(boxes, scores, limit, tfod.nms_iou, tfod.score).view(number, kinds, -1)
        return kept.flatten(1), torch.arange(kinds, device=kept.device)[:, None].expand_as(kept).flatten(1)

    def losses(self, images: list[Tensor], targets: list[Target], shared: Shared = SINGLE_PROCESS) -> dict[str, Tensor]:
        """The four losses, as TFOD weighs and names them; in eval mode those of its evaluation loop."""
        batch = self.batch(images)
        size = (batch.shape[2], batch.shape[3])
        features = self.backbone(batch)
        deltas, logits = self.rpn(features)
        anchors = self.anchor_grid(features)
        if self.training and not self.tfod.clip_anchors:
            kept = torch.where(parts.inside(anchors, *size))[0]
            anchors, deltas, logits = anchors[kept], deltas[:, kept], logits[:, kept]
        else:
            anchors = clip(anchors, *size)
        windows, targets = _on_device(images, targets, features.device)
        generators = [Generator().manual_seed(target.seed) for target in targets]
        rpn_box, objectness = self.rpn_losses(deltas, logits, anchors, targets, generators)
        proposals = self.propose(deltas, logits, anchors, windows, self.learning)
        if self.training:
            proposals = self.sample(proposals, targets, generators)
        box, classes = self.box_losses(*self.classify(features, proposals.boxes, size), proposals, targets)
        part = len(images) / shared.counts([len(images)])[0]
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
        matches = torch.stack([parts.match_anchors(parts.iou(target.boxes, anchors)) for target in targets])
        known = matches != matcher.IGNORED
        drawn = self.learning.draw(matches >= 0, known, tfod.rpn_batch, tfod.rpn_positive, generators)
        rows = matcher.indices_of(torch.cat([drawn, drawn & (matches >= 0)]))
        losses: list[Tensor] = []
        for image, (target, chosen, positive) in enumerate(
            zip(targets, rows[: len(targets)], rows[len(targets) :], strict=True)
        ):
            wanted = parts.encode(target.boxes[matches[image, positive]], anchors[positive])
            truth = (matches[image, chosen] >= 0).long()
            losses += self.rpn_loss(logits[image, chosen], truth, deltas[image, positive], wanted)
        objectness, box = _means(losses, drawn.sum(1))
        return tfod.rpn_box_weight * box, tfod.rpn_object_weight * objectness

    def sample(self, proposals: Proposals, targets: list[Target], generators: list[Generator]) -> Proposals:
        """The minibatches for the second stage."""
        tfod = self.tfod
        positive = self._match(proposals, targets) >= 0
        drawn = self.learning.draw(positive, proposals.valid, tfod.box_batch, tfod.box_positive, generators)
        return self.learning.take(proposals, drawn, tfod.box_batch)

    def box_losses(
        self, deltas: Tensor, logits: Tensor, proposals: Proposals, targets: list[Target]
    ) -> tuple[Tensor, Tensor]:
        """Localisation and classification loss, each divided by the number of proposals, the mean of the images."""
        matches, valid = self._match(proposals, targets), proposals.valid
        rows = matcher.indices_of(torch.cat([valid, valid & (matches >= 0)]))
        losses: list[Tensor] = []
        for image, (target, chosen, positive) in enumerate(
            zip(targets, rows[: len(targets)], rows[len(targets) :], strict=True)
        ):
            match = matches[image, positive]
            label = torch.zeros_like(matches[image])
            label[positive] = target.labels[match] + 1
            wanted = parts.encode(target.boxes[match], proposals.boxes[image, positive])
            own = deltas[image, positive, label[positive] - 1 if deltas.shape[2] > 1 else 0]
            losses += self.box_loss(logits[image, chosen], label[chosen], own, wanted)
        classes, box = _means(losses, proposals.count)
        return self.tfod.box_weight * box, self.tfod.class_weight * classes

    @staticmethod
    def _match(proposals: Proposals, targets: list[Target]) -> Tensor:
        """``[B, P]``: object of every proposal, or ``matcher.NEGATIVE``."""
        overlaps = [parts.iou(target.boxes, boxes) for target, boxes in zip(targets, proposals.boxes, strict=True)]
        return torch.stack([matcher.match(each, 0.5, 0.5, allow_low_quality_matches=False) for each in overlaps])

    @staticmethod
    def found(outputs: TfodOutputs, sizes: list[tuple[int, int]]) -> list[Instances]:
        """The detections, on the CPU, in pixels of the images of ``sizes`` (height, width) that they were found in."""
        columns = [outputs.detection_scores, outputs.detection_classes - 1]
        packed = torch.cat([outputs.detection_boxes, *(each[..., None] for each in columns)], 2)
        # One copy for all, the counts in a row of their own.
        counts = outputs.num_detections[:, None, None].expand(-1, 1, packed.shape[2])
        found = []
        for (height, width), rows in zip(sizes, torch.cat([counts, packed], 1).cpu(), strict=True):
            rows = rows[1 : 1 + int(rows[0, 0])]
            boxes = rows[:, [1, 0, 3, 2]] * rows.new_tensor([width, height, width, height])
            found.append(Instances(boxes, rows[:, 4].contiguous(), rows[:, 5].long()))
        return found


def _on_device(images: list[Tensor], targets: list[Target], device: torch.device) -> tuple[Tensor, list[Target]]:
    """The windows of the images, and boxes and labels of the targets, in one copy."""
    windows, *rest = in_one_copy(
        [windows_of(images), *(target.boxes for target in targets), *(target.labels for target in targets)],
        device,
    )
    both = zip(targets, rest[: len(targets)], rest[len(targets) :], strict=True)
    return windows, [replace(target, boxes=boxes, labels=labels) for target, boxes, labels in both]


def _means(losses: list[Tensor], counts: Tensor) -> tuple[Tensor, Tensor]:
    """The means over the images of their two losses, which alternate, each divided by its image's count or 1."""
    counts = counts.clamp(min=1)
    return (torch.stack(losses[::2]) / counts).mean(), (torch.stack(losses[1::2]) / counts).mean()


def _by_anchor(plane: Tensor, values: int) -> Tensor:
    """``[B, A * values, h, w]`` -> ``[B, h * w * A, values]``."""
    return plane.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, values))


def _normalised(boxes: Tensor, windows: Tensor) -> Tensor:
    """xyxy in pixels ``[B, N, 4]`` -> yxyx in 0..1 of the windows."""
    boxes = boxes / windows[:, None].to(boxes.dtype)
    return torch.stack([boxes[..., 1], boxes[..., 0], boxes[..., 3], boxes[..., 2]], dim=-1)
