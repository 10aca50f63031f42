"""Areas, clipping and scaling, worked by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, box_iou

from resight.detection.boxes import (
    FARTHEST,
    area,
    at_rows,
    big_enough,
    clip,
    front,
    grouped_nms,
    nms_at_once,
    nms_of_groups,
    rescale,
    stable_nms,
    windows_of,
    within,
)

BOXES = torch.tensor([[-2.0, 3, 4, 9], [1, 1, 1, 8], [5, 5, 30, 40]])


def test_area_and_size() -> None:
    assert area(BOXES).tolist() == [36, 0, 875]
    assert big_enough(BOXES, 6).tolist() == [True, False, True]


def test_clip_to_the_window() -> None:
    assert clip(BOXES, 20, 10).tolist() == [[0, 3, 4, 9], [1, 1, 1, 8], [5, 5, 10, 20]]
    assert torch.equal(clip(BOXES[:, None], 20, 10)[:, 0], clip(BOXES, 20, 10))


def test_boxes_of_a_batch_keep_to_their_own_windows() -> None:
    windows = windows_of([torch.zeros(3, 20, 10), torch.zeros(3, 6, 40)])
    both = within(BOXES.expand(2, -1, -1), windows)
    assert torch.equal(both[0], clip(BOXES, 20, 10)) and torch.equal(both[1], clip(BOXES, 6, 40))
    rows = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(at_rows(both, rows), torch.stack([both[0][[2, 0]], both[1][[1, 1]]]))


def test_rescale_keeps_the_place_in_the_image() -> None:
    assert rescale(BOXES[2:], (10, 20), (20, 10)).tolist() == [[2.5, 10, 15, 80]]


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 120), st.integers(1, 12), st.sampled_from([0.3, 0.7]), st.booleans())
def test_suppression_is_greedy(boxes_of, seed, count, limit, threshold, equal):
    boxes = boxes_of(count, seed, 60).round()
    scores = (torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 10).round() / 10
    kept: list[int] = []
    for index in sorted(range(count), key=lambda i: (-float(scores[i]), i)):
        if len(kept) == limit or scores[index] <= 0.1:
            break
        overlap = box_iou(boxes[index : index + 1], boxes[kept])
        threshold32 = torch.tensor(threshold)
        if not (overlap >= threshold32 if equal else overlap > threshold32).any():
            kept.append(index)
    assert stable_nms(boxes, scores, limit, threshold, 0.1, equal).tolist() == kept


def test_groups_are_suppressed_apart_on_every_device(boxes_of, pretended_cuda):
    boxes, draw = boxes_of(600, 4, 60), torch.Generator().manual_seed(4)
    scores, groups = torch.rand(600, generator=draw), torch.randint(5, (600,), generator=draw)
    expected = nms_of_groups(boxes, scores, groups, 0.2)
    assert torch.equal(expected, batched_nms(boxes, scores, groups, 0.2)) and 50 < len(expected) < 500
    with pretended_cuda() as counts:
        there = [each.to("cuda") for each in (boxes, scores, groups)]
        counts.waits.clear()
        kept = nms_of_groups(*there, 0.2)
        assert counts.waited == 1 and torch.equal(kept.cpu(), expected)
        assert len(nms_of_groups(*(each[:0] for each in there), 0.5)) == 0


def test_an_overlap_at_the_threshold():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 10]])
    scores = torch.tensor([0.9, 0.8])
    assert stable_nms(boxes, scores, 5, 0.5, 0.0).tolist() == [0, 1]
    assert stable_nms(boxes, scores, 5, 0.5, 0.0, equal=True).tolist() == [0]


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 120), st.integers(1, 4), st.sampled_from([0.3, 0.7]), st.booleans())
def test_sets_are_suppressed_each_for_itself(boxes_of, seed, count, limit, threshold, equal):
    boxes = boxes_of(3 * count, seed, 60).view(3, count, 4)
    scores = (torch.rand(3, count, generator=torch.Generator().manual_seed(seed)) * 10).round() / 10
    found = grouped_nms(boxes, scores, limit, threshold, 0.1, equal)
    for row, box, score in zip(found.tolist(), boxes, scores, strict=True):
        kept = stable_nms(box, score, limit, threshold, 0.1, equal).tolist()
        assert row == kept + [-1] * (limit - len(kept))
    assert torch.equal(nms_at_once(boxes.double(), scores, limit, threshold, 0.1, equal), found)


def test_sets_that_keep_few_boxes_are_gone_through_to_their_end():
    # Nine times the limit are one and the same box; what else there is scores less.
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 18 + [[20.0, 0, 30, 10]] + [[0.0, 20, 10, 30]]).expand(2, -1, -1)
    scores = torch.linspace(1, 0.1, 20).expand(2, -1)
    for suppress in (grouped_nms, nms_at_once):
        assert suppress(boxes, scores, 2, 0.5, 0.0).tolist() == [[0, 18]] * 2
        assert suppress(boxes, scores, 2, 0.5, 0.5).tolist() == [[0, -1]] * 2


def test_boxes_without_end_and_without_score_disturb_no_other_set(pretended_cuda):
    endless = torch.tensor([[-torch.inf, 0, torch.inf, 10], [0, 0, 10, 10], [torch.nan, 0, 10, 10], [0, 0, 10, 9]])
    boxes = torch.stack([endless, BOXES[2:].expand(4, -1), torch.rand(4, 4) + FARTHEST])
    scores = torch.tensor([[0.9, 0.8, torch.nan, 0.7], [0.5, 0.6, 0.7, -torch.inf], [torch.nan] * 4])
    with pretended_cuda():
        found = grouped_nms(boxes.to("cuda"), scores.to("cuda"), 3, 0.5, 0.0).tolist()
    assert found == [[0, 1, -1], [2, -1, -1], [-1] * 3]


def test_the_chosen_come_first():
    assert front(torch.tensor([False, True, False, True])).tolist() == [1, 3, 0, 2]


def test_a_gpu_is_waited_for_as_often_for_many_sets_as_for_one(pretended_cuda, boxes_of):
    boxes, scores = boxes_of(90 * 40, 3, 60).view(90, 40, 4), torch.rand(90, 40)
    with pretended_cuda() as counts:
        there = boxes.to("cuda"), scores.to("cuda")
        counts.waits.clear()
        found = grouped_nms(*there, 4, 0.5, 0.1)
        assert counts.waited == 2, counts.waits
        assert found.tolist() == grouped_nms(boxes, scores, 4, 0.5, 0.1).tolist()
