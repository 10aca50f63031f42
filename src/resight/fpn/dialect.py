"""The FPN dialect, as :class:`resight.dialect.Dialect` describes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from ..config.defaults import MODEL
from ..config.tree import TFOD_MODELS, Config, ModelConfig
from ..detection import box_coder
from ..detection.anchors import AnchorSettings
from ..detection.boxes import Instances, clip, rescale
from ..detection.folding import example, fold_batchnorm
from ..detection.heads import FPNBoxPredictor, RPNHead, SharedBoxPredictor
from ..detection.model import DetectionModel
from ..detection.parity import Parity, Stages, nms_faults
from ..errors import ResightError, nearest
from ..input.augment import LEFT_RIGHT, FlipRule, Sample, augment, crop, suggest_flip_pairs
from ..input.dataset import boxes_inside, usable_boxes
from ..input.sampler import SampleKey
from ..input.target import crop_size, input_size
from ..random_streams import torch_stream
from ..records.example import Record, on_image
from ..records.reader import RecordSplit
from . import backbones
from .config import FpnModelConfig
from .faster_rcnn import POOL_SIZE, RPN_WEIGHTS, FasterRCNN, RCNNConfig
from .network_input import NetworkInput
from .specs import TORCHVISION, FPNSpec, spec_of

if TYPE_CHECKING:
    from onnx import ModelProto

bfloat16 = True
classes_by_id = False
evaluates_losses = False
export_formats: tuple[str, ...] = ("onnx", "openvino")
input_dtype = torch.uint8
left_out = ""
pads_batches = True
publishes_weights = True
size_remedy = "; or --set model.tile={} for large images"
stronger_models = {MODEL: "fasterrcnn_resnet50_fpn_v2"}

SCORE_FLOOR = 0.001  # detections below can hardly move a COCO number
# Steps of the scale jitter. A CPU prepares and keeps code for every shape of a convolution, so few shapes are faster
# and smaller than many.
SCALES = 8


def default_anchors(config: ModelConfig) -> AnchorSettings:
    return AnchorSettings(spec_of(config.name).anchor_sizes)


def level_strides(config: ModelConfig) -> list[int]:
    return list(spec_of(config.name).strides)


def check_name(name: str) -> None:
    if name in TORCHVISION or timm.is_model(name):
        return
    known = [*TORCHVISION, *TFOD_MODELS, *timm.list_models()]
    example_names = "For instance tf_efficientnet_lite0, resnet50 or fasterrcnn_resnet50_fpn_v2."
    raise ResightError(f"unknown model '{name}'", where="model.name", fix=nearest(name, known) or example_names)


def build(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> FasterRCNN:
    check_name(config.name)
    spec = spec_of(config.name)
    anchors = anchors or default_anchors(config)
    # In this order: a seed makes the same weights of each part for ever.
    if spec.backbone == "timm":
        backbone = backbones.timm_backbone(spec.name, config.freeze, spec.pyramid_channels)
    elif spec.backbone == "resnet50":
        backbone = backbones.resnet50(spec.norm, config.freeze)
    else:
        backbone = backbones.mobilenet_v3_large(config.freeze)
    channels = spec.pyramid_channels
    rpn_head = RPNHead(channels, anchors.per_location, spec.rpn_depth)
    assert isinstance(config, FpnModelConfig)
    shared = config.heads > 1
    roi_heads = _box_head(spec, num_classes, shared)
    if shared:
        roi_heads["cascade"] = nn.ModuleList(_box_head(spec, num_classes, shared) for _ in range(config.heads - 1))
    model = FasterRCNN(backbone, nn.ModuleDict({"head": rpn_head}), roi_heads, _rcnn_config(spec, config, anchors))
    model.eval()
    fold_batchnorm(model.backbone, example((1, 3, 64, 64)))
    for _, head in model.box_heads if spec.norm else ():
        convolutions = nn.Sequential(*list(head["box_head"].children())[:4])
        fold_batchnorm(convolutions, example((1, channels, POOL_SIZE, POOL_SIZE)))
    # Convolutions on a CPU run about twice as fast in this layout.
    return model.to(memory_format=torch.channels_last).train()


def _box_head(spec: FPNSpec, num_classes: int, shared: bool) -> nn.ModuleDict:
    """
    Args:
        shared: one box for all classes.
    """
    channels = spec.pyramid_channels
    if spec.norm:
        region = (channels, POOL_SIZE, POOL_SIZE)
        head: nn.Module = FastRCNNConvFCHead(region, [channels] * 4, [spec.box_width], nn.BatchNorm2d)
    else:
        head = TwoMLPHead(channels * POOL_SIZE**2, spec.box_width)
    predictor = SharedBoxPredictor if shared else FPNBoxPredictor
    return nn.ModuleDict({"box_head": head, "box_predictor": predictor(spec.box_width, num_classes + 1)})


def _rcnn_config(spec: FPNSpec, config: ModelConfig, anchors: AnchorSettings) -> RCNNConfig:
    """Each detection needs a proposal, of which a model may have fewer by default than detections are asked for."""
    detections = config.most.image
    (pre_training, pre), (post_training, post) = spec.rpn_pre_nms_top_n, spec.rpn_post_nms_top_n
    pre_factor, post_factor = spec.top_n_per_detection
    made = RCNNConfig(
        config.min_size,
        config.max_size,
        anchors,
        antialias=spec.backbone == "timm",
        rpn_pre_nms_top_n=(pre_training, max(pre, int(pre_factor * detections))),
        rpn_post_nms_top_n=(post_training, max(post, post_factor * detections)),
        rpn_score=spec.rpn_score,
        box_batch=spec.box_batch,
        score=SCORE_FLOOR,
        detections=detections,
    )
    known = timm.get_pretrained_cfg(spec.name) if spec.backbone == "timm" else None
    return replace(made, mean=tuple(known.mean), std=tuple(known.std)) if known else made


def fits_anchors(config: ModelConfig) -> bool:
    trained = config.start != "none" and (config.start != "pretrained" or spec_of(config.name).weights == "COCO")
    return config.anchors == "fit" and not trained


class FpnTransform:
    """Crop, scale, flip and colour of ``config.augment``; the image ``[3, H, W]`` stays uint8.

    Raises:
        ResightError: the configuration has TFOD's operations.
    """

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        self.config, self.rule = config, FlipRule.of(classes, config.augment.flip_pairs)
        if config.augment.operations is not None:
            raise ResightError(f"TFOD's operations are not for {config.model.name}", where="augment.operations")

    def __call__(self, record: Record, labels: np.ndarray, image: np.ndarray, key: SampleKey, where: str) -> Sample:
        seed, config = self.config.train.seed, self.config
        generator = torch_stream(seed, "augment", key.epoch, key.record, key.copy)
        sample = to_sample(record, labels, image)
        height, width = sample.image.shape[1:]
        size, (rows, columns) = input_size(height, width, config.model), crop_size(height, width, config.model)
        sample = crop(sample, rows / height, columns / width, generator)
        # One scale for a whole batch: images of one size need no padding.
        ranges = config.augment.scale
        low, high = ranges[min(key.epoch, len(ranges) - 1)]
        draw = int(torch.randint(SCALES, (), generator=torch_stream(seed, "scale", key.epoch, key.batch)))
        scale = low * math.exp(draw / (SCALES - 1) * math.log(high / low))
        return augment(sample, size, scale, config.augment, self.rule, generator)


def to_sample(record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
    """The decoded ``image`` ``[H, W, 3]`` uint8 of the record with the boxes of known classes.

    Boxes without area or with a NaN are left out (``data check`` lists them).
    """
    height, width = image.shape[:2]
    record = on_image(record, height, width)
    boxes, usable = boxes_inside(record.boxes, np.array([width, height, width, height]))
    keep = usable & (labels >= 0)
    return Sample.of(image, boxes[keep], labels[keep], record.crowd[keep])


def transform(config: Config, classes: Sequence[str], resized: bool = True) -> FpnTransform:
    return FpnTransform(config, classes)


def ground_truth(record: Record, labels: np.ndarray, model: ModelConfig, where: str) -> tuple[Record, np.ndarray]:
    return record, labels


def own_metrics(summary: Mapping[str, float | None], losses: Mapping[str, float]) -> dict[str, float | None]:
    return {}


def prepare_plan(config: Config, classes: Sequence[str], train: RecordSplit) -> tuple[Config, list[str]]:
    """Suggests pairs of classes that a flip exchanges, and says what flips do."""
    augment = config.augment
    unknown = [name for pair in augment.flip_pairs.items() for name in pair if name not in classes]
    if unknown:
        raise ResightError(f"no class is called {', '.join(unknown)}", where="augment.flip_pairs")
    if not augment.flip:
        return config, []
    pairs = augment.flip_pairs or suggest_flip_pairs(classes)
    config = config.model_copy(update={"augment": augment.model_copy(update={"flip_pairs": pairs})})
    notes = []
    if pairs:
        notes.append("a flip exchanges " + ", ".join(f"{left} and {right}" for left, right in pairs.items()))
    paired = {*pairs, *pairs.values()}
    alone = [name for name in classes if LEFT_RIGHT.search(name) and name not in paired]
    if alone:
        notes.append(f"images with {', '.join(alone)} are not flipped: no class is their mirror image")
    return config, notes


def trained_boxes(split: RecordSplit) -> tuple[np.ndarray, str]:
    return usable_boxes(split), "corners that are not finite, or no area in the image"


def to_onnx(model: DetectionModel) -> ModelProto:
    from .onnx_export import to_onnx as written  # with onnx, an extra

    return written(model)


def to_body(model: DetectionModel) -> ModelProto:
    from .onnx_export import to_body as written

    return written(model)


def exported_input(model: DetectionModel) -> NetworkInput:
    assert isinstance(model, FasterRCNN)
    return NetworkInput(**{name: getattr(model.config, name) for name in NetworkInput.model_fields})


def proposal_counts(model: DetectionModel) -> tuple[int | None, int]:
    assert isinstance(model, FasterRCNN)
    return model.config.rpn_pre_nms_top_n[1], model.config.rpn_post_nms_top_n[1]


def limit_proposals(model: DetectionModel, before: int | None, after: int) -> None:
    assert isinstance(model, FasterRCNN) and before is not None
    config = model.config
    model.config = replace(
        config,
        rpn_pre_nms_top_n=(config.rpn_pre_nms_top_n[0], before),
        rpn_post_nms_top_n=(config.rpn_post_nms_top_n[0], after),
    )


def _compare_heads(
    parity: Parity, model: FasterRCNN, features: list[Tensor], rois: Tensor, size: tuple[int, int], stages: Stages
) -> tuple[Tensor, Tensor]:
    """Scores ``[P, K]`` and boxes ``[P, K, 4]`` of the classes, from what the graph's box heads answered."""

    def answers(rois: Tensor, head: nn.ModuleDict) -> tuple[Tensor, Tensor]:
        return model.classify(features, rois, torch.zeros(len(rois), dtype=torch.int64), head)

    scores, box = [], rois[:, None]
    for number, (stage, head) in enumerate(model.box_heads):
        if number:
            own, rois = box[:, 0], stages[f"rois{number}"][: len(rois)]
            parity.listed(own, rois, max(size))
        logits, deltas = (stages[f"{name}{number or ''}"][: len(rois)] for name in ("class_logits", "box_deltas"))
        parity.second_stage(partial(answers, head=head), rois, logits, deltas)
        scores.append(logits.softmax(1))
        box = clip(box_coder.decode(deltas, rois[:, None], stage.weights), *size)
    return torch.stack(scores).mean(0)[:, 1:], box[:, 1:]


def compare_stages(parity: Parity, model: DetectionModel, pixels: Tensor, stages: Stages) -> Instances:
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
    parity.proposals += len(kept)
    score, box = _compare_heads(parity, model, features, proposals, size, stages)
    rows, labels = stages["kept"] % len(stages["proposals"]), stages["kept"] // len(stages["proposals"])
    found = Instances(rescale(box[rows, labels], size, (pixels.shape[1], pixels.shape[2])), score[rows, labels], labels)
    floor = float(found.scores.min()) if len(rows) == config.detections else config.score
    for kind in range(score.shape[1]):
        own = rows[labels == kind]
        parity.wrong += nms_faults(box[:, kind], score[:, kind], own, config.nms_iou, config.score, floor, 1e-2)
    parity.ordered(found.scores)
    return found
