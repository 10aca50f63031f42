"""The FPN dialect beside torchvision's Faster R-CNN, with the same weights.

In double precision: a random deep network amplifies float32 rounding to 1e-4 and more, whoever computes it, and would
hide a real difference of that size.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from resight.fpn.config import FpnModelConfig
from resight.fpn.faster_rcnn import FasterRCNN, RCNNConfig
from resight.fpn.specs import TORCHVISION
from resight.input.target import Target
from resight.models.build import build_model

CLASSES = 6
SIZES = {"min_size": 96, "max_size": 192}
PROPOSALS = 50  # keeps the test short


def _image(height: int, width: int, seed: int) -> Tensor:
    """``[3, height, width]`` of coloured patches: on mere noise all regions look alike to a random network."""
    patches = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.interpolate(patches, size=(height, width), mode="nearest")[0]


def _calibrate(model: nn.Module, images: list[Tensor]) -> None:
    """Scales the heads of a random model so that their outputs spread, and many classes and boxes come out."""

    def spread(layer: nn.Module, wanted: float) -> None:
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _m, _i, output: seen.append(output.transpose(0, 1).flatten(1)))
        model(images)
        handle.remove()
        outputs = torch.cat(seen, dim=1)  # [channels, places]
        mean = outputs.mean(1)
        factor = wanted / (outputs - mean[:, None]).std()
        layer.weight.data.mul_(factor)
        layer.bias.data.sub_(mean).mul_(factor)

    with torch.no_grad():
        spread(model.rpn.head.cls_logits, 1.0)
        spread(model.rpn.head.bbox_pred, 0.2)
        spread(model.roi_heads.box_predictor.cls_score, 1.0)
        spread(model.roi_heads.box_predictor.bbox_pred, 0.5)


def _pair(name: str, detections: int = 100, proposals: int = PROPOSALS) -> tuple[nn.Module, FasterRCNN]:
    torch.manual_seed(7)
    theirs = getattr(detection, name)(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        box_score_thresh=0.0,
        box_detections_per_img=detections,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        **SIZES,
    )
    images = [_image(120, 160, 1).float(), _image(200, 150, 2).float()]
    # Statistics of the data, as in trained weights: activations neither vanish nor explode on the way up.
    theirs.train()
    for layer in theirs.backbone.body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        theirs(
            images,
            [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}] * 2,
        )
    theirs.eval()
    _calibrate(theirs, images)
    theirs.double()
    ours = build_model(FpnModelConfig(name=name, freeze=0, detections=detections, **SIZES), CLASSES - 1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.config = replace(ours.config, score=0.0, rpn_post_nms_top_n=(proposals, proposals))
    return theirs, ours.double().eval()


@pytest.mark.parametrize("name", TORCHVISION)
def test_detections_are_torchvisions(name: str) -> None:
    theirs, ours = _pair(name)
    images = [_image(120, 160, 3), _image(210, 150, 4)]
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert sum(len(e["boxes"]) for e in expected) >= 50
    assert len(torch.cat([e["labels"] for e in expected]).unique()) >= 5
    for e, f in zip(expected, found, strict=True):
        torch.testing.assert_close(f.scores, e["scores"], atol=5e-5, rtol=0)
        # One to one, whatever the order among equal scores: same class, boxes to 1e-4 of the image.
        distance = (f.boxes[:, None] - e["boxes"]).abs().amax(2) / 210 + (f.scores[:, None] - e["scores"]).abs()
        distance[f.labels[:, None] != e["labels"] - 1] = torch.inf
        for row in distance:
            nearest = int(row.argmin())
            assert row[nearest] < 1e-4
            distance[:, nearest] = torch.inf


@pytest.mark.parametrize("name", TORCHVISION)
def test_losses_are_torchvisions_when_nothing_is_drawn(name: str) -> None:
    theirs, ours = _pair(name)
    theirs.train()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    theirs.rpn.fg_bg_sampler.batch_size_per_image = theirs.roi_heads.fg_bg_sampler.batch_size_per_image = 10**6
    before = (theirs.rpn._pre_nms_top_n["training"], theirs.rpn._pre_nms_top_n["testing"])
    ours.config = replace(ours.config, rpn_batch=10**6, box_batch=10**6, rpn_pre_nms_top_n=before)
    ours.train()
    images = [_image(96, 124, 5), _image(96, 114, 6)]
    boxes = [torch.tensor(b, dtype=torch.float64) for b in ([[20, 20, 70, 80], [80, 60, 120, 90]], [[30, 40, 90, 90]])]
    labels = [torch.tensor([0, 3]), torch.tensor([1])]
    expected = theirs(images, [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)])
    targets = [Target(b, label, torch.zeros(len(b), dtype=torch.bool)) for b, label in zip(boxes, labels, strict=True)]
    found = ours(images, targets)
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-5, atol=1e-9, check_dtype=False, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", [name for name in TORCHVISION if "mobilenet" in name])
def test_more_than_100_detections_are_torchvisions(name: str) -> None:
    theirs, ours = _pair(name, detections=300, proposals=300)
    image = _image(210, 150, 4)
    with torch.no_grad():
        (expected,), (found,) = theirs([image]), ours([image])
    assert len(found.scores) == len(expected["scores"]) > 200
    torch.testing.assert_close(found.scores, expected["scores"], atol=5e-5, rtol=0)
    distance = (found.boxes[:, None] - expected["boxes"]).abs().amax(2)
    assert (distance.amin(1) < 1e-2).all()


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", FpnModelConfig().name])
def test_there_are_proposals_for_all_detections(name: str) -> None:
    def limits(detections: int) -> RCNNConfig:
        return build_model(FpnModelConfig(name=name, detections=detections), 1).config

    usual = limits(100)
    assert limits(20) == replace(usual, detections=20)
    many = limits(1500)
    assert many.detections == 1500 <= many.rpn_post_nms_top_n[1] <= 3 * many.rpn_pre_nms_top_n[1]
    # What is learnt does not depend on it.
    before, after = usual.rpn_pre_nms_top_n, usual.rpn_post_nms_top_n
    assert replace(many, rpn_pre_nms_top_n=before, rpn_post_nms_top_n=after, detections=100) == usual
    assert (many.rpn_pre_nms_top_n[0], many.rpn_post_nms_top_n[0]) == (before[0], after[0])
