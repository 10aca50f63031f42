"""Areas, clipping and scaling, worked by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from resight.detection.boxes import area, big_enough, clip, rescale, stable_nms

BOXES = torch.tensor([[-2.0, 3, 4, 9], [1, 1, 1, 8], [5, 5, 30, 40]])


def test_area_and_size() -> None:
    assert area(BOXES).tolist() == [36, 0, 875]
    assert big_enough(BOXES, 6).tolist() == [True, False, True]


def test_clip_to_the_window() -> None:
    assert clip(BOXES, 20, 10).tolist() == [[0, 3, 4, 9], [1, 1, 1, 8], [5, 5, 10, 20]]
    assert torch.equal(clip(BOXES[:, None], 20, 10)[:, 0], clip(BOXES, 20, 10))


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


def test_an_overlap_at_the_threshold():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 10]])
    scores = torch.tensor([0.9, 0.8])
    assert stable_nms(boxes, scores, 5, 0.5, 0.0).tolist() == [0, 1]
    assert stable_nms(boxes, scores, 5, 0.5, 0.0, equal=True).tolist() == [0]
