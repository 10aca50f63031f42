"""Anchors, coder, matching and pooling, each against torchvision or worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou

from resight.detection import box_coder, matcher
from resight.detection.anchors import AnchorSettings, fit_anchors, grid_anchors, reachable_iou
from resight.detection.roi_align import pool


def _boxes(n: int, seed: int, side: float = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * side
    size = torch.rand(n, 2, generator=generator) * side / 2 + 1
    return torch.cat([corner, corner + size], 1)


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_codes_are_torchvisions_and_decode_to_the_box(seed: int, n: int) -> None:
    boxes, references = _boxes(n, seed), _boxes(n, seed + 1)
    weights = (10.0, 10.0, 5.0, 5.0)
    theirs = BoxCoder(weights)
    deltas = box_coder.encode(boxes, references, weights)
    torch.testing.assert_close(deltas, theirs.encode_single(boxes, references), atol=1e-4, rtol=1e-5)
    # Beyond the clamp of the log-size a box cannot come back.
    usual = (deltas[:, 2:].abs() / 5 < box_coder.MAX_LOG_SCALE).all(1)
    torch.testing.assert_close(box_coder.decode(deltas, references, weights)[usual], boxes[usual], atol=1e-2, rtol=1e-4)
    wild = deltas * 30
    torch.testing.assert_close(
        box_coder.decode(wild, references, weights), theirs.decode_single(wild, references), atol=1e-2, rtol=1e-5
    )


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


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 60))
def test_matches_are_torchvisions(seed: int, objects: int, anchors: int) -> None:
    iou = box_iou(_boxes(objects, seed), _boxes(anchors, seed + 1))
    for high, low, force in [(0.7, 0.3, True), (0.5, 0.5, False)]:
        theirs = Matcher(high, low, allow_low_quality_matches=force)
        assert torch.equal(matcher.match(iou, high, low, force), theirs(iou.clone()))


def test_without_objects_everything_is_background() -> None:
    assert (matcher.match(torch.zeros(0, 5), 0.7, 0.3, True) == matcher.NEGATIVE).all()


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_minibatch_keeps_to_its_limits(seed: int, positives: int, negatives: int, size: int) -> None:
    matches = torch.cat([torch.zeros(positives), torch.full((negatives,), -1), torch.full((7,), -2)]).long()
    matches = matches[torch.randperm(len(matches), generator=torch.Generator().manual_seed(seed))]
    positive, negative = matcher.sample(matches, size, 0.25, torch.Generator().manual_seed(seed))
    assert len(positive) == min(positives, int(size * 0.25))
    assert len(negative) == min(negatives, size - len(positive))
    assert (matches[positive] >= 0).all() and (matches[negative] == -1).all()
    assert len(set(positive.tolist())) == len(positive) and positive.tolist() == sorted(positive.tolist())


def test_every_negative_has_the_same_chance() -> None:
    matches = torch.full((10,), -1)
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[matcher.sample(matches, 3, 0.5, torch.Generator().manual_seed(seed))[1]] += 1
    assert (counts / 2000 - 0.3).abs().max() < 0.05


@given(st.integers(0, 10**6))
def test_pooling_is_torchvisions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(2, 5, 32, 40, generator=generator), torch.randn(2, 5, 16, 20, generator=generator)]
    for feature in features:
        feature.requires_grad_()
    # Boxes outside, of no size and over the border take part.
    boxes = torch.cat([_boxes(6, seed, 300), torch.tensor([[-30.0, -30, 5, 5], [5, 5, 5, 5], [0, 0, 320, 256]])])
    image = torch.tensor([0, 1] * 5)[: len(boxes)]
    theirs = MultiScaleRoIAlign(["0", "1"], output_size=7, sampling_ratio=2)
    named = {"0": features[0], "1": features[1]}
    order = torch.argsort(image, stable=True)
    expected = theirs(named, [boxes[image == 0], boxes[image == 1]], [(256, 320)] * 2)
    ours = pool(features, [8, 16], boxes[order], image[order], 7)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn(expected.shape, generator=generator)
    want = torch.autograd.grad((expected * weight).sum(), features)
    got = torch.autograd.grad((ours * weight).sum(), features)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, atol=1e-3, rtol=1e-3)


def test_reachable_iou_is_the_best_over_the_whole_grid() -> None:
    settings = AnchorSettings(((16, 23), (32, 45)), (0.5, 1.0, 2.0))
    anchors = torch.cat(
        [grid_anchors(settings.cell_anchors(level), (320 // s, 320 // s), (s, s)) for level, s in enumerate((8, 16))]
    )
    boxes = _boxes(40, 3, 80) + 80
    expected = box_iou(boxes, anchors).max(1).values.numpy()
    sizes, centers = (boxes[:, 2:] - boxes[:, :2]).numpy(), ((boxes[:, 2:] + boxes[:, :2]) / 2).numpy()
    np.testing.assert_allclose(reachable_iou(sizes, centers, settings, [8, 16]), expected, atol=1e-5)


@pytest.mark.parametrize("side", [12, 30, 90])
def test_fitted_anchors_reach_more_than_the_default_on_odd_shapes(side: float) -> None:
    rng = np.random.default_rng(0)
    sizes = np.stack([side * rng.uniform(0.8, 1.25, 200), 3.5 * side * rng.uniform(0.8, 1.25, 200)], 1)
    centers = rng.uniform(100, 500, (200, 2))
    strides = [8, 16, 32, 64]
    default = AnchorSettings(((16, 23), (32, 45), (64, 91), (128, 181)))
    fitted = fit_anchors(sizes, centers, strides)
    assert (
        reachable_iou(sizes, centers, fitted, strides).mean() > reachable_iou(sizes, centers, default, strides).mean()
    )
    assert fit_anchors(sizes, centers, strides) == fitted


def test_anchors_of_very_many_boxes_are_those_of_all_of_them() -> None:
    ratios = np.linspace(0.5, 4, 60_000)  # in an order that no first part stands for
    sizes = np.stack([30 / np.sqrt(ratios), 30 * np.sqrt(ratios)], 1)
    fitted = fit_anchors(sizes, np.zeros_like(sizes), [8, 16])
    np.testing.assert_allclose(fitted.ratios, np.quantile(ratios, [1 / 6, 1 / 2, 5 / 6]), rtol=0.01)


def test_no_boxes_give_anchors_all_the_same() -> None:
    assert fit_anchors(np.zeros((0, 2)), np.zeros((0, 2)), [8, 16]).per_location == 6
