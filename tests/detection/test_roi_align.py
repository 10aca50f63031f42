"""Pooling against torchvision's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign

from resight.detection.roi_align import assign_levels, pool


@given(st.integers(0, 10**6))
def test_pooling_is_torchvisions(boxes_of, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(2, 5, 32, 40, generator=generator), torch.randn(2, 5, 16, 20, generator=generator)]
    for feature in features:
        feature.requires_grad_()
    # Boxes outside, of no size and over the border take part.
    boxes = torch.cat([boxes_of(6, seed, 300), torch.tensor([[-30.0, -30, 5, 5], [5, 5, 5, 5], [0, 0, 320, 256]])])
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_determinism_no_device_takes_torchvisions_way(monkeypatch, dtype) -> None:
    def compiled(*_: object) -> None:
        raise AssertionError("a program of torch.compile")

    monkeypatch.setattr("resight.detection.roi_align.roi_align", compiled)
    monkeypatch.setattr("torch.are_deterministic_algorithms_enabled", lambda: True)
    # The device "meta" stands for any that is not the CPU: an index tensor left on the CPU is an error there too.
    features = [torch.empty(2, 5, 32, 40, dtype=dtype, device="meta"), torch.empty(2, 5, 16, 20, device="meta")]
    boxes, image = torch.empty(6, 4, device="meta"), torch.empty(6, dtype=torch.int64, device="meta")
    pooled = pool([features[0], features[1].to(dtype)], [8, 16], boxes, image, 7)
    assert pooled.shape == (6, 5, 7, 7) and pooled.device.type == "meta" and pooled.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_on_a_gpu_waits_once(boxes_of, pretended_cuda, dtype) -> None:
    draw = torch.Generator().manual_seed(5)
    features = [torch.randn(2, 5, 64 >> level, 80 >> level, generator=draw).to(dtype) for level in range(3)]
    boxes = boxes_of(60, 5, 600)
    image = torch.arange(60) % 2
    expected = pool(features, [4, 8, 16], boxes, image, 7)
    assert len(assign_levels(boxes, [4, 8, 16]).unique()) == 3
    with pretended_cuda() as counts:
        there = [each.to("cuda") for each in (*features, boxes, image)]
        counts.waits.clear()
        pooled = pool(there[:3], [4, 8, 16], *there[3:], 7)
        assert counts.waited == 1 and pooled.dtype == dtype
        torch.testing.assert_close(pooled.cpu(), expected, atol=1e-4, rtol=1e-4)
