"""The FPN dialect: Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017).

With one box head equal in its numbers to ``torchvision.models.detection.FasterRCNN``, parameter names included;
with more it is a Cascade R-CNN (Cai and Vasconcelos 2018). It differs in what training needs: minibatches are drawn by
a generator of each image, crowd boxes are neither object nor background, images without boxes are ordinary, BatchNorm
statistics stay as they are.

Shapes:
    B images of a batch, all padded to H x W; K classes without background; G objects of an image.
    Level l of the pyramid is h_l x w_l with A anchors a place, N_l = h_l * w_l * A; N anchors on all levels.
    P proposals of an image, at most ``rpn_post_nms_top_n``; R of them, of all images, one image after the other.
Names:
    logits: objectness before the sigmoid ``[B, N_l]`` a level, or of classes ``[R, K + 1]``, background first.
    deltas: ``box_coder.encode`` of a box beside its anchor ``[B, N_l, 4]`` a level, or its proposal ``[R, K + 1, 4]``.
    size: height and width of an image at the network, without padding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..detection import box_coder, matcher
from ..detection.anchors import POSITIVE, AnchorSettings, grid_anchors
from ..detection.boxes import MOST_AT_ONCE, Instances, at_rows, big_enough, nms_of_groups, rescale, windows_of, within
from ..detection.losses import StageLoss, stage_loss
from ..detection.matcher import Sampler, balanced_minibatch
from ..detection.model import DetectionModel
from ..detection.processes import SINGLE_PROCESS, Shared
from ..detection.roi_align import pool
from ..detection.transfers import sent
from ..input.target import Target
from .backbones import Backbone
from .config import fit_size
from .ground_truth import GroundTruth

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
POOL_SIZE = 7
NO_CLASS = -100  # of a box that is neither object nor background: PyTorch's cross-entropy leaves it out

fpn_loss = partial(stage_loss, beta=1 / 9)


class Cascaded(NamedTuple):
    """A box head of the second stage: the first takes the proposals, each other one the boxes of the one before."""

    iou: float  # with an object from which a box is a positive
    weights: box_coder.Weights
    share: float  # of its losses


# IoU and weights are those of Cai and Vasconcelos 2018, the shares mmdetection's. The first is torchvision's only head.
CASCADE = (
    Cascaded(0.5, (10.0, 10.0, 5.0, 5.0), 1.0),
    Cascaded(0.6, (20.0, 20.0, 10.0, 10.0), 0.5),
    Cascaded(0.7, (30.0, 30.0, 15.0, 15.0), 0.25),
)


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
        rpn, roi_heads: "head" of the first stage, "box_head" and "box_predictor" of the second, and those of further
            heads in a list "cascade".
        rpn_loss, box_loss: of the first and of the second stage.
        sampler: draws the minibatches of both.
        nms: boxes ``[N, 4]``, scores ``[N]``, groups ``[N]`` and the IoU -> indices of what is kept, best first.
    """

    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]

    def __init__(
        self,
        backbone: Backbone,
        rpn: nn.ModuleDict,
        roi_heads: nn.ModuleDict,
        config: RCNNConfig,
        *,
        rpn_loss: StageLoss = fpn_loss,
        box_loss: StageLoss = fpn_loss,
        sampler: Sampler = balanced_minibatch,
        nms: Callable[[Tensor, Tensor, Tensor, float], Tensor] = nms_of_groups,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads, self.config = backbone, rpn, roi_heads, config
        self.rpn_loss, self.box_loss, self.sampler, self.nms = rpn_loss, box_loss, sampler, nms
        constants = {name: torch.tensor(getattr(config, name))[:, None, None] for name in ("mean", "std")}
        constants |= {f"cell_anchors{i}": config.anchors.cell_anchors(i) for i in range(len(config.anchors.sizes))}
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def class_heads(self) -> dict[str, bool]:
        names = ["roi_heads", *(f"roi_heads.cascade.{i}" for i in range(len(self.box_heads) - 1))]
        found = {f"{name}.box_predictor.cls_score": True for name in names}
        return found if len(names) > 1 else found | {"roi_heads.box_predictor.bbox_pred": True}

    @property
    def box_heads(self) -> list[tuple[Cascaded, nn.ModuleDict]]:
        """Of each head of the second stage how it is used, and its "box_head" and "box_predictor"."""
        cascade = self.roi_heads["cascade"].children() if len(self.roi_heads) > 2 else ()
        return list(zip(CASCADE, [self.roi_heads, *cascade], strict=False))

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

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        height, width = fit_size(height, width, self.config.min_size, self.config.max_size)
        multiple = self.config.multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def batch(self, images: list[Tensor], shared: Shared = SINGLE_PROCESS) -> Tensor:
        """Normalised and padded with zeros right and below: ``[B, 3, H, W]`` float32, sides a multiple of 32."""
        multiple = self.config.multiple
        height = -(-max(image.shape[1] for image in images) // multiple) * multiple
        width = -(-max(image.shape[2] for image in images) // multiple) * multiple
        height, width = shared.largest(height, width)
        weight = next(self.parameters())
        batch = torch.zeros(len(images), height, width, 3, device=weight.device, dtype=weight.dtype).permute(0, 3, 1, 2)
        mean, std = self.mean.to(weight.dtype), self.std.to(weight.dtype)
        for row, image in zip(batch, images, strict=True):
            image = as_float(image.to(weight.device, non_blocking=True))
            row[:, : image.shape[1], : image.shape[2]] = (image - mean) / std
        return batch.contiguous() if weight.is_contiguous() else batch  # in the memory format of the weights

    def features(self, batch: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Features, objectness logits, box deltas and anchors of each level."""
        features = self.backbone(batch)
        logits, deltas = self.rpn["head"](features)
        anchors = []
        for level, feature in enumerate(features):
            grid = (feature.shape[2], feature.shape[3])
            stride = (batch.shape[2] // grid[0], batch.shape[3] // grid[1])
            anchors.append(grid_anchors(self.get_buffer(f"cell_anchors{level}"), grid, stride))
        return features, logits, deltas, anchors

    def detect(self, images: list[Tensor]) -> list[Instances]:
        """On the CPU, whatever the model is on."""
        small = [self.resize(image) for image in images]
        features, logits, deltas, anchors = self.features(self.batch(small))
        windows = sent(windows_of(small), features[0].device)
        proposals, there = self.propose(logits, deltas, anchors, windows, training=False)
        image, row = torch.where(there)
        scores, boxes = self.second_stage(features, proposals[image, row], image, windows[image])
        found = self.postprocess_detections(scores, boxes, image, windows)
        return [
            Instances(
                rescale(one.boxes, (before.shape[1], before.shape[2]), (after.shape[1], after.shape[2])),
                one.scores,
                one.labels,
            )
            for one, before, after in zip(found, small, images, strict=True)
        ]

    def proposals(self, image: Tensor) -> Tensor:
        small = self.resize(image)
        _, logits, deltas, anchors = self.features(self.batch([small]))
        windows = sent(windows_of([small]), logits[0].device)
        boxes, there = self.propose(logits, deltas, anchors, windows, training=False)
        return rescale(boxes[there], (small.shape[1], small.shape[2]), (image.shape[1], image.shape[2]))

    def propose(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], windows: Tensor, training: bool
    ) -> tuple[Tensor, Tensor]:
        """Proposals ``[B, P, 4]`` xyxy, best first, after the NMS of the first stage, and which of them ``[B, P]`` are
        there: the others are padding.

        Args:
            windows: ``[B, 4]``, width, height, width and height of each image.
        """
        phase = 0 if training else 1
        before, after = self.config.rpn_pre_nms_top_n[phase], self.config.rpn_post_nms_top_n[phase]
        best, own, references = [], [], []
        for logit, delta, anchor in zip(logits, deltas, anchors, strict=True):
            # In half precision most of the best would score alike.
            single = logit.detach().to(torch.promote_types(logit.dtype, torch.float32))
            values, index = single.topk(min(before, logit.shape[1]), dim=1)
            best.append(values)
            own.append(at_rows(delta.detach(), index))
            references.append(anchor[index])
        boxes = within(box_coder.decode(torch.cat(own, 1), torch.cat(references, 1), RPN_WEIGHTS), windows)
        kept = self._best_apart(boxes, best, after)
        return at_rows(boxes, kept.clamp(min=0)), kept >= 0

    def _best_apart(self, boxes: Tensor, logits: list[Tensor], limit: int) -> Tensor:
        """Of ``boxes`` ``[B, M, 4]`` those that the NMS of each level keeps, at most ``limit``, best first: ``[B, P]``
        int64, -1 beyond the last. ``logits`` are those of each level ``[B, M_l]``."""
        config, device = self.config, boxes.device
        usable = big_enough(boxes, 1e-3)
        counts = torch.tensor([one.shape[1] for one in logits])
        levels = sent(torch.arange(len(logits)).repeat_interleave(counts), device)
        if device.type == "cpu":
            chosen = []
            for image, (box, fits) in enumerate(zip(boxes, usable, strict=True)):
                score = torch.cat([one[image].sigmoid() for one in logits])
                index = torch.where(fits & (score >= config.rpn_score))[0]
                chosen.append(index[self.nms(box[index], score[index], levels[index], config.rpn_nms_iou)[:limit]])
            return pad_sequence(chosen, batch_first=True, padding_value=-1)
        # One NMS for several images, for each is waited for; what is not usable comes last and suppresses nothing.
        scores = torch.cat(logits, 1).sigmoid()
        scores = torch.where(usable & (scores >= config.rpn_score), scores, -torch.inf)
        groups = len(logits) * torch.arange(len(boxes), device=device)[:, None] + levels
        together = max(MOST_AT_ONCE // boxes.shape[1], 1) * boxes.shape[1]
        parts = zip(*(each.flatten(0, 1).split(together) for each in (boxes, scores, groups)), strict=True)
        found = [self.nms(box, score, group, config.rpn_nms_iou) for box, score, group in parts]
        index = torch.cat([own + number * together for number, own in enumerate(found)])
        kept = torch.full_like(scores, -torch.inf).flatten().index_copy(0, index, scores.flatten()[index])
        kept = kept.view_as(scores)
        values, index = kept.topk(min(limit, kept.shape[1]), dim=1)
        return torch.where(values > -torch.inf, index, -1)

    def second_stage(
        self, features: list[Tensor], rois: Tensor, image: Tensor, windows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class scores ``[R, K + 1]``, the mean of all heads, and boxes ``[R, K + 1, 4]``, those of the last.

        Args:
            rois: ``[R, 4]`` proposals in ``image`` ``[R]``, whose windows are ``windows`` ``[R, 4]``.
        """
        found, boxes = [], rois[:, None]
        for number, (stage, head) in enumerate(self.box_heads):
            if number:
                rois = next_rois(boxes, windows)
            logits, deltas = self.classify(features, rois, image, head)
            boxes = box_coder.decode(deltas, rois[:, None], stage.weights)
            found.append(logits.softmax(-1))
        return torch.stack(found).mean(0), boxes

    def classify(
        self, features: list[Tensor], boxes: Tensor, image: Tensor, head: nn.ModuleDict
    ) -> tuple[Tensor, Tensor]:
        """Class logits ``[R, K + 1]`` and box deltas ``[R, K + 1, 4]`` of ``boxes`` ``[R, 4]`` in ``image`` ``[R]``."""
        strides = self.backbone.pooled_strides
        rois = pool(features[: len(strides)], strides, boxes, image, POOL_SIZE)
        return head["box_predictor"](head["box_head"](rois))

    def postprocess_detections(self, scores: Tensor, boxes: Tensor, image: Tensor, windows: Tensor) -> list[Instances]:
        """The detections, on the CPU, from class scores ``[R, K + 1]`` and boxes ``[R, K + 1, 4]``: the last NMS.

        Args:
            image: ``[R]`` int64 ascending, of which image they are.
            windows: ``[B, 4]``, as in :meth:`propose`.
        """
        config, kinds = self.config, scores.shape[1] - 1
        boxes = torch.minimum(boxes.clamp(min=0), windows[image][:, None])[:, 1:].reshape(-1, 4)
        scores = scores[:, 1:].reshape(-1)
        index = torch.where((scores > config.score) & big_enough(boxes, 1e-2))[0]
        boxes, scores, labels, image = boxes[index], scores[index], index % kinds, image[index // kinds]
        groups = torch.zeros_like(labels) if config.class_agnostic_nms else labels
        if boxes.device.type == "cpu":
            parts = [torch.where(image == number)[0] for number in range(len(windows))]
        else:  # all at once, for each is waited for
            parts, groups = [torch.arange(len(index), device=index.device)], groups + image * kinds
        kept = torch.cat([part[self.nms(boxes[part], scores[part], groups[part], config.nms_iou)] for part in parts])
        # One copy for all.
        columns = [each[kept].to(boxes.dtype)[:, None] for each in (scores, labels, image)]
        packed = torch.cat([boxes[kept], *columns], 1).cpu()
        found = [packed[packed[:, 6] == number][: config.detections] for number in range(len(windows))]
        return [Instances(one[:, :4].contiguous(), one[:, 4].contiguous(), one[:, 5].long()) for one in found]

    def losses(self, images: list[Tensor], targets: list[Target], shared: Shared = SINGLE_PROCESS) -> dict[str, Tensor]:
        """The four losses of Faster R-CNN, as torchvision computes and names them."""
        features, logits, deltas, anchors = self.features(self.batch(images, shared))
        windows = sent(windows_of(images), features[0].device)
        truth = GroundTruth.of(targets, features[0].device)
        generators = [Generator().manual_seed(target.seed) for target in targets]
        objectness, rpn_box, drawn = self._rpn_losses(
            torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), truth, generators
        )
        proposals, there = self.propose(logits, deltas, anchors, windows, training=True)
        # True boxes are proposals too: without them the second stage would see few positives at first.
        proposals, there = torch.cat([proposals, truth.boxes], 1), torch.cat([there, truth.there], 1)
        classifier, box, rois = self._box_losses(features, proposals, there, truth, generators, windows)
        drawn, rois = (max(count, 1) for count in shared.counts([drawn, rois]))
        return {
            "loss_objectness": objectness / drawn,
            "loss_rpn_box_reg": rpn_box / drawn,
            "loss_classifier": classifier / rois,
            "loss_box_reg": box / rois,
        }

    def _rpn_losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        truth: GroundTruth,
        generators: list[Generator],
    ) -> tuple[Tensor, Tensor, float]:
        """Objectness and box loss, summed, and the number of anchors drawn."""
        config = self.config
        matches = truth.match(anchors.expand(len(logits), -1, -1), POSITIVE, 0.3, allow_low_quality_matches=True)
        drawn = self.sampler(matches, config.rpn_batch, config.rpn_positive, generators)
        chosen, match = logits.flatten()[drawn.index], matches.flatten()[drawn.index]
        positive = drawn.positives(drawn.index)
        objects = truth.boxes.flatten(0, 1)[drawn.positives(truth.rows(drawn.image, match))]
        wanted = box_coder.encode(objects, anchors[positive % len(anchors)], RPN_WEIGHTS)
        both, positives = drawn.sizes, drawn.taken[::2]
        objectness_loss = box_loss = logits.new_zeros(())
        # An image at a time, which keeps the order of the sums.
        for each in zip(
            chosen.split(both),
            (match >= 0).to(chosen.dtype).split(both),
            deltas.flatten(0, 1)[positive].split(positives),
            wanted.split(positives),
            strict=True,
        ):
            objectness, box = self.rpn_loss(*each)
            objectness_loss, box_loss = objectness_loss + objectness, box_loss + box
        return objectness_loss, box_loss, sum(both)

    def _box_losses(
        self,
        features: list[Tensor],
        proposals: Tensor,
        there: Tensor,
        truth: GroundTruth,
        generators: list[Generator],
        windows: Tensor,
    ) -> tuple[Tensor, Tensor, float]:
        """Class and box loss, summed, and the number of proposals drawn."""
        config, (first, head) = self.config, self.box_heads[0]
        matches = truth.match(proposals, first.iou, first.iou, allow_low_quality_matches=False)
        matches = torch.where(there, matches, matcher.IGNORED)
        drawn = self.sampler(matches, config.box_batch, config.box_positive, generators)
        boxes, match = proposals.flatten(0, 1)[drawn.index], matches.flatten()[drawn.index]
        rows = truth.rows(drawn.image, match)
        label = torch.where(match >= 0, truth.labels.flatten()[rows] + 1, 0)
        scores, deltas = self.classify(features, boxes, drawn.image, head)
        wanted = box_coder.encode(
            truth.boxes.flatten(0, 1)[drawn.positives(rows)], drawn.positives(boxes), first.weights
        )
        own = drawn.positives(deltas)[torch.arange(len(wanted), device=label.device), drawn.positives(label)]
        class_loss, box_loss = self.box_loss(scores, label, own, wanted)
        for (before, _), (stage, head) in pairwise(self.box_heads):
            decoded = box_coder.decode(deltas[:, :1].detach(), boxes[:, None], before.weights)
            boxes = next_rois(decoded, windows[drawn.image])
            padded = pad_sequence(boxes.split(drawn.sizes), batch_first=True)
            matches = truth.match(padded, stage.iou, stage.iou, allow_low_quality_matches=False)
            match = torch.cat([own[:size] for own, size in zip(matches, drawn.sizes, strict=True)])
            rows, positive = truth.rows(drawn.image, match), torch.where(match >= 0)[0]
            background = torch.where(match == matcher.IGNORED, NO_CLASS, 0)
            label = torch.where(match >= 0, truth.labels.flatten()[rows] + 1, background)
            scores, deltas = self.classify(features, boxes, drawn.image, head)
            wanted = box_coder.encode(truth.boxes.flatten(0, 1)[rows[positive]], boxes[positive], stage.weights)
            classes, places = self.box_loss(scores, label, deltas[positive, 0], wanted)
            class_loss, box_loss = class_loss + stage.share * classes, box_loss + stage.share * places
        return class_loss, box_loss, len(label)


def next_rois(boxes: Tensor, windows: Tensor) -> Tensor:
    """``[R, 4]``: what a further head refines, the first of ``boxes`` ``[R, C, 4]``, cut to ``windows`` ``[R, 4]``.

    NaN, of a training that diverges, is 0: no level of the pyramid could be told for it.
    """
    return within(boxes[:, :1], windows)[:, 0].nan_to_num(0)


def as_float(image: Tensor) -> Tensor:
    return image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image
