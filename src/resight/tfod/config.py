"""The configuration of TFOD's models: what they have beside the common keys, and the tree that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

from ..config.loading import keys_of, load
from ..config.most_detections import MostDetections, check_most
from ..config.tree import (
    OWN_DETECTIONS,
    OWN_SECTION,
    TFOD_MODELS,
    TFOD_NAMES,
    Config,
    Fraction,
    ModelConfig,
    Positive,
    Section,
)
from .specs import TfodSpec


class TfodConfig(Section):
    """What only this dialect has; the defaults are those of the stock 800x1333 gpu-8 configs."""

    fixed_size: tuple[Positive, Positive] | None = Field(
        None, description="height and width that every image is stretched to; otherwise min_size and max_size apply"
    )
    pad: bool = Field(True, description="pad right and below to a square of max_size")
    pad_value: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="RGB 0..255 of the padding")
    anchor_scales: tuple[float, ...] = Field((0.25, 0.5, 1.0, 2.0), description="factors on anchor_base")
    anchor_ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), description="width / height")
    anchor_base: tuple[float, float] = Field((256.0, 256.0), description="pixels: height and width at scale 1")
    anchor_stride: tuple[Positive, Positive] = Field((16, 16), description="pixels between anchors, down and across")
    anchor_offset: tuple[float, float] = Field((0.0, 0.0), description="pixels: y and x of the first anchor's centre")
    clip_anchors: bool = Field(False, description="in training, clip anchors to the image instead of leaving them out")
    share_boxes: bool = Field(False, description="one box per proposal, shared by all classes")
    train_norms: bool = Field(False, description="BatchNorm normalises with the batch and updates its statistics")
    static_shapes: bool = Field(False, description="proposals and samples are chosen as TFOD does with static shapes")
    matmul_crop: bool = Field(False, description="RoIs cropped as TFOD does by matrix products, for a TPU")
    rpn_score: float = Field(0.0, description="minimum objectness of a proposal")
    rpn_nms_iou: Fraction = Field(0.7, description="NMS IoU threshold of the proposals")
    proposals: Positive = Field(300, description="proposals per image")
    rpn_batch: Positive = Field(256, description="anchors sampled per image for the losses")
    rpn_positive: Fraction = Field(0.5, description="maximum fraction of objects among them")
    box_batch: Positive = Field(64, description="proposals sampled per image for the second stage")
    box_positive: Fraction = Field(0.25, description="maximum fraction of objects among them")
    crop_size: Positive = Field(14, description="samples of a RoI per side")
    pool_size: Positive = Field(2, description="kernel of the max pooling after it")
    pool_stride: Positive = Field(2, description="its stride")
    rpn_stddev: float = Field(0.01, gt=0, description="standard deviation of a new RPN head's initial weights")
    rpn_box_weight: float = Field(2.0, ge=0, description="factors of the four losses: boxes of the first stage, ...")
    rpn_object_weight: float = Field(1.0, ge=0, description="... objectness, ...")
    box_weight: float = Field(2.0, ge=0, description="... boxes of the second stage, ...")
    class_weight: float = Field(1.0, ge=0, description="... classes")
    score: float = Field(0.0, description="minimum score of a detection")
    nms_iou: Fraction = Field(0.6, description="NMS IoU threshold of the detections of a class")
    detections_per_class: Positive = Field(100, description="maximum detections per class and image")
    detections: Positive = Field(100, description="maximum detections per image")
    max_boxes: Positive = Field(100, description="maximum ground-truth boxes per image; excess dropped and counted ...")
    evaluated_boxes: Positive = Field(100, description="... in training and, by this limit, in evaluation")

    @model_validator(mode="after")
    def _crop(self) -> TfodConfig:
        if self.pool_size > self.crop_size:
            raise ValueError(f"pool_size {self.pool_size} is larger than crop_size {self.crop_size}")
        return self


class TfodModelConfig(ModelConfig):
    dialect: ClassVar[Literal["fpn", "tfod"]] = "tfod"
    repeat_threshold: ClassVar[float] = 0.0

    tfod: TfodConfig = TfodConfig()

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, values: Any) -> Any:
        """The sizes that the zoo's weights were trained at, unless every image is stretched to one."""
        if not isinstance(values, dict):
            return values
        tfod = values.get("tfod") or {}
        fixed = tfod.get("fixed_size") if isinstance(tfod, dict) else getattr(tfod, "fixed_size", None)
        short, long = TfodSpec.min_size, TfodSpec.max_size
        if isinstance(fixed, list | tuple) and fixed and all(isinstance(side, int) for side in fixed):
            short, long = min(fixed), max(fixed)
        own = {"min_size": short, "max_size": long, "anchors": "default", "freeze": 0, "detections": None}
        return {**own, **values, "tfod": tfod}

    @model_validator(mode="after")
    def _own_rules(self) -> Self:
        if self.tile:
            raise ValueError(f"tile is not for the models {TFOD_NAMES}, which see images whole")
        if self.name not in TFOD_MODELS:
            raise ValueError(OWN_SECTION)
        if self.detections is not None:
            raise ValueError(OWN_DETECTIONS)
        if (fixed := self.tfod.fixed_size) and sorted(fixed) != [self.min_size, self.max_size]:
            raise ValueError(f"every image is stretched to {fixed[0]} x {fixed[1]}, so another size would not apply")
        return self

    @property
    def most(self) -> MostDetections:
        keys = ("model.tfod.detections", "model.tfod.detections_per_class")
        image, of_a_class = self.tfod.detections, self.tfod.detections_per_class
        return MostDetections(image, min(of_a_class, image), keys, self.tfod.proposals)

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        return self.tfod.fixed_size or fit_size(height, width, self.min_size, self.max_size)

    def size_option(self, low: int, high: int) -> str:
        return (
            f"a `fixed_size` of `[model.tfod]` such as {low},{high}"
            if self.tfod.fixed_size
            else super().size_option(low, high)
        )

    def with_detections(self, most: int) -> Self:
        check_most(most)
        own = {"detections": most, "detections_per_class": most, "proposals": max(self.tfod.proposals, most)}
        return self.model_copy(update={"tfod": self.tfod.model_copy(update=own)})


def fit_size(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Height and width at the network: the shorter side ``short`` unless the longer one would exceed ``long``."""
    # A square image is taken as a portrait. All in single precision, and halves go to the even number.
    wanted = (short, long) if height < width else (long, short)
    scale = min(np.float32(wanted[0]) / np.float32(height), np.float32(wanted[1]) / np.float32(width))
    rows, columns = np.rint(scale * np.float32(height)), np.rint(scale * np.float32(width))
    return max(int(rows), 1), max(int(columns), 1)


class TfodTree(Config):
    model: SerializeAsAny[TfodModelConfig] = TfodModelConfig(name=TFOD_MODELS[0])

    @model_validator(mode="after")
    def _batches(self) -> Self:
        tfod = self.model.tfod
        if not (tfod.pad or tfod.fixed_size) and self.train.batch_size > 1:
            raise ValueError(
                f"images of different sizes make no batch of {self.train.batch_size}: take batch_size 1"
                " (train.accumulate sums the gradients of several), pad them (model.tfod.pad = true;"
                " pad_to_max_dimension in a pipeline.config) or stretch them (model.tfod.fixed_size;"
                " fixed_shape_resizer)"
            )
        return self


def load_tfod(overrides: Mapping[str, Any]) -> TfodTree:
    """The configuration of a model of this dialect, as :func:`resight.load_config` makes it."""
    config = load(None, overrides, lambda _: TfodTree, lambda: keys_of(TfodTree))
    assert isinstance(config, TfodTree)
    return config
