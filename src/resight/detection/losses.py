"""The losses of one stage of Faster R-CNN (Ren et al. 2015, equation 1)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

# Logits and truth of the minibatch, deltas and wanted deltas of its positives -> classification and box loss, summed.
StageLoss = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def stage_loss(
    logits: Tensor, truth: Tensor, deltas: Tensor, wanted: Tensor, beta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and smooth L1, each summed.

    Args:
        logits: ``[N]`` objectness with truth ``[N]`` float, or ``[N, C]`` classes with truth ``[N]`` int64.
        deltas, wanted: ``[P, 4]``.
        beta: difference at which the square becomes a line.
    """
    entropy = F.binary_cross_entropy_with_logits if logits.ndim == 1 else F.cross_entropy
    return entropy(logits, truth, reduction="sum"), F.smooth_l1_loss(deltas, wanted, beta=beta, reduction="sum")
