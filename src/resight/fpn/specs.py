"""The models of the FPN dialect: what each is by its name. Imports nothing heavy; the configuration reads it too."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class FPNSpec:
    """One model. The defaults are those of torchvision's Faster R-CNN."""

    name: str
    backbone: Literal["resnet50", "mobilenet_v3_large", "timm"]
    strides: tuple[int, ...]  # of the pyramid's levels, the pooled one included
    anchor_sizes: tuple[tuple[float, ...], ...]  # of each level, pixels of the network's input
    min_size: int = 800  # pixels of the short side of an image ...
    max_size: int = 1333  # ... unless its long side would exceed this
    pyramid_channels: int = 256
    rpn_depth: int = 1  # 3x3 convolutions of the RPN head
    norm: bool = False  # BatchNorm in the pyramid and a convolutional box head (Li et al. 2021)
    box_width: int = 1024  # of the box head's linear layers
    rpn_score: float = 0.0
    rpn_pre_nms_top_n: tuple[int, int] = (2000, 1000)  # proposals a level: training, inference
    rpn_post_nms_top_n: tuple[int, int] = (2000, 1000)  # proposals per image
    top_n_per_detection: tuple[float, int] = (0.5, 1)  # the least of both in inference, times `model.detections`
    box_batch: int = 512
    weights: Literal["COCO", "ImageNet"] = "COCO"
    source: Literal["torchvision", "timm", "packaged"] = "torchvision"  # of the weights; packaged: installed
    licence: str = "BSD-3-Clause"  # of the weights; empty: as their model card says
    norm_eps: float | None = None  # that the published weights were trained with, where it is not the architecture's


_RESNET = FPNSpec(
    "fasterrcnn_resnet50_fpn", "resnet50", (4, 8, 16, 32, 64), ((32,), (64,), (128,), (256,), (512,)), norm_eps=0.0
)
_MOBILENET = FPNSpec(
    "fasterrcnn_mobilenet_v3_large_fpn",
    "mobilenet_v3_large",
    (32, 32, 64),
    ((32, 64, 128, 256, 512),) * 3,
    rpn_score=0.05,
)
_MOBILENET_320 = replace(
    _MOBILENET,
    name="fasterrcnn_mobilenet_v3_large_320_fpn",
    min_size=320,
    max_size=640,
    rpn_pre_nms_top_n=(2000, 150),
    rpn_post_nms_top_n=(2000, 150),
)
# Fewer proposals and a narrower head than torchvision's: on a CPU they cost half of a step and bring nothing measurable
# on sets with a handful of objects an image. In inference they grow with the detections, above 100.
_TIMM = FPNSpec(
    "",
    "timm",
    (8, 16, 32, 64),
    ((16, 23, 32), (45, 64, 91), (128, 181, 256), (362, 512, 724)),
    min_size=384,
    max_size=640,
    pyramid_channels=128,
    box_width=512,
    rpn_pre_nms_top_n=(1000, 500),
    rpn_post_nms_top_n=(500, 300),
    top_n_per_detection=(5, 3),
    box_batch=128,
    weights="ImageNet",
    source="timm",
    licence="",
)
_RESNET_V2 = replace(_RESNET, name="fasterrcnn_resnet50_fpn_v2", rpn_depth=2, norm=True, norm_eps=None)
_LITE0 = replace(_TIMM, name="tf_efficientnet_lite0", source="packaged", licence="Apache-2.0")

SPECS = {spec.name: spec for spec in (_RESNET, _RESNET_V2, _MOBILENET, _MOBILENET_320, _LITE0)}
TORCHVISION = tuple(name for name, spec in SPECS.items() if spec.source == "torchvision")


def spec_of(name: str) -> FPNSpec:
    """The model called ``name``; what is not in the table is a backbone of timm's."""
    return SPECS.get(name) or replace(_TIMM, name=name)
