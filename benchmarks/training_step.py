"""Where a training step's time goes: Resight's default model beside a plain torchvision Faster R-CNN on the same body.

    python benchmarks/training_step.py [--steps 3]

Random images of 384 x 512, batch 8, two objects an image. The plain model has one box head and two anchor sizes a
level, so Resight's has, too, where the two are compared. Prints seconds a step (the least of several) and ratios
measured in this run.
"""

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as PlainFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from resight.detection.anchors import AnchorSettings
from resight.detection.roi_align import pool
from resight.fpn import dialect
from resight.fpn.config import FpnModelConfig
from resight.input.target import Target
from resight.models.build import build_model

BATCH, HEIGHT, WIDTH = 8, 384, 512
ANCHORS = AnchorSettings(((16, 23), (32, 45), (64, 91), (128, 181)))


class PlainBackbone(nn.Module):
    """What one would write by hand: timm's features and torchvision's pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
        channels = self.body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(channels, 128, LastLevelMaxPool())
        self.out_channels = 128

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(level): feature for level, feature in enumerate(self.body(x))})


def plain_model() -> nn.Module:
    anchors = AnchorGenerator(ANCHORS.sizes, (ANCHORS.ratios,) * len(ANCHORS.sizes))
    return PlainFasterRCNN(PlainBackbone(), 5, rpn_anchor_generator=anchors, min_size=HEIGHT, max_size=WIDTH)


def least(run: Callable[[], object], times: int) -> float:
    run()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    times = parser.parse_args().steps
    torch.manual_seed(0)
    images = [torch.rand(3, HEIGHT, WIDTH) for _ in range(BATCH)]
    boxes = torch.tensor([[40.0, 40, 120, 140], [200, 100, 260, 180]])
    labels = torch.tensor([0, 2])

    def ours(anchors: AnchorSettings | None = ANCHORS, **changes: int) -> Callable[[], None]:
        model = build_model(FpnModelConfig(**{"heads": 1} | changes), 4, anchors).train()
        targets = [Target(boxes, labels, torch.zeros(2, dtype=torch.bool))] * BATCH

        def step() -> None:
            sum(model(images, targets).values()).backward()
            model.zero_grad(set_to_none=True)

        return step

    plain = plain_model().train()

    def plain_step() -> None:
        sum(plain(images, [{"boxes": boxes, "labels": labels + 1}] * BATCH).values()).backward()
        plain.zero_grad(set_to_none=True)

    base = least(ours(), times)
    print(f"one box head: {base:.2f} s a step of {BATCH} images {HEIGHT}x{WIDTH}, {torch.get_num_threads()} threads")
    with patch.object(dialect, "fold_batchnorm", lambda *_: None):
        unfolded = least(ours(), times)
    rows = {
        "the default": least(ours(None, heads=2), times),
        "norms not folded": unfolded,
        "nothing frozen": least(ours(freeze=0), times),
        "plain torchvision": least(plain_step, times),
    }
    for name, seconds in rows.items():
        print(f"{name:<20} {seconds:6.2f} s   {seconds / base:5.2f} x")

    feature = torch.randn(BATCH, 128, HEIGHT // 8, WIDTH // 8).contiguous(memory_format=torch.channels_last)
    feature.requires_grad_()
    corner = torch.rand(1024, 2) * torch.tensor([WIDTH - 100.0, HEIGHT - 100.0])
    regions = torch.cat([corner, corner + torch.rand(1024, 2) * 80 + 10], 1)
    image = torch.arange(1024) % BATCH
    rois = torch.cat([image[:, None].float(), regions], 1)
    by_rows = least(lambda: pool([feature], [8], regions, image, 7).sum().backward(), times)
    by_operator = least(lambda: roi_align(feature, rois, 7, 1 / 8, 2).sum().backward(), times)
    print(
        f"RoIAlign of 1,024 regions, forward and backward: {by_rows:.3f} s; torchvision's {by_operator / by_rows:.1f} x"
    )


if __name__ == "__main__":
    main()
