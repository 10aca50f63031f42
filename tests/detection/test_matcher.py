"""Matching against torchvision's."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from resight.detection import matcher


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 60))
def test_matches_are_torchvisions(boxes_of, seed: int, objects: int, anchors: int) -> None:
    iou = box_iou(boxes_of(objects, seed), boxes_of(anchors, seed + 1))
    for high, low, force in [(0.7, 0.3, True), (0.5, 0.5, False)]:
        theirs = Matcher(high, low, allow_low_quality_matches=force)
        assert torch.equal(matcher.match(iou, high, low, force), theirs(iou.clone()))


def test_without_objects_everything_is_background() -> None:
    assert (matcher.match(torch.zeros(0, 5), 0.7, 0.3, True) == matcher.NEGATIVE).all()
