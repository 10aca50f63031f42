"""An export that computes what its model computes is equal, whatever ties decide; one that does not is not."""

import pytest
import torch

from resight.detection.parity import NEAR, Parity, nms_faults

# Two that overlap by 2/3, one apart.
BOXES = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
SLIVER = torch.tensor([[0.0, 0, 1e-4, 10], [0, 0, 1e-4, 10]])


@pytest.mark.parametrize(
    ("scores", "kept", "faults"),
    [
        ((0.9, 0.8, 0.3), (0, 2), 0),
        ((0.9, 0.8, 0.3), (1, 2), 1),  # the better of two went
        ((0.9, 0.9 - NEAR / 2, 0.3), (1, 2), 0),  # a tie
        ((0.9, 0.8, 0.3), (0, 1, 2), 1),  # both stayed
        ((0.9, 0.8, 0.3), (0,), 1),
        ((0.9, 0.8, 0.3), (0, 0, 2), 1),
        ((0.9, 0.8, 0.3), (), 3),
        ((0.9, 0.8, 0.1), (0, 2), 1),  # kept below the threshold
        ((0.9, 0.8, 0.1), (0,), 0),
    ],
)
def test_what_nms_may_keep(scores, kept, faults):
    assert nms_faults(BOXES, torch.tensor(scores), torch.tensor(kept, dtype=torch.int64), 0.5, 0.2, 0.2) == faults


def test_a_full_list_has_no_room_for_what_is_worse_than_its_last():
    scores, kept = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0])
    assert nms_faults(BOXES, scores, kept, 0.5, 0.2, floor=0.9) == 0
    assert nms_faults(BOXES, scores, torch.tensor([2]), 0.5, 0.2, floor=0.3) == 2


def test_rounding_decides_at_the_limit_and_with_boxes_that_have_no_width():
    scores = torch.tensor([0.9, 0.8, 0.3])
    for limit, faults in ((2 / 3 - 5e-4, 0), (2 / 3 + 5e-4, 0), (0.6, 1), (0.7, 0)):
        assert nms_faults(BOXES, scores, torch.tensor([0, 1, 2]), limit, 0.2, 0.2) == faults
    assert nms_faults(BOXES, scores, torch.tensor([0, 2]), 0.7, 0.2, 0.2) == 1
    for kept in ([0], [0, 1], []):
        assert nms_faults(SLIVER, scores[:2], torch.tensor(kept, dtype=torch.int64), 0.5, 0.2, 0.2) == 0
    assert nms_faults(BOXES[:1], scores[:1], torch.tensor([0]), 0.5, 0.2, 0.2, side=20) == 1


def test_a_number_that_is_none_is_not_equal():
    assert Parity(1).ok and "equal within the tolerance" in Parity(1).text()
    nan = float("nan")
    for wrong in ({"score": nan}, {"head": nan}, {"box": nan}, {"wrong": 1}, {"score": 2e-3}, {"head": 2e-3}):
        assert not Parity(1, **wrong).ok and "NOT equal" in Parity(1, **wrong).text()
