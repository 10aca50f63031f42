"""What the model promises beyond torchvision's: empty images, crowds, draws of its own, frozen statistics."""

import copy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from resight.detection.matcher import balanced_minibatch
from resight.detection.processes import Shared
from resight.errors import ResightError
from resight.fpn import backbones
from resight.fpn.config import FpnModelConfig
from resight.fpn.faster_rcnn import CASCADE, FasterRCNN, fpn_loss
from resight.fpn.pretrained import load_pretrained
from resight.input.target import Target
from resight.models.build import build_model

SMALL = FpnModelConfig(min_size=96, max_size=160)


@pytest.fixture(scope="module")
def model() -> FasterRCNN:
    torch.manual_seed(0)
    model = build_model(SMALL, 3)
    load_pretrained(model, SMALL.name)
    return model


def _target(boxes: list[list[float]], crowd: list[bool] | None = None, seed: int = 0) -> Target:
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    crowds = torch.tensor(crowd or [False] * len(box), dtype=torch.bool)
    return Target(box, torch.zeros(len(box), dtype=torch.int64), crowds, seed)


def test_training_on_an_image_without_boxes_has_finite_losses_and_no_box_loss(model: FasterRCNN) -> None:
    losses = model.train()([torch.rand(3, 96, 128)], [_target([])])
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_box_reg"] == 0 and losses["loss_rpn_box_reg"] == 0
    sum(losses.values()).backward()
    model.zero_grad()


def test_an_image_where_nothing_is_found(model: FasterRCNN) -> None:
    limits = model.config
    model.config = replace(model.config, score=1.0)
    with torch.no_grad():
        (found,) = model.eval()([torch.zeros(3, 50, 70)])
    model.config = limits
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1), (37, 500)])
def test_odd_image_sizes(model: FasterRCNN, size: tuple[int, int]) -> None:
    with torch.no_grad():
        (found,) = model.eval()([torch.rand(3, *size)])
    assert (found.boxes[:, 0::2] <= size[1] + 1e-3).all() and (found.boxes[:, 1::2] <= size[0] + 1e-3).all()


def test_the_seed_of_an_image_decides_its_minibatch(model: FasterRCNN) -> None:
    image, boxes = torch.rand(3, 96, 128), [[20.0, 20, 60, 60]]

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed + 100)  # global state must not matter
        with torch.no_grad():
            return [float(v) for v in model.train()([image], [_target(boxes, seed=seed)]).values()]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_losses_sampler_and_nms_are_replaced_by_arguments(model: FasterRCNN) -> None:
    def doubled(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        entropy, box = fpn_loss(*given)
        return 2 * entropy, 3 * box

    def first(*given: object) -> torch.Tensor:
        return torch.arange(3)

    drawn = []

    def sampler(*given):
        drawn.append(given[1])
        return balanced_minibatch(*given)

    parts, given = (model.backbone, model.rpn, model.roi_heads, model.config), ([torch.rand(3, 96, 128)],)
    given += ([_target([[20.0, 20, 60, 60]])],)
    other = FasterRCNN(
        *parts, rpn_loss=doubled, box_loss=doubled, sampler=sampler, nms=lambda boxes, *_: torch.arange(3)
    )
    with torch.no_grad():
        usual, found = model.train()(*given), FasterRCNN(*parts, rpn_loss=doubled, box_loss=doubled).train()(*given)
        assert other.train()(*given).keys() == usual.keys() and drawn == [256, 128]
        assert len(other.eval()(given[0])[0].boxes) == 3
    for name, factor in zip(usual, (2, 3, 2, 3), strict=True):
        torch.testing.assert_close(found[name], factor * usual[name])


def test_a_crowd_is_neither_object_nor_background(model: FasterRCNN) -> None:
    image = torch.rand(3, 96, 128)
    limits = model.config
    model.config = replace(model.config, rpn_batch=10**6, box_batch=10**6)
    with torch.no_grad():
        without = model.train()([image], [_target([])])
        whole = model([image], [_target([[0, 0, 128, 96]], [True])])
    model.config = limits
    # Every anchor inside the picture lies in the crowd, so hardly any background is left.
    assert whole["loss_rpn_box_reg"] == 0 and whole["loss_box_reg"] == 0
    assert whole["loss_objectness"] != without["loss_objectness"]


def test_the_counts_of_both_stages_are_shared_at_once(model: FasterRCNN) -> None:
    class Two(Shared):
        def counts(self, counts):
            asked.append(counts)
            return [2 * count for count in counts]

    asked, given = [], ([torch.rand(3, 96, 128)], [_target([[20.0, 20, 60, 60]])])
    alone, halves = model.train()(*given), model(*given, Two())
    assert len(asked) == 1 and min(asked[0]) > 1
    assert {name: 2 * loss for name, loss in halves.items()} == alone


@pytest.fixture
def on_device(model: FasterRCNN) -> FasterRCNN:
    """One of its own to move, which no pass has used."""
    return copy.deepcopy(model)


def test_a_training_pass_on_a_gpu_hardly_waits_and_has_the_losses_of_a_cpu(pretended_cuda, model, on_device) -> None:
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(256, (3, 96, 128 - 16 * (i == 3)), dtype=torch.uint8, generator=draw) for i in range(8)]
    boxes = [[10.0, 10, 50, 40], [50, 40, 90, 90], [60, 60, 80, 80], [5, 5, 30, 90], [0, 0, 111, 95]]
    targets = [_target(boxes[: min(i, 5)], [i == 7 and j == 1 for j in range(min(i, 5))], i) for i in range(8)]
    with torch.no_grad():
        expected = {name: float(value) for name, value in model.train()(images, targets).items()}
    with pretended_cuda() as counts:
        on_device.to("cuda").train()
        there = [image.to("cuda") for image in images]
        counts.waits.clear(), counts.operators.clear()
        losses = torch.stack(list(on_device(there, targets).values())).tolist()  # which waits once
        assert counts.waited <= 12, counts.waits
        assert counts.launched <= 1550, counts.operators
    assert losses == pytest.approx(list(expected.values()), rel=1e-4)


@pytest.mark.parametrize("agnostic", [False, True])
def test_detection_on_a_gpu_hardly_waits_and_finds_what_a_cpu_does(pretended_cuda, model, on_device, agnostic) -> None:
    draw = torch.Generator().manual_seed(2)
    images = [torch.randint(256, (3, 110, 150), dtype=torch.uint8, generator=draw) for _ in range(3)]
    limits = model.config
    model.set_nms(class_agnostic=agnostic)
    with torch.no_grad():
        alone = [model.eval()([image])[0] for image in images]
    on_device.config, model.config = model.config, limits
    with pretended_cuda() as counts, torch.no_grad():
        on_device.to("cuda").eval()
        for expected in (alone[:1], alone):
            there = [image.to("cuda") for image in images[: len(expected)]]
            counts.waits.clear()
            found = on_device(there)
            assert counts.waited <= 7, counts.waits  # one of them for the RoIs of the second box head
            for one, other in zip(found, expected, strict=True):
                assert len(other.boxes) == 100 and torch.equal(one.labels, other.labels)
                torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_in_half_precision_the_best_are_chosen_by_all_digits(on_device) -> None:
    chosen = []
    on_device.nms = lambda boxes, scores, *_: chosen.append(scores) or torch.arange(3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        _, logits, *others = on_device.features(on_device.batch([torch.rand(3, 96, 128)]))
        assert logits[0].dtype == torch.bfloat16
        # bfloat16 has 128 numbers from 4 to 8, and their sigmoids would be four.
        logits = [4 + 4 * torch.rand_like(level) for level in logits]
        on_device.propose(logits, *others, torch.tensor([[128.0, 96, 128, 96]]), training=True)
    assert chosen[0].dtype == torch.float32 and chosen[0].unique().numel() > 100


def test_batch_norm_statistics_stay_as_they_are(model: FasterRCNN) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "num_batches" in k}
    model.train()([torch.rand(3, 96, 128)], [_target([[20.0, 20, 60, 60]])])
    assert before and all(torch.equal(before[k], model.state_dict()[k]) for k in before)


def test_freezing_leaves_early_stages_without_gradient() -> None:
    frozen = {
        depth: sum(not p.requires_grad for p in build_model(FpnModelConfig(freeze=depth), 2).parameters())
        for depth in range(6)
    }
    assert frozen[0] == 0 and all(frozen[d] < frozen[d + 1] for d in range(5))
    body = build_model(FpnModelConfig(freeze=2), 2).backbone.body
    trained = {
        name.split(".")[1] for name, p in body.named_parameters() if name.startswith("blocks") and p.requires_grad
    }
    assert trained == {"2", "3", "4", "5", "6"}  # blocks 0 and 1 have strides 2 and 4


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_other_timm_backbones(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(FpnModelConfig(name=name, min_size=64, max_size=96), 2)
    losses = model.train()([torch.rand(3, 64, 96)], [_target([[10.0, 10, 40, 40]])])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "word"), [("tf_efficientnet_lite00", "tf_efficientnet_lite0"), ("vit_tiny_patch16_224", "strides")]
)
def test_models_that_cannot_be_built_are_refused_by_name(name: str, word: str) -> None:
    with pytest.raises(ResightError) as error:
        build_model(FpnModelConfig(name=name), 2)
    assert name in str(error.value) and word in str(error.value)


def test_lite0_starts_from_the_packaged_weights_and_knows_imagenet() -> None:
    import timm

    weights = backbones.lite0_weights()
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    net.load_state_dict(weights)
    built = build_model(FpnModelConfig(), 2)
    load_pretrained(built, "tf_efficientnet_lite0")
    body = built.backbone.body.state_dict()
    assert body and all(torch.equal(body[key], weights[key]) for key in body)
    # A class of ImageNet that can be drawn: the network must tell a red disc on white from a black and white grid.
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    checker = ((x // 28 + y // 28) % 2).float().expand(1, 3, -1, -1) * 2 - 1
    with torch.no_grad():
        probability = net(checker).softmax(-1)
    assert probability.max() > 20 / 1000  # random weights give about 1/1000


def test_same_padding_with_a_constant_equals_timms() -> None:
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, pretrained=False, out_indices=(2, 3, 4)
    ).eval()
    ours = backbones.timm_backbone("tf_efficientnet_lite0", freeze=0).body.eval()
    ours.load_state_dict(theirs.state_dict())
    assert any(isinstance(layer, backbones.EvenSameConv2d) for layer in ours.modules())
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        for mine, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_batch_norm_without_statistics_update_is_what_evaluation_uses(model: FasterRCNN) -> None:
    model.train()
    assert all(not layer.training for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("resnet5O", "Did you mean 'resnet50'"),
        ("fasterrcnn_resnet50_fpn_v3", "Did you mean 'fasterrcnn_resnet50_fpn"),
        ("faster_rcnn_resnet_101_v1", "Did you mean 'faster_rcnn_resnet101_v1'"),
        ("?", "For instance tf_efficientnet_lite0"),
    ],
)
def test_an_unknown_model_is_answered_with_a_known_one(name: str, answer: str) -> None:
    with pytest.raises(ResightError) as caught:
        build_model(FpnModelConfig(name=name), 3)
    assert str(caught.value).startswith(f"model.name: unknown model '{name}'") and answer in str(caught.value)


@pytest.fixture(scope="module")
def cascaded() -> FasterRCNN:
    torch.manual_seed(0)
    model = build_model(SMALL.model_copy(update={"heads": 3}), 3)
    load_pretrained(model, SMALL.name)
    for _, head in model.box_heads:
        head["box_predictor"].bbox_pred.weight.data.mul_(0.1)  # boxes that move a little
        head["box_predictor"].bbox_pred.bias.data.fill_(0.2)
    return model


def _answers(model: FasterRCNN, monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, ...]]:
    """What is asked of each box head and what it answers: RoIs, their images, logits, deltas."""
    asked, classify = [], model.classify

    def kept(features, boxes, image, head):
        found = classify(features, boxes, image, head)
        asked.append((boxes.detach(), image, *(each.detach() for each in found)))
        return found

    monkeypatch.setattr(model, "classify", kept)
    return asked


def _moved(rois: torch.Tensor, deltas: torch.Tensor, number: int, side: tuple[int, int]) -> torch.Tensor:
    """torchvision's boxes of head ``number``, cut to the image."""
    found = BoxCoder(CASCADE[number].weights).decode_single(deltas[:, 0], rois)
    return clip_boxes_to_image(found, side)


def test_a_cascade_detects_the_last_boxes_with_the_mean_of_all_scores(cascaded: FasterRCNN, monkeypatch) -> None:
    asked, side = _answers(cascaded.eval(), monkeypatch), (96, 128)
    with torch.no_grad():
        features = cascaded.features(torch.rand(1, 3, *side))[0]
        rois = torch.tensor([[10.0, 10, 50, 60], [30, 5, 120, 90], [100, 60, 127, 95]])
        windows = torch.tensor([[128.0, 96, 128, 96]]).expand(3, 4)
        scores, boxes = cascaded.second_stage(features, rois, torch.zeros(3, dtype=torch.int64), windows)
    assert len(asked) == 3 and not torch.equal(asked[0][0], asked[2][0])
    for number in (1, 2):
        before, _, _, deltas = asked[number - 1]
        torch.testing.assert_close(asked[number][0], _moved(before, deltas, number - 1, side))
    torch.testing.assert_close(scores, sum(one[2].softmax(1) for one in asked) / 3)
    last = BoxCoder(CASCADE[2].weights).decode_single(asked[2][3][:, 0], asked[2][0])
    for kind in range(4):  # one box for all classes
        torch.testing.assert_close(boxes[:, kind], last)


def test_each_head_of_a_cascade_learns_from_the_boxes_of_the_one_before(cascaded: FasterRCNN, monkeypatch) -> None:
    learned, asked, side = [], _answers(cascaded.train(), monkeypatch), (96, 128)
    monkeypatch.setattr(cascaded, "box_loss", lambda *given: learned.append(given) or fpn_loss(*given))
    objects = torch.tensor([[20.0, 20, 60, 60], [70, 30, 120, 90], [5, 60, 40, 95]])
    labels, crowd = torch.tensor([0, 2, 1]), torch.tensor([False, False, True])
    targets = [Target(objects, labels, crowd, 1), _target([], seed=2)]
    losses = cascaded([torch.rand(3, *side), torch.rand(3, *side)], targets)
    positives = []
    for number, (logits, label, deltas, wanted) in enumerate(learned):
        rois, image, answered, _ = asked[number]
        if number:
            before, _, _, moved = asked[number - 1]
            torch.testing.assert_close(rois, _moved(before, moved, number - 1, side))
        iou = torch.where(image[:, None] == 0, box_iou(rois, objects[:2]), 0)
        best, nearest = iou.max(1)
        expected = torch.where(best >= CASCADE[number].iou, labels[nearest] + 1, 0)
        assert torch.equal(logits, answered)
        left_out = label == -100  # what lies in a crowd does not count
        assert (box_iou(rois[left_out], objects[2:]) > 0).all() and (image[left_out] == 0).all()
        assert torch.equal(label[~left_out], expected[~left_out])
        positive = torch.where(expected > 0)[0]
        exact = BoxCoder(CASCADE[number].weights).encode_single(objects[nearest[positive]], rois[positive])
        torch.testing.assert_close(wanted, exact)
        assert len(deltas) == len(positive)
        positives.append(len(positive))
    assert len(learned) == 3 and min(positives) > 0
    each = [fpn_loss(*given) for given in learned]
    for name, place in (("loss_classifier", 0), ("loss_box_reg", 1)):
        mean = sum(stage.share * one[place] for stage, one in zip(CASCADE, each, strict=True)) / len(learned[0][1])
        torch.testing.assert_close(losses[name], mean)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in cascaded.roi_heads.parameters())


def test_published_weights_of_a_detector_have_one_box_head() -> None:
    with pytest.raises(ValidationError, match="heads is 2, and the published weights of fasterrcnn_resnet50_fpn have"):
        FpnModelConfig(name="fasterrcnn_resnet50_fpn", heads=2)
    FpnModelConfig(name="fasterrcnn_resnet50_fpn", heads=2, start="none")
