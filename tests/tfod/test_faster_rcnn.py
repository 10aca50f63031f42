"""Faster R-CNN of the TFOD dialect: its losses beside plain loops, its detections worked by hand, its modes."""

import functools
import math
import zlib

import pytest
import torch
from torch.nn.functional import log_softmax

from resight.detection.boxes import grouped_nms
from resight.detection.losses import stage_loss
from resight.errors import ResightError
from resight.input.target import Target
from resight.models.build import build_model
from resight.tfod.config import TfodModelConfig
from resight.tfod.dialect import default_anchors, level_strides
from resight.tfod.faster_rcnn import TfodRCNN
from resight.tfod.parts import Proposals, balanced_draw

CLASSES = 3
NAMES = [
    "RPNLoss/localization_loss",
    "RPNLoss/objectness_loss",
    "BoxClassifierLoss/localization_loss",
    "BoxClassifierLoss/classification_loss",
]
# Anchors of 16 and 32 px, so that some lie inside of small images.
SMALL = {"anchor_scales": (0.0625, 0.125), "proposals": 16, "box_batch": 8, "detections": 20, "pad": False}
STATIC = {"share_boxes": True, "clip_anchors": True, "train_norms": True, "static_shapes": True, "matmul_crop": True}


def without_weights(**options) -> TfodRCNN:
    config = TfodModelConfig(name="faster_rcnn_resnet50_v1", min_size=64, max_size=96, tfod={**SMALL, **options})
    with torch.device("meta"):
        return build_model(config, CLASSES)


def make(train: bool = True, **options) -> TfodRCNN:
    model = without_weights(**options)
    values = {name: value_of(name, tensor.shape) for name, tensor in model.state_dict().items()}
    # All models have the same weights, which no test changes, and statistics of their own.
    values |= {name: value.clone() for name, value in values.items() if "running" in name}
    model.load_state_dict(values, assign=True)
    return model.requires_grad_().train(train)


@functools.cache
def value_of(name: str, shape: torch.Size) -> torch.Tensor:
    """Values with which the features stay of one size through all layers, and the answers differ between places."""
    if name.endswith("running_var"):
        return torch.full(shape, 1e4 if name.startswith("backbone.norm1") else 1.0)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    draw = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return draw * 0.05 + (0.65 if name.endswith("weight") else 0.0)
    draw = draw * (2 / shape[1:].numel()) ** 0.5
    return draw.to(memory_format=torch.channels_last) if draw.ndim == 4 else draw


def noise(seed: int, *size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def target(count: int = 2, seed: int = 0) -> Target:
    boxes = torch.tensor([[8.0, 8, 40, 44], [50, 20, 68, 37], [7, 9, 41, 42]])[:count]
    return Target(boxes, torch.tensor([2, 0, 1])[:count], torch.zeros(count, dtype=torch.bool), seed)


IMAGE = noise(5, 3, 64, 96) * 255


def overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both and both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def huber(delta, box, reference) -> float:
    def parts(b):
        return (b[1] + b[3]) / 2, (b[0] + b[2]) / 2, b[3] - b[1], b[2] - b[0]

    (y, x, h, w), (ya, xa, ha, wa) = parts(box), parts(reference)
    wanted = [10 * (y - ya) / ha, 10 * (x - xa) / wa, 5 * math.log(h / ha), 5 * math.log(w / wa)]
    steps = [abs(a - b) for a, b in zip(delta, wanted, strict=True)]
    return sum(d * d / 2 if d <= 1 else d - 0.5 for d in steps)


def test_the_first_stage_has_the_losses_of_plain_loops():
    model = without_weights(rpn_batch=10**6, rpn_box_weight=3.0, rpn_object_weight=0.5)
    anchors = torch.tensor([[0.0, 0, 32, 32], [8, 8, 40, 40], [48, 16, 72, 40], [60, 40, 90, 60], [9, 10, 41, 42]])
    deltas, logits = noise(1, 2, 5, 4) * 4 - 2, noise(2, 2, 5, 2) * 4 - 2
    targets = [target(2), target(3)]
    generators = [torch.Generator().manual_seed(0) for _ in targets]
    found = model.rpn_losses(deltas, logits, anchors, targets, generators)
    box_loss = object_loss = 0.0
    for delta, logit, each in zip(deltas, logits, targets, strict=True):
        overlaps = [[overlap(a, b) for b in each.boxes.tolist()] for a in anchors.tolist()]
        best = [row.index(max(row)) if max(row) >= 0.7 else -1 if max(row) < 0.3 else -2 for row in overlaps]
        for number in reversed(range(len(each.boxes))):
            column = [row[number] for row in overlaps]
            best[column.index(max(column))] = number
        labelled = sum(number != -2 for number in best)
        for number, c, scores, anchor in zip(best, delta, log_softmax(logit, 1), anchors, strict=True):
            if number >= 0:
                box_loss += huber(c.tolist(), each.boxes[number].tolist(), anchor.tolist()) / labelled / 2
            if number != -2:
                object_loss -= float(scores[int(number >= 0)]) / labelled / 2
    assert [float(x) for x in found] == pytest.approx([3.0 * box_loss, 0.5 * object_loss], rel=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_the_second_stage_has_the_losses_of_plain_loops(share):
    model = without_weights(share_boxes=share, box_weight=3.0, class_weight=0.5)
    boxes = torch.tensor([[8.0, 10, 42, 44], [50, 22, 66, 38], [60, 0, 90, 30], [0, 0, 20, 20], [0, 0, 0, 0]])
    proposals = Proposals(torch.stack([boxes, boxes.flip(0)]), torch.ones(2, 5), torch.tensor([4, 5]))
    deltas, logits = noise(1, 10, 1 if share else CLASSES, 4) * 4 - 2, noise(2, 10, CLASSES + 1) * 4 - 2
    targets = [target(2), target(3)]
    found = model.box_losses(deltas.view(2, 5, -1, 4), logits.view(2, 5, -1), proposals, targets)
    box_loss = class_loss = 0.0
    for image, each in enumerate(targets):
        count = int(proposals.count[image])
        for row in range(count):
            box = proposals.boxes[image, row].tolist()
            overlaps = [overlap(box, b) for b in each.boxes.tolist()]
            number = overlaps.index(max(overlaps))
            label = int(each.labels[number]) + 1 if max(overlaps) >= 0.5 else 0
            at = image * 5 + row
            if label:
                delta = deltas[at, 0 if share else label - 1].tolist()
                box_loss += huber(delta, each.boxes[number].tolist(), box) / count / 2
            class_loss -= float(log_softmax(logits[at], 0)[label]) / count / 2
    assert [float(x) for x in found] == pytest.approx([3.0 * box_loss, 0.5 * class_loss], rel=1e-5)


@pytest.mark.parametrize("options", [{}, STATIC])
def test_losses_follow_from_the_seed(options):
    model = make(rpn_batch=16, **options)
    with torch.no_grad():
        first, again, other = (model([IMAGE], [target(seed=seed)]) for seed in (1, 1, 2))
    assert first == again and first != other


def test_losses_sampler_and_nms_are_replaced_by_arguments():
    usual, drawn = make(), []

    def doubled(*given):
        entropy, box = stage_loss(*given)
        return 2 * entropy, 3 * box

    def sampler(*given):
        drawn.append(given[2])
        return balanced_draw(*given)

    def nms(*given):
        return grouped_nms(*given)[:, :1]

    other = TfodRCNN(usual.config, CLASSES, rpn_loss=doubled, box_loss=doubled, sampler=sampler).train()
    one = TfodRCNN(usual.config, CLASSES, nms=nms).eval()
    for model in (other, one):
        model.load_state_dict(usual.state_dict())
    with torch.no_grad():
        wanted, found = usual([IMAGE], [target()]), other([IMAGE], [target()])
        assert int(one.outputs(IMAGE).num_detections) <= CLASSES < int(usual.eval().outputs(IMAGE).num_detections)
    assert drawn == [usual.tfod.rpn_batch, usual.tfod.box_batch]
    for name, factor in zip(NAMES, (3, 2, 3, 2), strict=True):
        torch.testing.assert_close(found[name], factor * wanted[name])


@pytest.mark.parametrize("options", [{}, STATIC])
def test_evaluation_draws_no_proposals(options):
    model = make(train=False, rpn_batch=10**6, **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert model([IMAGE], [target(seed=1)]) == model([IMAGE], [target(seed=2)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{}, STATIC])
@pytest.mark.parametrize("train", [True, False])
def test_an_image_without_objects_is_background(options, train):
    losses = make(train, **options)([IMAGE], [target(0)])
    assert losses[NAMES[0]] == 0 and losses[NAMES[2]] == 0
    assert losses[NAMES[1]] > 0 and losses[NAMES[3]] > 0


@pytest.mark.parametrize("static", [False, True])
def test_an_image_smaller_than_every_anchor_trains(static):
    losses = make(anchor_scales=(1.0,), static_shapes=static)([IMAGE], [target()])
    # With static shapes empty proposals count as background.
    assert [value.item() == 0 for value in losses.values()] == [True, True, True, not static]
    sum(losses.values()).backward()


def test_a_batch_is_padded_or_of_one_size():
    images = [torch.full((3, 40, 96), 200.0), torch.full((3, 96, 64), 100.0)]
    batch = make(pad=True, pad_value=(1, 2, 3)).batch(images)
    assert batch.shape == (2, 3, 96, 96)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    mean = torch.tensor([123.68, 116.779, 103.939])
    torch.testing.assert_close(batch[0, :, 39, 95], 200 - mean)
    torch.testing.assert_close(batch[0, :, 40, 95], torch.tensor([1.0, 2, 3]) - mean)
    model = make()
    assert model.batch(images[:1] * 2).shape == (2, 3, 40, 96)
    with pytest.raises(ResightError, match="differ in size"):
        model.batch(images)


def test_a_padded_batch_has_the_mean_of_its_images_losses():
    model = make(pad=True, rpn_batch=10**6, proposals=40, box_batch=16)  # enough that some are on objects
    images, targets = [IMAGE, noise(6, 3, 96, 64) * 255], [target(2), target(3)]
    with torch.no_grad():
        together = model(images, targets)
        single = [model([image], [each]) for image, each in zip(images, targets, strict=True)]
    for name in NAMES:
        torch.testing.assert_close(together[name], (single[0][name] + single[1][name]) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, STATIC, {"fixed_size": (96, 64)}, {"pad": True}])
def test_detections_of_an_image_of_any_size(options):
    model = make(train=False, **options)
    image = (noise(7, 3, 90, 50) * 255).to(torch.uint8)
    with torch.inference_mode():
        (found,), outputs = model([image]), model.outputs(image)
    assert 0 < len(found.boxes) <= 20
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([50.0, 90, 50, 90]) + 1e-3).all()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.labels.dtype == torch.int64 and found.labels.min() >= 0 and found.labels.max() < CLASSES
    assert outputs.detection_boxes.shape == (1, 20, 4)
    assert outputs.detection_multiclass_scores.shape == (1, 20, CLASSES + 1)
    assert outputs.raw_detection_boxes.shape == (1, 16, 4)
    assert outputs.raw_detection_scores.shape == (1, 16, CLASSES + 1)
    assert float(outputs.num_detections) == len(found.boxes)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [([(60, 90)] * 2, {}), ([(60, 90), (90, 50)], {}), ([(60, 90), (90, 50)], {**STATIC, "pad": True})],
)
@torch.no_grad()
def test_images_of_a_batch_have_the_detections_of_each(sizes, options):
    model = make(train=False, **options)
    images = [(noise(seed, 3, *size) * 255).to(torch.uint8) for seed, size in enumerate(sizes)]
    for image, found in zip(images, model(images), strict=True):
        (alone,) = model([image])
        assert torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=0, atol=1e-3)


FIVE = torch.tensor([[8.0, 8, 40, 44], [50, 20, 68, 37], [7, 9, 41, 42], [20, 20, 60, 60], [30, 3, 36, 60]])


@pytest.mark.parametrize("options", [{"pad": True}, {**STATIC, "train_norms": False}])
@torch.no_grad()
def test_a_gpu_is_waited_for_a_few_times(options, pretended_cuda):
    model, images = make(**options), [noise(seed, 3, 64, 96) * 255 for seed in range(8)]
    targets = [Target(FIVE, torch.arange(5) % CLASSES, torch.zeros(5, dtype=torch.bool), seed) for seed in range(8)]
    wanted, (alone,) = model(images, targets), model.eval()(images[:1])
    with pretended_cuda() as counts:
        there = [image.to("cuda") for image in images]
        model.train().to("cuda")
        counts.waits.clear()
        found = model(there, targets)
        assert counts.waited <= 8, counts.waits
        torch.testing.assert_close({name: value.cpu() for name, value in found.items()}, wanted)
        model.eval()
        counts.waits.clear()
        (detected,) = model(there[:1])
        assert counts.waited <= 5, counts.waits
        model.set_nms(class_agnostic=True)
        assert model(there[:1])[0].labels.device.type == "cpu"
    assert torch.equal(detected.labels, alone.labels)
    torch.testing.assert_close(detected.boxes, alone.boxes)


@torch.inference_mode()
def test_nothing_found_is_zeros_and_first_classes():
    model = make(train=False, score=1.0)
    (found,), outputs = model([IMAGE]), model.outputs(IMAGE)
    assert len(found.boxes) == len(found.scores) == len(found.labels) == 0
    assert outputs.num_detections == 0 and (outputs.detection_classes == 1).all()
    assert outputs.detection_boxes.abs().sum() + outputs.detection_scores.sum() == 0


PROPOSALS = Proposals(
    torch.tensor([[[0.0, 0, 20, 10], [1, 0, 21, 10], [-30, 0, -10, 10], [50, 20, 110, 40], [0, 0, 0, 0]]]),
    torch.ones(1, 5),
    torch.tensor([4]),
)
PROBABILITIES = torch.tensor(
    [[[0.1, 0.5, 0.3, 0.1], [0.1, 0.6, 0.1, 0.2], [0.01, 0.97, 0.01, 0.01], [0.3, 0.3, 0.3, 0.1], [0.0, 1.0, 0.0, 0.0]]]
)
WINDOWS = torch.tensor([[100.0, 50, 100, 50]])


@pytest.mark.parametrize("share", [False, True])
def test_detections_worked_by_hand(share):
    model = without_weights(share_boxes=share, score=0.15)
    deltas = torch.zeros(1, 5, 1 if share else CLASSES, 4)
    outputs = model.postprocess_detections(deltas, PROBABILITIES.log(), PROPOSALS, WINDOWS)
    # The first loses class 1 to the second; the third lies outside; the padding does not count.
    count = int(outputs.num_detections)
    assert outputs.detection_scores[0, :count].tolist() == pytest.approx([0.6, 0.3, 0.3, 0.3, 0.2])
    assert outputs.detection_anchor_indices[0, :count].tolist() == [1, 3, 0, 3, 1]
    assert outputs.detection_classes[0, :count].tolist() == [1, 1, 2, 2, 3]
    torch.testing.assert_close(outputs.detection_boxes[0, 0], torch.tensor([0, 0.01, 0.2, 0.21]))
    torch.testing.assert_close(outputs.detection_boxes[0, 1], torch.tensor([0.4, 0.5, 0.8, 1.0]))
    torch.testing.assert_close(outputs.raw_detection_boxes[0, 2], torch.tensor([0.0, 0, 0.2, 0]))
    torch.testing.assert_close(outputs.raw_detection_scores, PROBABILITIES)
    (found,) = model.found(outputs, [(500, 1000)])
    torch.testing.assert_close(found.boxes[1], torch.tensor([500.0, 200, 1000, 400]))
    model.set_nms(1.0)
    (found,) = model.found(model.postprocess_detections(deltas, PROBABILITIES.log(), PROPOSALS, WINDOWS), [(1, 1)])
    assert len(found.boxes) == 6
    model.set_nms(0.5, class_agnostic=True)
    outputs = model.postprocess_detections(deltas, PROBABILITIES.log(), PROPOSALS, WINDOWS)
    assert outputs.detection_anchor_indices[0, : int(outputs.num_detections)].tolist() == [1, 3]


def test_each_class_has_its_own_box():
    model = without_weights(score=0.55)
    deltas = torch.zeros(1, 5, CLASSES, 4)
    deltas[0, 1, 0, 1] = 5.0  # half a width to the right
    outputs = model.postprocess_detections(deltas, PROBABILITIES.log(), PROPOSALS, WINDOWS)
    torch.testing.assert_close(outputs.detection_boxes[0, 0], torch.tensor([0, 0.11, 0.2, 0.31]))
    torch.testing.assert_close(outputs.raw_detection_boxes[0, 1], torch.tensor([0, 0.11, 0.2, 0.31]))


def test_the_limits_are_the_configurations():
    model = without_weights(detections=4, detections_per_class=1, nms_iou=1.0)
    outputs = model.postprocess_detections(torch.zeros(1, 5, CLASSES, 4), PROBABILITIES.log(), PROPOSALS, WINDOWS)
    # One of each class; class 1's is the one that lies outside.
    assert outputs.detection_classes[0, : int(outputs.num_detections)].tolist() == [2, 3]
    assert outputs.detection_boxes.shape == (1, 4, 4)


def test_half_precision_gives_losses_of_single_precision():
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([IMAGE], [target()])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


def test_its_anchors_are_its_own():
    config = TfodModelConfig(name="faster_rcnn_resnet101_v1")
    anchors = default_anchors(config)
    assert anchors.sizes == ((64, 128, 256, 512),) and sorted(anchors.ratios) == [0.5, 1, 2]
    assert level_strides(config) == [16]
