"""Areas, clipping and scaling, worked by hand."""

import torch

from resight.detection.boxes import area, big_enough, clip, rescale

BOXES = torch.tensor([[-2.0, 3, 4, 9], [1, 1, 1, 8], [5, 5, 30, 40]])


def test_area_and_size() -> None:
    assert area(BOXES).tolist() == [36, 0, 875]
    assert big_enough(BOXES, 6).tolist() == [True, False, True]


def test_clip_to_the_window() -> None:
    assert clip(BOXES, 20, 10).tolist() == [[0, 3, 4, 9], [1, 1, 1, 8], [5, 5, 10, 20]]
    assert torch.equal(clip(BOXES[:, None], 20, 10)[:, 0], clip(BOXES, 20, 10))


def test_rescale_keeps_the_place_in_the_image() -> None:
    assert rescale(BOXES[2:], (10, 20), (20, 10)).tolist() == [[2.5, 10, 15, 80]]
