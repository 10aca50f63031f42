"""Anchors against torchvision's, and how they are fitted."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from resight.detection import anchors
from resight.detection.anchors import AnchorSettings, fit_anchors, grid_anchors, reachable_iou


def test_anchors_are_torchvisions() -> None:
    settings = AnchorSettings(((16, 23), (32, 45)), (0.5, 1.0, 2.0))
    theirs = AnchorGenerator(((16, 23), (32, 45)), ((0.5, 1.0, 2.0),) * 2)
    features = [torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 3, 4)]
    (expected,) = theirs(ImageList(torch.zeros(1, 3, 48, 64), [(48, 64)]), features)
    ours = [
        grid_anchors(settings.cell_anchors(level), f.shape[2:], (8 << level, 8 << level))
        for level, f in enumerate(features)
    ]
    assert torch.equal(torch.cat(ours), expected)


def test_reachable_iou_is_the_best_over_the_whole_grid(boxes_of) -> None:
    settings = AnchorSettings(((16, 23), (32, 45)), (0.5, 1.0, 2.0))
    anchors = torch.cat(
        [grid_anchors(settings.cell_anchors(level), (320 // s, 320 // s), (s, s)) for level, s in enumerate((8, 16))]
    )
    boxes = boxes_of(40, 3, 80) + 80
    expected = box_iou(boxes, anchors).max(1).values.numpy()
    sizes, centers = (boxes[:, 2:] - boxes[:, :2]).numpy(), ((boxes[:, 2:] + boxes[:, :2]) / 2).numpy()
    np.testing.assert_allclose(reachable_iou(sizes, centers, settings, [8, 16]), expected, atol=1e-5)


@pytest.mark.parametrize("side", [12, 30, 90])
def test_fitted_anchors_reach_more_than_the_default_on_odd_shapes(side: float) -> None:
    rng = np.random.default_rng(0)
    sizes = np.stack([side * rng.uniform(0.8, 1.25, 200), 3.5 * side * rng.uniform(0.8, 1.25, 200)], 1)
    centers = rng.uniform(100, 500, (200, 2))
    strides = [8, 16, 32, 64]
    default = AnchorSettings(((16, 23, 32), (45, 64, 91), (128, 181, 256), (362, 512, 724)))
    fitted = fit_anchors(sizes, centers, strides)
    assert (
        reachable_iou(sizes, centers, fitted, strides).mean() > reachable_iou(sizes, centers, default, strides).mean()
    )
    assert fit_anchors(sizes, centers, strides) == fitted


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_rare_shape_has_an_anchor(spread: float) -> None:
    """One box in ten is tall, as traffic lights are among signs."""
    rng = np.random.default_rng(0)
    ratios = np.where(np.arange(300) % 10, rng.normal(1.0, 0.05 * spread, 300), rng.normal(2.5, 0.2 * spread, 300))
    sides, centers = rng.uniform(20, 120, 300), rng.uniform(100, 500, (300, 2))
    sizes, strides = np.stack([sides / np.sqrt(ratios), sides * np.sqrt(ratios)], 1), [8, 16, 32, 64]
    fitted = fit_anchors(sizes, centers, strides)
    assert abs(fitted.ratios[2] - 2.5) < 0.2
    iou = reachable_iou(sizes, centers, fitted, strides)
    assert (iou[ratios > 1.5] >= 0.7).mean() > 0.5 and (iou >= 0.7).mean() > 0.7


def test_small_boxes_among_large_ones_have_an_anchor() -> None:
    rng = np.random.default_rng(0)
    sides = np.where(np.arange(300) % 7, rng.uniform(50, 250, 300), rng.uniform(17, 30, 300))
    sizes, centers = np.stack([sides, sides], 1), rng.uniform(100, 500, (300, 2))
    iou = reachable_iou(sizes, centers, fit_anchors(sizes, centers, [8, 16, 32, 64]), [8, 16, 32, 64])
    assert (iou[sides < 32] >= 0.5).mean() > 0.7 and (iou >= 0.7).mean() > 0.7


def test_anchors_of_very_many_boxes_are_those_of_all_of_them(monkeypatch) -> None:
    ratios = np.linspace(0.5, 4, 60_000)  # in an order that no first part stands for
    sizes = np.stack([30 / np.sqrt(ratios), 30 * np.sqrt(ratios)], 1)
    fitted = fit_anchors(sizes, np.zeros_like(sizes), [8, 16])
    monkeypatch.setattr(anchors, "MOST_BOXES", len(sizes))
    np.testing.assert_allclose(fitted.ratios, fit_anchors(sizes, np.zeros_like(sizes), [8, 16]).ratios, rtol=0.01)


def test_no_boxes_give_anchors_all_the_same() -> None:
    assert fit_anchors(np.zeros((0, 2)), np.zeros((0, 2)), [8, 16]).per_location == 9
