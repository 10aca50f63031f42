"""ResNet V1 (He et al. 2015) as TFOD has it: the stride lies in the first 1x1 convolution of a stage.

The trunk, stages 1 to 4, is the backbone; stage 5 is the box head. All names are as in the paper's table 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detection.folding import StoredNorm, folded

MEAN = (123.68, 116.779, 103.939)  # RGB
EPS = 1e-5  # of the norms
TRUNK_CHANNELS, HEAD_CHANNELS = 1024, 2048


class Norm(StoredNorm):
    """BatchNorm. In training mode it normalises with the batch and follows its statistics, else it is an affine map."""

    def __init__(self, channels: int, eps: float = EPS, momentum: float = 0.003) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def after(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """The norm of ``conv(x)``."""
        if not self.training:
            return folded(conv, self, x)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(conv(x), mean, var, self.weight, self.bias, True, self.momentum, self.eps)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is a projection (``conv0``) where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        if project:
            self.conv0, self.norm0 = _conv(channels, 4 * width, 1, stride), Norm(4 * width)
        self.conv1, self.norm1 = _conv(channels, width, 1, stride), Norm(width)
        self.conv2, self.norm2 = _conv(width, width, 3), Norm(width)
        self.conv3, self.norm3 = _conv(width, 4 * width, 1), Norm(4 * width)
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.norm0.after(self.conv0, x) if self.project else x
        x = self.norm1.after(self.conv1, x).relu_()
        x = self.norm2.after(self.conv2, x).relu_()
        return self.norm3.after(self.conv3, x).add_(shortcut).relu_()


class Trunk(nn.Module):
    """``[B, 3, H, W]`` RGB with the mean subtracted -> ``[B, 1024, ceil(H / 16), ceil(W / 16)]``."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(3, 64, 7, 2), Norm(64)
        self.conv2 = stage(64, 64, blocks[0], 1)
        self.conv3 = stage(256, 128, blocks[1], 2)
        self.conv4 = stage(512, 256, blocks[2], 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1.after(self.conv1, x).relu_()
        # TensorFlow's SAME: an odd side is padded at both ends, an even one right and below only, by the ceil mode.
        x = F.max_pool2d(x, 3, 2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)
        return self.conv4(self.conv3(self.conv2(x)))


class BoxHead(nn.Module):
    """RoI features ``[N, 1024, S, S]`` -> ``[N, 2048]``: stage 5, then the mean over the plane."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv5 = stage(TRUNK_CHANNELS, 512, blocks, 2)

    def forward(self, rois: Tensor) -> Tensor:
        return self.conv5(rois).mean((2, 3))


def stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(4 * width, width, 1, False) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(channels, width, stride, True), *rest)


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return conv
