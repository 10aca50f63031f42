"""Objects and crowds of a batch, packed and matched."""

import torch
from torchvision.ops import box_iou

from resight.detection import matcher
from resight.fpn.ground_truth import GroundTruth
from resight.input.target import Target

CPU = torch.device("cpu")


def _boxes(count: int, seed: int) -> torch.Tensor:
    corners = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat([corners.amin(0), corners.amax(0)], 1)


def _targets() -> list[Target]:
    """Of three images: two objects and a crowd between them, none, one."""
    crowds = [torch.tensor([False, True, False]), torch.zeros(0, dtype=torch.bool), torch.tensor([False])]
    return [
        Target(_boxes(len(crowd), seed), torch.arange(5, 5 + len(crowd)), crowd, seed)
        for seed, crowd in enumerate(crowds)
    ]


def test_objects_are_padded_and_crowds_set_apart() -> None:
    targets = _targets()
    truth = GroundTruth.of(targets, CPU)
    assert truth.counts == [2, 0, 1] and truth.there.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(truth.boxes[0], targets[0].boxes[[0, 2]]) and torch.equal(truth.boxes[2, 0], targets[2].boxes[0])
    assert truth.labels.tolist() == [[5, 7], [0, 0], [5, 0]] and not truth.boxes[~truth.there].any()
    assert [crowd.tolist() for crowd in truth.crowds] == [targets[0].boxes[1:2].tolist(), [], []]
    nothing = GroundTruth.of(targets[1:2], CPU)
    assert nothing.counts == [0] and nothing.boxes.shape == (1, 1, 4) and not nothing.there.any()


def test_each_image_is_matched_with_its_own() -> None:
    targets = _targets()
    boxes = torch.stack([_boxes(50, seed) for seed in (7, 8, 9)])
    truth = GroundTruth.of(targets, CPU)
    matches = truth.match(boxes, 0.3, 0.2, allow_low_quality_matches=True)
    for own, box, target in zip(matches, boxes, targets, strict=True):
        alone = matcher.match(box_iou(target.boxes[~target.crowd], box), 0.3, 0.2, allow_low_quality_matches=True)
        assert torch.equal(own, matcher.ignore_crowd(alone, box, target.boxes[target.crowd]))
    assert (matches[1] == matcher.NEGATIVE).all() and {0, 1} <= set(matches[0].tolist())
    image, row = torch.where(matches >= 0)
    rows = truth.rows(image, matches[image, row])
    assert torch.equal(truth.labels.flatten()[rows], truth.labels[image, matches[image, row]])


def test_nobody_waits_for_it(pretended_cuda) -> None:
    with pretended_cuda() as counts:
        there = GroundTruth.of(_targets(), torch.device("cuda"))
        assert (counts.pinned, counts.waited) == (1, 0)
        here = GroundTruth.of(_targets(), CPU)
        for name in ("boxes", "labels", "there"):
            assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
