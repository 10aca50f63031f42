"""Matching against torchvision's, and what enters a minibatch."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from resight.detection import matcher
from resight.detection.matcher import balanced_sample


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 60))
def test_matches_are_torchvisions(boxes_of, seed: int, objects: int, anchors: int) -> None:
    iou = box_iou(boxes_of(objects, seed), boxes_of(anchors, seed + 1))
    for high, low, force in [(0.7, 0.3, True), (0.5, 0.5, False)]:
        theirs = Matcher(high, low, allow_low_quality_matches=force)
        assert torch.equal(matcher.match(iou, high, low, force), theirs(iou.clone()))


def test_without_objects_everything_is_background() -> None:
    assert (matcher.match(torch.zeros(0, 5), 0.7, 0.3, True) == matcher.NEGATIVE).all()


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_minibatch_keeps_to_its_limits(seed: int, positives: int, negatives: int, size: int) -> None:
    matches = torch.cat([torch.zeros(positives), torch.full((negatives,), -1), torch.full((7,), -2)]).long()
    matches = matches[torch.randperm(len(matches), generator=torch.Generator().manual_seed(seed))]
    positive, negative = balanced_sample(matches, size, 0.25, torch.Generator().manual_seed(seed))
    assert len(positive) == min(positives, int(size * 0.25))
    assert len(negative) == min(negatives, size - len(positive))
    assert (matches[positive] >= 0).all() and (matches[negative] == -1).all()
    assert len(set(positive.tolist())) == len(positive) and positive.tolist() == sorted(positive.tolist())


def test_every_negative_has_the_same_chance() -> None:
    matches = torch.full((10,), -1)
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[balanced_sample(matches, 3, 0.5, torch.Generator().manual_seed(seed))[1]] += 1
    assert (counts / 2000 - 0.3).abs().max() < 0.05
