"""How far an exported graph is from its model, stage by stage.

A detector decides: of two boxes that overlap and score alike NMS keeps one, and the last digit says which. Two correct
models may decide differently and then find different things, so their detections are not compared. Each stage is: the
model works out every number of a stage from what the exported graph had before that stage, and what NMS chose is held
against its rule, by the graph's own boxes and scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torchvision.ops import box_iou

Stages = Mapping[str, Tensor]  # what the exported graph worked out for an image, by the names of the stages

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of the score, and pixels per 100 px of the image's longer side
HEAD_TOLERANCE = 5e-4  # of a logit or box delta; where those of a head are larger than 1, of their root mean square
NEAR = 1e-6  # scores closer than this have no order
SLACK = 1e-3  # of an IoU, and pixels of a box: how far rounding may move them across a limit
AT_ONCE = 10_000  # boxes whose overlaps are worked out at a time


@dataclass
class Parity:
    """How close an exported model is to its own on a set of images.

    Args:
        empty: images in which nothing is found.
        proposals, detections: of the exported model, compared.
        score, head, box: largest differences: of scores, of logits and box deltas in parts of their size, and of
            corners in pixels per 100 px of the image's longer side.
        wrong: boxes that the exported model kept or left out against the rule of NMS, or listed in a wrong place.
    """

    images: int
    empty: int = 0
    proposals: int = 0
    detections: int = 0
    score: float = 0.0
    head: float = 0.0
    box: float = 0.0
    wrong: int = 0

    @property
    def ok(self) -> bool:
        near = self.score <= SCORE_TOLERANCE and self.head <= HEAD_TOLERANCE and self.box <= BOX_TOLERANCE
        return near and self.wrong == 0

    def text(self) -> str:
        verdict = "equal within the tolerance" if self.ok else "NOT equal within the tolerance"
        return (
            f"{self.proposals} proposals and {self.detections} detections in {self.images} images, "
            f"{self.empty} of them with none: largest difference "
            f"of a score {self.score:.1e} (tolerance {SCORE_TOLERANCE:.0e}), of a logit or box delta {self.head:.1e} "
            f"(tolerance {HEAD_TOLERANCE:.0e}), of a corner {self.box:.1e} % of the image (tolerance "
            f"{BOX_TOLERANCE:.0e}), {self.wrong} wrongly kept or left out: {verdict}"
        )

    def scores(self, ours: Tensor, theirs: Tensor) -> None:
        self.score = _largest(self.score, ours - theirs)

    def heads(self, ours: Tensor, theirs: Tensor) -> None:
        self.head = _largest(self.head, (ours - theirs) / _size(ours))

    def listed(self, ours: Tensor, theirs: Tensor, side: int) -> None:
        """Boxes ``[N, 4]`` that must be the same in the same order, of an image of ``side`` pixels."""
        self.wrong += abs(len(ours) - len(theirs))
        both = min(len(ours), len(theirs))
        self.box = _largest(self.box, (ours[:both] - theirs[:both]) / side * 100)

    def ordered(self, scores: Tensor) -> None:
        self.wrong += int((scores.diff() > NEAR).sum())

    def second_stage(
        self, classify: Callable[[Tensor], tuple[Tensor, Tensor]], proposals: Tensor, logits: Tensor, deltas: Tensor
    ) -> None:
        """What the graph answered for ``proposals`` ``[N, 4]`` against ``classify`` of them.

        A sample that lies on the border of the feature map counts or not by the last digit, so where the answers
        differ the model is asked again with the far corner a hair further in or out.
        """
        if not len(proposals):
            return
        own_logits, own_deltas = (each.clone() for each in classify(proposals))

        def apart(rows: Tensor, own_logits: Tensor, own_deltas: Tensor) -> Tensor:
            score = (own_logits.softmax(1) - logits[rows].softmax(1)).abs().amax(1) / SCORE_TOLERANCE
            logit = (own_logits - logits[rows]).abs().amax(1) / _size(logits) / HEAD_TOLERANCE
            delta = (own_deltas - deltas[rows]).abs().flatten(1).amax(1) / _size(deltas) / HEAD_TOLERANCE
            return torch.stack([score, logit, delta]).amax(0)

        rows = torch.where(~(apart(torch.arange(len(proposals)), own_logits, own_deltas) <= 1))[0]
        for x, y in product((-SLACK, SLACK), repeat=2) if len(rows) else ():
            again = classify(proposals[rows] + proposals.new_tensor([0, 0, x, y]))
            better = apart(rows, *again) < apart(rows, own_logits[rows], own_deltas[rows])
            own_logits[rows[better]], own_deltas[rows[better]] = again[0][better], again[1][better]
        self.scores(own_logits.softmax(1), logits.softmax(1))
        self.heads(own_logits, logits)
        self.heads(own_deltas, deltas)


def nms_faults(
    boxes: Tensor, scores: Tensor, kept: Tensor, iou: float, least: float, floor: float, side: float = 0.0
) -> int:
    """How many of ``boxes`` ``[N, 4]`` greedy NMS cannot have kept, or not have left out.

    No two that are kept overlap by more than the limit; what is left out overlaps a kept one of its score or a better
    one. What rounding may decide either way is right both ways.

    Args:
        scores: ``[N]``.
        kept: ``[M]`` int64, which of them are.
        least: boxes take part whose score is more than this,
        side: and that are as many pixels high and wide.
        floor: ``least``, or the lowest score that was kept where there was no room for more.
    """
    extent = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    slack = SLACK + SLACK / extent.clamp(min=0)
    wrong = int(((scores[kept] < least - NEAR) | (extent[kept] < side - SLACK)).sum())
    wrong += int(
        (_overlaps(boxes[kept], boxes[kept]) > iou + torch.maximum(slack[kept], slack[kept, None])).triu(1).sum()
    )
    for part in torch.where((scores > floor + NEAR) & (extent > side + SLACK))[0].split(AT_ONCE):
        better = scores[kept, None] >= scores[part] - NEAR
        explained = better & (_overlaps(boxes[kept], boxes[part]) > iou - slack[part])
        wrong += int((~explained.any(0)).sum())
    return wrong


def _overlaps(some: Tensor, others: Tensor) -> Tensor:
    return box_iou(some, others).nan_to_num(0)  # two empty boxes


def _size(values: Tensor) -> float:
    return max(1.0, float(values.square().mean().sqrt())) if len(values) else 1.0


def _largest(so_far: float, differences: Tensor) -> float:
    """Also where one of them is NaN: then it is NaN."""
    return float(torch.cat([differences.abs().flatten(), differences.new_tensor([so_far])]).max())
