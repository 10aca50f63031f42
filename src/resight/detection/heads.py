"""The small networks on top of the features. Parameter names are torchvision's, so its weights load as they are."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from .folding import FoldedNorm
from .model import DetectionModel


class RPNHead(nn.Module):
    """Objectness and box deltas of every anchor: ``depth`` 3x3 convolutions, then two 1x1 ones."""

    def __init__(self, channels: int, anchors: int, depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *[Conv2dNormActivation(channels, channels, kernel_size=3, norm_layer=None) for _ in range(depth)]
        )
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features ``[B, C, H, W]`` a level -> logits ``[B, H*W*A]`` and deltas ``[B, H*W*A, 4]`` a level."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return logits, deltas


class TwoMLPHead(nn.Module):
    """RoI features ``[N, C, 7, 7]`` -> ``[N, width]`` by two fully connected layers."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * size**2, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, rois: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(rois.flatten(1)))))


class ConvFCHead(nn.Sequential):
    """RoI features ``[N, C, 7, 7]`` -> ``[N, width]`` by four 3x3 convolutions with BatchNorm and one linear layer."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        convs = [Conv2dNormActivation(channels, channels, norm_layer=nn.BatchNorm2d) for _ in range(4)]
        super().__init__(*convs, nn.Flatten(), nn.Linear(channels * size**2, width), nn.ReLU(inplace=True))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class FPNBoxPredictor(nn.Module):
    """``[N, width]`` -> class logits ``[N, K + 1]`` (0 is background) and box deltas ``[N, K + 1, 4]``."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, (num_classes + 1) * 4)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(hidden), self.bbox_pred(hidden).unflatten(1, (-1, 4))


def set_norm_eps(model: DetectionModel, eps: float) -> None:
    """The epsilon that all BatchNorm of trained weights had, where it is not the architecture's."""
    model.norm_eps = eps
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | FoldedNorm):
            layer.eps = eps


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of all parameters and of those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
