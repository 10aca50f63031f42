"""What TFOD itself computed, stage by stage, and what this dialect makes of the same.

``goldens/trim.py`` made the goldens from full ones; where RESIGHT_TFOD names a folder that holds those, they are
compared too. Each stage after the RPN is given what TFOD's had: one unit in the last place can reorder what follows.
"""

import functools
import json
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resight.detection.boxes import clip, windows_of
from resight.input.target import Target
from resight.models.build import build_model
from resight.tfod import parts as tfod_parts
from resight.tfod.checkpoint.variables import SUFFIX, checkpoint_keys, to_tensorflow, to_torch
from resight.tfod.config import TfodModelConfig
from resight.tfod.faster_rcnn import TfodRCNN
from resight.tfod.parts import Proposals
from resight.training.optim import Momentum

TRIMMED = Path(__file__).with_name("goldens")
FOLDERS = {"trimmed": TRIMMED}
if os.environ.get("RESIGHT_TFOD"):
    FOLDERS["full"] = Path(os.environ["RESIGHT_TFOD"]) / "goldens"
PATHS = {f"{kind}-{path.stem}": path for kind, folder in FOLDERS.items() for path in sorted(folder.glob("r*_*.npz"))}
INFERENCE = [name for name in PATHS if "_infer_" in name]
TRAINING = [name for name in PATHS if "_train_" in name]
TPU = {"share_boxes": True, "clip_anchors": True, "train_norms": True, "static_shapes": True, "matmul_crop": True}
LOSSES = (
    "RPNLoss/localization_loss",
    "RPNLoss/objectness_loss",
    "BoxClassifierLoss/localization_loss",
    "BoxClassifierLoss/classification_loss",
)
XYXY = [1, 0, 3, 2]
DRAWS = [torch.Generator()]
value_of = functools.cache(runpy.run_path(str(TRIMMED / "weights.py"))["value_of"])


class Golden(dict):
    """TFOD's arrays by name. Large ones of a trimmed golden keep every so many entries of each axis."""

    def __init__(self, name: str) -> None:
        self.path = PATHS[name]
        with np.load(self.path) as arrays:
            super().__init__({key: torch.from_numpy(arrays[key]) for key in arrays if arrays[key].dtype.kind in "fiu"})
        self.tpu = "tpu" in name
        self.depth = int(re.search(r"-r(\d+)", name)[1])
        self.trimmed = self.path.parent == TRIMMED

    def error(self, name: str, found: torch.Tensor, relative: bool = False, rows: slice = slice(None)) -> float:
        """The largest difference from what TFOD found in these ``rows``; or the norm of all, relative to TFOD's."""
        steps = self.get(f"steps/{name}")
        if steps is not None:
            found = found[tuple(slice(None, None, step) for step in steps.tolist())]
        expected = self[name][rows].double()
        assert found.shape == expected.shape
        difference = found.double() - expected
        return float(difference.norm() / expected.norm() if relative else difference.abs().max())


golden = functools.cache(Golden)


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Goldens and weights are shared by these tests, and freed after them."""
    yield
    golden.cache_clear()
    value_of.cache_clear()


def make(g: Golden, weights: bool = True, **options) -> TfodRCNN:
    short, long, pad = g["resizer"].tolist()
    classes = g["class_logits_with_background"].shape[-1] - 1
    tfod = {"pad": bool(pad), **(TPU if g.tpu else {}), **options}
    config = TfodModelConfig(name=f"faster_rcnn_resnet{g.depth}_v1", min_size=short, max_size=long, tfod=tfod)
    with torch.device("meta"):
        model = build_model(config, classes)
    if weights:
        values = {
            variable.name: to_torch(value_of(variable.key.removesuffix(SUFFIX), variable.shape)).clone()
            for variable in checkpoint_keys(g.depth, classes, share_boxes=g.tpu)
        }
        model.load_state_dict(values, assign=True)
    return model.to(memory_format=torch.channels_last).requires_grad_()


def planes(nhwc: torch.Tensor) -> torch.Tensor:
    return nhwc.permute(0, 3, 1, 2)


def rows(planes: torch.Tensor) -> torch.Tensor:
    return planes.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", INFERENCE)
@torch.inference_mode()
def test_inference(name):
    g = golden(name)
    model = make(g, detections=g["detection_boxes"].shape[1]).eval()
    image = g["image_uint8"].permute(2, 0, 1)
    small = model.resize(image)
    windows = windows_of([small])
    batch = model.batch([small])
    assert g.error("preprocessed", rows(batch)) == 0
    size = (batch.shape[2], batch.shape[3])
    features = model.backbone(batch)
    assert g.error("rpn_features", rows(features)) < 1e-3
    deltas, logits = model.rpn(features)
    assert g.error("rpn_box_encodings", deltas) < 1e-3
    assert g.error("rpn_objectness_logits", logits) < 1e-3
    anchors = clip(model.anchor_grid(features), *size)
    assert g.error("anchors", anchors[:, XYXY]) == 0

    deltas, logits = g["rpn_box_encodings"], g["rpn_objectness_logits"]
    found = model.propose(deltas, logits, anchors, windows, model.serving)
    assert found.count.tolist() == [int(g["num_proposals"])]
    assert g.error("proposal_boxes_abs", found.boxes[..., XYXY]) < 1e-4
    assert g.error("proposal_scores", found.scores) < 1e-6
    if "evalloop/num_proposals" in g:
        other = model.propose(deltas, logits, anchors, windows, model.learning)
        assert other.count.tolist() == [int(g["evalloop/num_proposals"])]
        assert g.error("evalloop/proposal_boxes_abs", other.boxes[..., XYXY]) < 1e-4

    proposals = Proposals(g["proposal_boxes_abs"][..., XYXY], g["proposal_scores"], found.count)
    boxes = g["proposal_boxes_normalized"][0][:, XYXY]
    image_of = torch.zeros(len(boxes), dtype=torch.int64)
    crops = tfod_parts.crop_and_resize(planes(g["rpn_features"]), boxes, image_of, 14, model.border)
    crops = F.max_pool2d(crops, 2)  # of the channels that the golden has
    assert float((rows(crops[:4]) - g["roi_crops_first4"]).abs().max()) < 1e-4
    assert float((crops.mean((2, 3)) - g["roi_crops_mean"]).abs().max()) < 1e-4
    # Each proposal goes its own way through the second stage, so a part of them will do.
    whole, part = (features, slice(None, None, 8)) if g.trimmed else (planes(g["rpn_features"]), slice(None))
    hidden = []
    model.head.register_forward_hook(lambda *call: hidden.append(call[-1]))
    (deltas,), (logits,) = model.classify(whole, proposals.boxes[:, part], size)
    for field, found in (
        ("box_classifier_features_mean", hidden[0]),
        ("refined_box_encodings", deltas),
        ("class_logits_with_background", logits),
    ):
        assert g.error(field, found, rows=part) < 1e-3, field
    outputs = model.postprocess_detections(
        g["refined_box_encodings"][None], g["class_logits_with_background"][None], proposals, windows
    )
    for field in ("detection_anchor_indices", "num_detections"):
        assert g.error(field, getattr(outputs, field)) == 0, field
    assert g.error("detection_classes", outputs.detection_classes - 1) == 0  # the exported model counts from 1
    for field in ("boxes", "scores", "multiclass_scores"):
        assert g.error(f"detection_{field}", getattr(outputs, f"detection_{field}")) < 1e-6, field
    for field in ("raw_detection_boxes", "raw_detection_scores"):
        assert g.error(field, getattr(outputs, field)) < 1e-6, field

    if g.trimmed and g.depth == 101:
        return  # seconds, for the same stages again
    outputs = model.outputs(image)
    assert g.error("detection_scores", outputs.detection_scores) < 2e-3


def prepared(g: Golden, weights: bool) -> tuple[TfodRCNN, torch.Tensor, Target]:
    """The model with minibatches that leave nothing to chance, the image and its objects at the network's size."""
    options = {"rpn_batch": 10**6, "box_batch": 300, "box_positive": 1.0}
    if g.tpu:
        options = {"rpn_batch": int(g["rpn_minibatch_size"]), "box_batch": int(g["second_stage_batch_size"])}
        options |= {"proposals": int(g["first_stage_max_proposals"]), "rpn_nms_iou": float(g["nms_iou"])}
    model = make(g, weights, **options).train()
    height, width, _ = g["image_hw_seed"][0].tolist()
    image = model.resize(g["images_pixels"].view(height, width, 3).permute(2, 0, 1))
    across, down = (model.config.max_size,) * 2 if model.tfod.pad else (image.shape[2], image.shape[1])
    boxes = g["gt_boxes_normalized"][0][:, XYXY] * torch.tensor([across, down, across, down])
    return model, image, Target(boxes, g["gt_classes0"][0], torch.zeros(len(boxes), dtype=torch.bool))


@pytest.mark.parametrize("name", TRAINING)
def test_targets_and_losses_from_given_answers(name):
    g = golden(name)
    model, image, target = prepared(g, weights=False)
    size = (model.config.max_size,) * 2 if model.tfod.pad else tuple(image.shape[1:])
    grid = model.anchor_grid(torch.zeros(1, 1, -(-size[0] // 16), -(-size[1] // 16)))
    kept = torch.ones(len(grid), dtype=torch.bool)
    anchors = clip(grid, *size)
    if not g.tpu:
        kept = tfod_parts.inside(grid, *size)
        anchors = grid[kept]
    assert g.error("anchors" if g.tpu else "anchors_pruned", anchors[:, XYXY]) == 0
    matches = tfod_parts.match_anchors(tfod_parts.iou(target.boxes, anchors))
    assert g.error("rpn_match", matches[None]) == 0
    positive = matches >= 0
    deltas = torch.zeros(1, len(anchors), 4)
    deltas[0, positive] = tfod_parts.encode(target.boxes[matches[positive]], anchors[positive])
    assert g.error("rpn_reg_targets", deltas) < 1e-6
    proposals = model.propose(
        g["rpn_box_encodings"], g["rpn_objectness_logits"], anchors, windows_of([image]), model.learning
    )
    proposals = model.sample(proposals, [target], DRAWS)
    assert proposals.count.tolist() == [int(g["num_proposals"])]
    assert g.error("proposal_boxes_abs", proposals.boxes[..., XYXY]) < 1e-4
    proposals = Proposals(g["proposal_boxes_abs"][..., XYXY], proposals.scores, proposals.count)
    matches = model._match(proposals, [target])
    assert g.error("det_match", matches) == 0
    positive = matches >= 0
    deltas = torch.zeros(*positive.shape, 4)
    deltas[positive] = tfod_parts.encode(target.boxes[matches[positive]], proposals.boxes[positive])
    assert g.error("det_reg_targets", deltas) < 1e-6

    names = ("rpn_box_encodings", "rpn_objectness_logits", "refined_box_encodings", "class_logits_with_background")
    answers = [g[name].clone().requires_grad_() for name in names]
    losses = [
        *model.rpn_losses(answers[0], answers[1], anchors, [target], DRAWS),
        *model.box_losses(answers[2][None], answers[3][None], proposals, [target]),
    ]
    expected = [float(g[f"step0/Loss/{name}"]) for name in LOSSES]
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-5)
    sum(losses).backward()

    def by_anchor(answer: torch.Tensor) -> torch.Tensor:
        whole = torch.zeros(len(grid), answer.shape[2])
        whole[kept] = answer.grad[0]
        return whole.view(-1, 12 * answer.shape[2]).sum(0)

    first, second = "model/_first_stage_box_predictor/_prediction_heads", "model/_mask_rcnn_box_predictor"
    # A layer's bias has the sum of the gradients of its answers.
    for key, found in {
        f"{first}/box_encodings/0/_box_encoder_layers/0": by_anchor(answers[0]),
        f"{first}/class_predictions_with_background/0/_class_predictor_layers/0": by_anchor(answers[1]),
        f"{second}/_box_prediction_head/_box_encoder_layers/1": answers[2].grad.sum(0).flatten(),
        f"{second}/_class_prediction_head/_class_predictor_layers/1": answers[3].grad.sum(0),
    }.items():
        assert g.error(f"grad/{key}/bias", found, relative=True) < 1e-5, key


@pytest.mark.parametrize("name", TRAINING)
def test_training_from_end_to_end(name):
    g = golden(name)
    model, image, target = prepared(g, weights=True)
    if f"evalmode/Loss/{LOSSES[0]}" in g:
        model.eval()
        with torch.no_grad():
            losses = model.losses([image], [target])
        for key in LOSSES:
            assert losses[key].item() == pytest.approx(float(g[f"evalmode/Loss/{key}"]), rel=1e-3)
        model.train()
    statistics = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    variables = {v.key.removesuffix(SUFFIX): v for v in checkpoint_keys(g.depth, 3, g.tpu)}
    layers = {v.full_name: v.name for v in variables.values()}
    parameters = dict(model.named_parameters())
    norms = json.loads(g.path.with_name(f"{g.path.stem}_gradnorms.json").read_text())
    rate, limit = (float(g["lr"]), float("inf")) if g.tpu else (1e-3, 10.0)
    optimizer = Momentum(parameters.values(), rate, 0.9)

    def error(key: str, tensor: torch.Tensor) -> float:
        return g.error(key, torch.from_numpy(to_tensorflow(tensor)), relative=True)

    for step in range(sum(key.endswith("/global_grad_norm") for key in g)):
        losses = model([image], [target])
        assert tuple(losses) == LOSSES
        for key in LOSSES:
            tolerance = 1e-3 if step == 0 else 1e-2
            assert losses[key].item() == pytest.approx(float(g[f"step{step}/Loss/{key}"]), rel=tolerance)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        gradients = {key: parameters[variables[key].name].grad for key in norms}
        # With the statistics of the batch TFOD itself is uncertain by more than a hundredth here and there.
        uncertain = 0.1 if g.tpu else 1e-2
        if step == 0:
            assert sorted(variables[key].name for key in norms) == sorted(parameters)
            assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
            errors = sorted(abs(float(gradients[key].norm()) / each["norm"] - 1) for key, each in norms.items())
            assert errors[-1] < uncertain and errors[len(errors) // 2] < 1e-2
            for key in (key for key in g if key.startswith("grad/")):
                assert error(key, gradients[key.removeprefix("grad/")]) < uncertain, key
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), limit))
        assert norm == pytest.approx(float(g[f"step{step}/global_grad_norm"]), rel=1e-2)
        optimizer.step()
        for key in (key for key in g if key.startswith(f"step{step}/")):
            found = key.partition("/")[2]
            if "_bn/moving" in key:
                assert error(key, model.state_dict()[layers[found]]) < 1e-4, key
            elif found.startswith("momentum/"):
                weight = parameters[variables[found.removeprefix("momentum/")].name]
                assert error(key, optimizer.state[weight]["velocity"]) < uncertain, key
    changed = {name for name, value in statistics.items() if not torch.equal(value, model.state_dict()[name])}
    assert changed == (set(statistics) if g.tpu else set())
