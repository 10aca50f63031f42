"""The exports beside what TFOD itself found and wrote down. Run where RESIGHT_TFOD names the folder that holds it."""

import os
import re
import runpy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from resight.exporting.saved_model import write_saved_model
from resight.inference.tensorflow_session import Session
from resight.models.build import build_model
from resight.tfod.checkpoint.reader import read_checkpoint
from resight.tfod.checkpoint.variables import SUFFIX, checkpoint_keys, to_torch
from resight.tfod.config import TfodModelConfig
from resight.tfod.onnx_export import TfodGraph

FOLDER = Path(os.environ["RESIGHT_TFOD"])
GOLDENS = sorted(path.stem for path in (FOLDER / "goldens").glob("r*_infer_*.npz"))
TPU = {"share_boxes": True, "clip_anchors": True, "train_norms": True, "matmul_crop": True, "detections": 300}
TYPES = {"uint8": 4, "float32": 1}
value_of = runpy.run_path(str(Path(__file__).with_name("goldens") / "weights.py"))["value_of"]


def model_of(depth, classes, **config):
    model = build_model(TfodModelConfig(name=f"faster_rcnn_resnet{depth}_v1", **config), classes).eval()
    variables = checkpoint_keys(depth, classes, model.tfod.share_boxes)
    weights = {v.name: to_torch(value_of(v.key.removesuffix(SUFFIX), v.shape)) for v in variables}
    model.load_state_dict(weights)
    return model


def unmatched(found, golden):
    """How many of TFOD's detections have no partner of the same class within 1e-4."""
    count = int(golden["num_detections"][0])
    assert int(found["num_detections"][0]) == count
    parts = ("detection_boxes", "detection_scores", "detection_classes")
    ours, theirs = (
        np.concatenate([each[p][0, :count].reshape(count, -1) for p in parts], 1) for each in (found, golden)
    )
    theirs[:, -1] += 1  # TFOD counts from 1 in the exported model only
    free, alone = np.ones(count, bool), 0
    for row in theirs:
        apart = np.where(free, np.abs(ours - row).max(1), np.inf)
        free[apart.argmin()] = apart.min() > 1e-4
        alone += apart.min() > 1e-4
    return alone


@pytest.mark.parametrize("name", GOLDENS)
def test_both_exports_find_what_tfod_found(name, tmp_path):
    with np.load(FOLDER / "goldens" / f"{name}.npz") as arrays:
        golden = dict(arrays)
    tpu = "tpu" in name
    short, long, pad = golden["resizer"].tolist()
    classes = golden["class_logits_with_background"].shape[-1] - 1
    depth = int(re.match(r"r(\d+)", name)[1])
    tfod = {"pad": bool(pad), **(TPU if tpu else {})}
    model = model_of(depth, classes, min_size=short, max_size=long, tfod=tfod)
    image = golden["image_uint8"][None]

    write_saved_model(model.state_dict(), model.config, classes, tmp_path, "image_tensor")
    assert unmatched(Session(tmp_path / "saved_model").run("input_tensor", image), golden) == 0

    session = onnxruntime.InferenceSession(TfodGraph(model).build().SerializeToString())
    outputs = [output.name for output in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, {"image": image}), strict=True))
    # Without padding, a proposal that ends at the border is cropped by the last bit of its other end.
    assert unmatched(found, golden) <= (0 if pad else 2)


@pytest.mark.parametrize(("file", "options"), [("", {}), ("_tpu", TPU)])
def test_the_signature_is_the_documented_one(file, options, tmp_path):
    text = (FOLDER / f"saved_model_signature{file}.txt").read_text()
    config = TfodModelConfig(name="faster_rcnn_resnet50_v1", tfod=options)
    weights = {v.name: to_torch(np.zeros(v.shape, np.float32)) for v in checkpoint_keys(50, 3, bool(options))}
    write_saved_model(weights, config, 3, tmp_path, "image_tensor")
    session = Session(tmp_path / "saved_model")
    for way, ours in (("in ", session.inputs), ("out", session.outputs)):
        lines = re.findall(rf"^  {way} (\w+) -> (\S+) dtype (\w+) shape \[(.*)\]$", text, re.MULTILINE)
        wanted = {
            name: (place, TYPES[kind], [int(side) for side in shape.split(", ")]) for name, place, kind, shape in lines
        }
        assert wanted == {
            name: (info.name, info.dtype, [dim.size for dim in info.tensor_shape.dim]) for name, info in ours.items()
        }


def test_the_checkpoint_is_the_documented_one(tmp_path):
    lines = (FOLDER / "r101_zoo_ckpt-0.variables.txt").read_text().splitlines()
    wanted = {}
    for key, kind, shape in (line.split("\t") for line in lines if not line.startswith("#")):
        wanted[key] = (kind, tuple(int(side) for side in re.findall(r"\d+", shape)))
    config = TfodModelConfig(name="faster_rcnn_resnet101_v1")
    weights = {v.name: torch.zeros(to_torch(np.zeros(v.shape, np.int8)).shape) for v in checkpoint_keys(101, 90)}
    write_saved_model(weights, config, 90, tmp_path, "image_tensor")
    variables = read_checkpoint(tmp_path / "checkpoint")
    kinds = {key: "string" if array.dtype == object else array.dtype.name for key, array in variables.items()}
    assert {key: (kinds[key], variables.entries[key].shape) for key in variables} == wanted
    lines = (FOLDER / "r101_key_to_keras_name.txt").read_text().splitlines()
    names = dict(line.split("\t")[:2] for line in lines if line.startswith("model/"))
    ours = {key.removesuffix(SUFFIX): f"{name}:0" for key, name in variables.full_names.items() if "model/" in key}
    assert ours == names
