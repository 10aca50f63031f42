"""What TFOD itself computed, stage by stage. Run where RESIGHT_TFOD names the folder that holds it."""

import functools
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resight.detection.boxes import clip
from resight.input.target import Target
from resight.models.build import build_model
from resight.tfod import parts as tfod_parts
from resight.tfod.checkpoint.variables import SUFFIX, checkpoint_keys, to_torch
from resight.tfod.config import TfodModelConfig
from resight.tfod.faster_rcnn import TfodRCNN
from resight.tfod.parts import Proposals

FOLDER = Path(os.environ["RESIGHT_TFOD"])
INFERENCE = sorted(path.stem for path in (FOLDER / "goldens").glob("r*_infer_*.npz"))
TRAINING = sorted(path.stem for path in (FOLDER / "goldens").glob("r*_train_*.npz"))
TPU = {"share_boxes": True, "clip_anchors": True, "train_norms": True, "static_shapes": True, "matmul_crop": True}
LOSSES = (
    "RPNLoss/localization_loss",
    "RPNLoss/objectness_loss",
    "BoxClassifierLoss/localization_loss",
    "BoxClassifierLoss/classification_loss",
)
XYXY = [1, 0, 3, 2]
DRAWS = [torch.Generator()]


@functools.cache
def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / "goldens" / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fiu"}


def depth_of(name: str) -> int:
    return int(name.split("_")[0].removeprefix("r").removesuffix("tpu"))


def make(name: str, **options) -> TfodRCNN:
    g = golden(name)
    tpu = "tpu" in name
    short, long, pad = g["resizer"].tolist()
    classes = g["class_logits_with_background"].shape[-1] - 1
    tfod = {"pad": bool(pad), **(TPU if tpu else {}), **options}
    depth = depth_of(name)
    config = TfodModelConfig(name=f"faster_rcnn_resnet{depth}_v1", min_size=short, max_size=long, tfod=tfod)
    with torch.device("meta"):
        model = build_model(config, classes)
    spec = importlib.util.spec_from_file_location("checkpoint_values", FOLDER / "checkpoint_values.py")
    values = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(values)
    weights = {
        variable.name: to_torch(values.value(variable.key.removesuffix(SUFFIX), variable.shape))
        for variable in checkpoint_keys(depth, classes, share_boxes=tpu)
    }
    model.load_state_dict(weights, assign=True)
    return model.to(memory_format=torch.channels_last).requires_grad_()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max())


def planes(nhwc: torch.Tensor) -> torch.Tensor:
    return nhwc.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", INFERENCE)
def test_inference(name):
    g = golden(name)
    model = make(name, detections=g["detection_boxes"].shape[1]).eval()
    image = g["image_uint8"].permute(2, 0, 1)
    with torch.inference_mode():
        small = model.resize(image)
        true_size = (small.shape[1], small.shape[2])
        batch = model.batch([small])
        assert torch.equal(planes(g["preprocessed"]), batch)
        size = (batch.shape[2], batch.shape[3])
        features = model.backbone(batch)
        assert difference(features, planes(g["rpn_features"])) < 1e-3
        deltas, logits = model.rpn(features)
        assert difference(deltas, g["rpn_box_encodings"]) < 1e-3
        assert difference(logits, g["rpn_objectness_logits"]) < 1e-3
        anchors = clip(model.anchor_grid(features), *size)
        assert torch.equal(anchors[:, XYXY], g["anchors"])

        # From here on each stage is given what TFOD's had.
        deltas, logits = g["rpn_box_encodings"][0], g["rpn_objectness_logits"][0]
        found = model.propose(deltas, logits, anchors, true_size, model.serving)
        assert found.count == int(g["num_proposals"])
        assert difference(found.boxes[:, XYXY], g["proposal_boxes_abs"][0]) < 1e-4
        assert difference(found.scores, g["proposal_scores"][0]) < 1e-6
        if "evalloop/num_proposals" in g:
            other = model.propose(deltas, logits, anchors, true_size, model.learning)
            assert other.count == int(g["evalloop/num_proposals"])
            assert difference(other.boxes[:, XYXY], g["evalloop/proposal_boxes_abs"][0]) < 1e-4
        proposals = Proposals(g["proposal_boxes_abs"][0][:, XYXY], g["proposal_scores"][0], found.count)
        boxes = g["proposal_boxes_normalized"][0][:, XYXY]
        image_of = torch.zeros(len(boxes), dtype=torch.int64)
        crops = tfod_parts.crop_and_resize(planes(g["rpn_features"]), boxes, image_of, 14, model.border)
        crops = F.max_pool2d(crops, 2)
        assert difference(crops[:4], planes(g["roi_crops_first4"])) < 1e-4
        assert difference(crops.mean((2, 3)), g["roi_crops_mean"]) < 1e-4
        deltas, logits = model.classify(planes(g["rpn_features"]), [proposals], size)
        assert difference(deltas, g["refined_box_encodings"]) < 1e-3
        assert difference(logits, g["class_logits_with_background"]) < 1e-3
        outputs = model.postprocess_detections(
            g["refined_box_encodings"], g["class_logits_with_background"], proposals, true_size
        )
        g = {**g, "detection_classes": g["detection_classes"] + 1}  # as the exported model has them
        for field in ("detection_anchor_indices", "detection_classes", "num_detections"):
            assert torch.equal(getattr(outputs, field), g[field].to(getattr(outputs, field).dtype)), field
        for field in ("detection_boxes", "detection_scores", "detection_multiclass_scores", "raw_detection_boxes"):
            assert difference(getattr(outputs, field), g[field]) < 1e-6, field

        # From end to end one unit in the last place can reorder proposals that are all but equal.
        outputs = model.outputs(image)
        assert difference(outputs.detection_scores, g["detection_scores"]) < 2e-3


def prepared(name: str) -> tuple[TfodRCNN, torch.Tensor, Target]:
    """The model with minibatches that leave nothing to chance, the image and its objects at the network's size."""
    g = golden(name)
    options = {"rpn_batch": 10**6, "box_batch": 300, "box_positive": 1.0}
    if "tpu" in name:
        options = {"rpn_batch": int(g["rpn_minibatch_size"]), "box_batch": int(g["second_stage_batch_size"])}
        options |= {"proposals": int(g["first_stage_max_proposals"]), "rpn_nms_iou": float(g["nms_iou"])}
    model = make(name, **options).train()
    height, width, _ = g["image_hw_seed"][0].tolist()
    image = model.resize(g["images_pixels"].view(height, width, 3).permute(2, 0, 1))
    rows, columns = model.batch([image]).shape[2:]
    boxes = g["gt_boxes_normalized"][0][:, XYXY] * torch.tensor([columns, rows, columns, rows])
    return model, image, Target(boxes, g["gt_classes0"][0], torch.zeros(len(boxes), dtype=torch.bool))


@pytest.mark.parametrize("name", TRAINING)
def test_targets_and_losses_from_given_answers(name):
    g = golden(name)
    model, image, target = prepared(name)
    size = tuple(model.batch([image]).shape[2:])
    grid = model.anchor_grid(torch.zeros(1, 1, -(-size[0] // 16), -(-size[1] // 16)))
    kept = torch.ones(len(grid), dtype=torch.bool)
    anchors = clip(grid, *size)
    if "tpu" not in name:
        kept = tfod_parts.inside(grid, *size)
        anchors = grid[kept]
        assert torch.equal(anchors[:, XYXY], g["anchors_pruned"])
    matches = tfod_parts.match_anchors(tfod_parts.iou(target.boxes, anchors))
    assert torch.equal(matches, g["rpn_match"][0].long())
    positive = matches >= 0
    deltas = tfod_parts.encode(target.boxes[matches[positive]], anchors[positive])
    assert difference(deltas, g["rpn_reg_targets"][0][positive]) < 1e-6
    proposals = model.propose(
        g["rpn_box_encodings"][0], g["rpn_objectness_logits"][0], anchors, tuple(image.shape[1:]), model.learning
    )
    proposals = model.sample(proposals, target, DRAWS[0])
    assert proposals.count == int(g["num_proposals"])
    assert difference(proposals.boxes[:, XYXY], g["proposal_boxes_abs"][0]) < 1e-4
    proposals = Proposals(g["proposal_boxes_abs"][0][:, XYXY], proposals.scores, proposals.count)
    matches = model._match(proposals, target)
    assert torch.equal(matches, g["det_match"][0].long())
    positive = matches >= 0
    deltas = tfod_parts.encode(target.boxes[matches[positive]], proposals.boxes[positive])
    assert difference(deltas, g["det_reg_targets"][0][positive]) < 1e-6

    names = ("rpn_box_encodings", "rpn_objectness_logits", "refined_box_encodings", "class_logits_with_background")
    answers = [g[name].clone().requires_grad_() for name in names]
    losses = [
        *model.rpn_losses(answers[0], answers[1], anchors, [target], DRAWS),
        *model.box_losses(answers[2], answers[3], [proposals], [target]),
    ]
    assert [loss.item() for loss in losses] == pytest.approx(
        [float(g[f"step0/Loss/{name}"]) for name in LOSSES], rel=1e-5
    )
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
        expected = g[f"grad/{key}/bias"]
        assert float((found - expected).norm() / expected.norm()) < 1e-5, key


@pytest.mark.parametrize("name", TRAINING)
def test_training_from_end_to_end(name):
    g = golden(name)
    model, image, target = prepared(name)
    tpu = "tpu" in name
    model.eval()
    with torch.no_grad():
        losses = model.losses([image], [target])
    for key in LOSSES:
        assert losses[key].item() == pytest.approx(float(g[f"evalmode/Loss/{key}"]), rel=1e-3)
    model.train()
    names = {variable.key.removesuffix(SUFFIX): variable for variable in checkpoint_keys(depth_of(name), 3, tpu)}
    ours = {variable.full_name: variable.name for variable in names.values()}
    parameters = dict(model.named_parameters())
    norms = json.loads((FOLDER / "goldens" / f"{name}_gradnorms.json").read_text())
    rate, limit = (float(g["lr"]), float("inf")) if tpu else (1e-3, 10.0)
    velocity = {key: torch.zeros_like(value) for key, value in parameters.items()}
    for step in range(3):
        losses = model([image], [target])
        for key in LOSSES:
            tolerance = 1e-3 if step == 0 else 1e-2
            assert losses[key].item() == pytest.approx(float(g[f"step{step}/Loss/{key}"]), rel=tolerance)
        model.zero_grad()
        sum(losses.values()).backward()
        gradients = [value.grad for value in parameters.values()]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        assert norm == pytest.approx(float(g[f"step{step}/global_grad_norm"]), rel=1e-2)
        if step == 0:
            errors = sorted(
                abs(float(parameters[names[key].name].grad.norm()) / each["norm"] - 1) for key, each in norms.items()
            )
            # With the statistics of the batch TFOD itself is uncertain by more than a hundredth here and there.
            assert errors[-1] < (0.1 if tpu else 1e-2) and errors[len(errors) // 2] < 1e-2
        for key, expected in g.items():
            if key.startswith(f"step{step}/") and "_bn/moving" in key:
                found = model.state_dict()[ours[key.partition("/")[2]]]
                assert float((found - expected).norm() / expected.norm()) < 1e-4, key
        with torch.no_grad():
            for key, value in parameters.items():
                velocity[key] = 0.9 * velocity[key] - rate * min(limit / norm, 1) * value.grad
                value += velocity[key]
