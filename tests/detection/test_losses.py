"""The losses of a stage against torchvision's arithmetic, worked by hand."""

import math

import torch

from resight.detection.losses import stage_loss

DELTAS, WANTED = torch.tensor([[0.0, 2, 0, 0], [0, 0, 0, 0.05]]), torch.zeros(2, 4)


def test_objectness_and_boxes() -> None:
    entropy, box = stage_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]), DELTAS, WANTED, beta=0.1)
    assert math.isclose(entropy, math.log(2) + math.log(1 + math.exp(3)), rel_tol=1e-6)
    assert math.isclose(box, (2 - 0.05) + 0.05**2 / 0.2, rel_tol=1e-6)


def test_classes() -> None:
    entropy, box = stage_loss(torch.zeros(3, 4), torch.tensor([0, 3, 1]), DELTAS, WANTED)
    assert math.isclose(entropy, 3 * math.log(4), rel_tol=1e-6)
    assert math.isclose(box, 1.5 + 0.05**2 / 2, rel_tol=1e-6)


def test_of_nothing_they_are_nothing() -> None:
    nothing = torch.zeros(0, 4)
    assert stage_loss(torch.zeros(0), torch.zeros(0), nothing, nothing) == (0, 0)
