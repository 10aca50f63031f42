"""The small networks on top of the features: torchvision's, with an answer for each anchor and each class."""

from torch import Tensor, nn
from torchvision.models.detection import faster_rcnn, rpn

from .folding import FoldedNorm
from .model import DetectionModel


class RPNHead(rpn.RPNHead):
    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features ``[B, C, H, W]`` a level -> logits ``[B, H*W*A]`` and deltas ``[B, H*W*A, 4]`` a level."""
        logits, deltas = super().forward(features)
        return (
            [level.permute(0, 2, 3, 1).flatten(1) for level in logits],
            [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for level in deltas],
        )


class FPNBoxPredictor(faster_rcnn.FastRCNNPredictor):
    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, width]`` -> class logits ``[N, K + 1]`` (0 is background) and box deltas ``[N, K + 1, 4]``."""
        logits, deltas = super().forward(hidden)
        return logits, deltas.unflatten(1, (-1, 4))


class SharedBoxPredictor(FPNBoxPredictor):
    """One box for all classes: its deltas ``[N, K + 1, 4]`` are the same for each."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(width, num_classes)
        self.bbox_pred = nn.Linear(width, 4)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = super().forward(hidden)
        return logits, deltas.expand(-1, logits.shape[1], 4)


def set_norm_eps(model: DetectionModel, eps: float) -> None:
    """The epsilon that all BatchNorm of trained weights had, where it is not the architecture's."""
    model.norm_eps = eps
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | FoldedNorm):
            layer.eps = eps
