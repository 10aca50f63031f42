"""A TFOD model exported as TFOD exports it, read by TensorFlow itself in a process of its own."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resight.errors import ResightError
from resight.exporting.export import export, probe_images
from resight.inference.detector import load
from resight.inference.tensorflow_session import Session
from resight.label_map import LabelMap, read_label_map, to_pbtxt
from resight.tfod.checkpoint.variables import checkpoint_keys

IMAGES = [image for image in probe_images() if image.shape[0] < 400]
KINDS = ("image_tensor", "encoded_image_string_tensor", "tf_example", "float_image_tensor")
# Operations that are needed, none younger than TensorFlow 2.8.
OPERATIONS = set(
    re.findall(
        r"\w+",
        """
AddV2 ArgMax AssignVariableOp BiasAdd Cast ConcatV2 Const Conv2D CropAndResize DecodeImage EnsureShape Exp
ExpandDims Fill FusedBatchNormV3 GatherNd GatherV2 Greater Identity Less LogicalAnd MatMul MaxPool Maximum Mean
MergeV2Checkpoints Min Minimum Mul NoOp NonMaxSuppressionV5 Pack Pad PadV2 ParseSingleExample Placeholder Prod
Range ReadVariableOp RealDiv Relu Relu6 Reshape ResizeBilinear RestoreV2 Round SaveV2 Select SelectV2 Shape
ShardedFilename Size Softmax Sqrt Squeeze StatefulPartitionedCall StatelessWhile StaticRegexFullMatch
StridedSlice StringJoin Sub TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem
TensorListStack Tile TopKV2 Unpack VarHandleOp Where
""",
    )
)
READ = """
import pickle, sys
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
folder, images = pickle.load(sys.stdin.buffer)
loaded = tf.saved_model.load(folder + "/saved_model")
serving = loaded.signatures["serving_default"]
meta = SavedModel.FromString(open(folder + "/saved_model/saved_model.pb", "rb").read()).meta_graphs[0]
nodes = [*meta.graph_def.node, *(node for f in meta.graph_def.library.function for node in f.node_def)]
reader = tf.train.load_checkpoint(folder + "/checkpoint")
graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
variables = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
sys.stdout.buffer.write(pickle.dumps({
    "input": [(name, s.dtype.name, s.shape.as_list()) for name, s in serving.structured_input_signature[1].items()],
    "output": {name: (s.dtype.name, s.shape.as_list()) for name, s in serving.structured_outputs.items()},
    "found": [{name: value.numpy() for name, value in loaded(tf.constant(image[None])).items()} for image in images],
    "operations": {node.op for node in nodes},
    "debug_name": any("debug_name" in node.attr for node in nodes),
    "latest": tf.train.latest_checkpoint(folder + "/checkpoint"),
    "shapes": {name: (reader.get_variable_to_dtype_map()[name].name, tuple(shape))
               for name, shape in reader.get_variable_to_shape_map().items()},
    "names": {a.checkpoint_key: a.full_name for node in graph.nodes for a in node.attributes},
    "sums": {name: float(reader.get_tensor(name).sum()) for name in variables},
}))
"""


@pytest.fixture(scope="module")
def exported(tfod_checkpoint, once):
    def write(folder):
        out = folder / "model"
        command = [sys.executable, "-m", "resight", "export", str(tfod_checkpoint()), "--format", "savedmodel"]
        done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "0 wrongly kept or left out: equal within the tolerance" in done.stdout
        assert f"resight predict {out}/saved_model" in done.stderr
        given = pickle.dumps((str(out), IMAGES))
        done = subprocess.run([sys.executable, "-c", READ], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        (folder / "read").write_bytes(done.stdout)

    return once("exported", write) / "model"


@pytest.fixture(scope="module")
def read(exported):
    """What TensorFlow reads."""
    return pickle.loads(exported.with_name("read").read_bytes())


def test_the_signature_is_tfods(read):
    assert read["input"] == [("input_tensor", "uint8", [1, None, None, 3])]
    assert read["output"] == {
        "detection_anchor_indices": ("float32", [1, 30]),
        "detection_boxes": ("float32", [1, 30, 4]),
        "detection_classes": ("float32", [1, 30]),
        "detection_multiclass_scores": ("float32", [1, 30, 4]),
        "detection_scores": ("float32", [1, 30]),
        "num_detections": ("float32", [1]),
        "raw_detection_boxes": ("float32", [1, 40, 4]),
        "raw_detection_scores": ("float32", [1, 40, 4]),
    }


def test_older_tensorflow_knows_everything_in_the_graph(read):
    assert read["operations"] <= OPERATIONS and not read["debug_name"]


def test_the_checkpoint_has_tfods_keys_names_shapes_and_our_values(read, exported, tfod_checkpoint):
    wanted = {variable.key: variable for variable in checkpoint_keys(50, 3)}
    shapes = dict(read["shapes"])
    assert shapes.pop("_CHECKPOINTABLE_OBJECT_GRAPH")[0] == "string"
    assert shapes.pop("save_counter/.ATTRIBUTES/VARIABLE_VALUE") == ("int64", ())
    assert shapes == {key: ("float32", variable.shape) for key, variable in wanted.items()}
    assert {key: read["names"][key] for key in wanted} == {key: v.full_name for key, v in wanted.items()}
    assert read["latest"] == f"{exported}/checkpoint/ckpt-0"
    weights = load(tfod_checkpoint()).model.state_dict()
    for key, variable in wanted.items():
        assert read["sums"][key] == pytest.approx(float(weights[variable.name].sum()), rel=1e-3, abs=1e-2)


def test_tensorflow_finds_what_the_model_finds(read, tfod_checkpoint):
    detector = load(tfod_checkpoint())
    for image, found in zip(IMAGES, read["found"], strict=True):
        own = detector.detect(image)
        assert found["num_detections"] == len(own) > 5
        height, width = image.shape[:2]
        boxes = own.boxes[:, [1, 0, 3, 2]] / [height, width, height, width]
        rows = np.concatenate([boxes, own.scores[:, None], own.labels[:, None] + 1], 1)
        free = np.ones(len(own), bool)
        for i in range(len(own)):
            row = [*found["detection_boxes"][0, i], found["detection_scores"][0, i], found["detection_classes"][0, i]]
            apart = np.where(free, np.abs(rows - row).max(1), np.inf)
            assert apart.min() <= 1e-4
            free[apart.argmin()] = False


def test_the_folder_is_complete_and_its_pipeline_is_the_models(exported):
    names = {"saved_model", "checkpoint", "pipeline.config", "label_map.pbtxt", "resight.json"}
    assert {path.name for path in exported.iterdir()} == names
    text = (exported / "pipeline.config").read_text()
    assert "faster_rcnn_resnet50_keras" in text and "num_classes: 3" in text and "max_total_detections: 30" in text
    assert read_label_map(exported / "label_map.pbtxt").names == ("stop", "yield", "merge")


def test_a_saved_model_is_a_model(exported, tfod_checkpoint, tmp_path):
    detector = load(exported / "saved_model")
    assert detector.classes == ("stop", "yield", "merge") and detector.score == 0.25
    found = detector(IMAGES[0], score=0.0)
    assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64
    for change in ({"iou": 0.3}, {"class_agnostic": True}):
        with pytest.raises(ResightError, match="NMS"):
            detector.set_nms(**change)
    with pytest.raises(ResightError, match="already"):
        export(exported / "saved_model", "onnx", tmp_path / "twice.onnx")


def test_prediction_imports_neither_pytorch_nor_tensorflows_python(exported, tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    code = """
import sys
sys.modules |= {"torch": None, "torchvision": None, "tensorflow.python": None}
from resight.commands.predict import predict
assert predict(sys.argv[1], [sys.argv[2]], sys.argv[3]).result["images"][0]["detections"]
"""
    given = [exported / "saved_model", tmp_path / "image.png", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", code, *given], check=True)


def test_tensorflow_says_nothing_while_it_is_loaded_unless_it_is_asked_to():
    noisy = "import os; from resight.inference.tensorflow_session import quiet\nwith quiet(): os.write(2, b'options')"
    unset = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for code, environment, says in (
        ("import resight.tfod.saved_model", unset, ""),
        (noisy, unset, ""),
        (noisy, unset | {"TF_CPP_MIN_LOG_LEVEL": "0"}, "options"),
    ):
        run = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
        assert (run.returncode, run.stderr) == (0, says)


def test_the_names_of_classes_go_by_id(exported, tmp_path):
    (tmp_path / "saved_model").symlink_to(exported / "saved_model")  # alone, as TFOD leaves it
    assert load(tmp_path / "saved_model").classes == ("class 1", "class 2", "class 3")
    gaps = 'item { id: 3 name: "merge" } item { id: 1 name: "stop" }'
    (tmp_path / "map.pbtxt").write_text(gaps)
    assert load(tmp_path, labels=tmp_path / "map.pbtxt").classes == ("stop", "class 2", "merge")
    (tmp_path / "map.pbtxt").write_text(to_pbtxt(LabelMap.from_names("abcd")))
    with pytest.raises(ResightError, match="the id 4, the model 3 classes"):
        load(tmp_path, labels=tmp_path / "map.pbtxt")


PARITIES = """
import pickle, sys
from pathlib import Path
import torch
from resight.inference.detector import load
from resight.tfod.saved_model import with_stages
from resight.inference.saved_model import load_saved_model
checkpoint, folder, errors, image = pickle.load(sys.stdin.buffer)
from resight.exporting.parity import compare
with with_stages(Path(folder)) as model:
    exported = load_saved_model(model)
found = {}
for name, error in errors.items():
    detector = load(checkpoint)
    with torch.no_grad():
        detector.model.get_parameter(name)[-1] += error
    found[name, error] = compare(detector, exported, [image, 0 * image]).ok
detector.model.limits = detector.model.limits.model_copy(update={"nms_iou": 0.5})
found["nms_iou"] = compare(detector, exported, [image]).ok
sys.stdout.buffer.write(pickle.dumps(found))
"""


def test_the_comparison_notices_an_error_in_each_head_and_another_rule(exported, tfod_checkpoint, tmp_path):
    model = shutil.copytree(exported, tmp_path / "model", copy_function=os.link)
    errors = {"rpn.objectness.bias": 5e-3, "predictor.classes.bias": 5e-3} | {
        f"{head}.box.bias": 1.5e-3 for head in ("rpn", "predictor")
    }
    before = sorted(model.rglob("*"))
    given = pickle.dumps((str(tfod_checkpoint()), str(model), {**errors, "head.conv5.0.norm1.bias": 0.0}, IMAGES[-2]))
    done = subprocess.run([sys.executable, "-c", PARITIES], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = pickle.loads(done.stdout)
    assert [name for name, equal in found.items() if equal] == [("head.conv5.0.norm1.bias", 0.0)]
    assert len(found) == 6 and sorted(model.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "score"),  # a score that nothing reaches, too
    [
        pytest.param("encoded_image_string_tensor", 0.0, marks=pytest.mark.soak),
        pytest.param("tf_example", 0.0, marks=pytest.mark.soak),
        ("float_image_tensor", 0.9999),
    ],
)
def test_every_kind_of_input_and_a_threshold_that_leaves_nothing(tfod_checkpoint, tmp_path, kind, score):
    code = """
import sys
from resight.exporting.export import export
model, kind, out, score = sys.argv[1:]
report = export(model, "savedmodel", out, input_type=kind)
assert report.ok and (report.parity.detections == 0) == (float(score) > 0.9), report.text()
"""
    model = tfod_checkpoint(score=score) if score else tfod_checkpoint()
    subprocess.run([sys.executable, "-c", code, model, kind, tmp_path / kind, str(score)], check=True)
    session = Session(tmp_path / kind / "saved_model")
    (info,) = session.inputs.values()
    sides = [dim.size for dim in info.tensor_shape.dim]
    wanted = ([1, -1, -1, 3], 1) if kind == "float_image_tensor" else ([1], 7)
    assert (list(session.inputs), sides, info.dtype) == (["input_tensor"], *wanted)
    assert json.loads((tmp_path / kind / "resight.json").read_text())["input_type"] == kind


def test_what_cannot_be_exported_is_refused(untrained, tfod_checkpoint, exported, tmp_path, monkeypatch):
    for model, arguments, words in [
        (untrained, {"format": "savedmodel"}, "only faster_rcnn_resnet50_v1"),
        (tfod_checkpoint(), {"input_type": "tf_exampel", "format": "savedmodel"}, "Did you mean 'tf_example'"),
        (tfod_checkpoint(), {"input_type": "tf_example", "out": tmp_path / "m.onnx"}, "--format savedmodel"),
        (tfod_checkpoint(), {"format": "savedmodel", "out": exported}, "--force"),
    ]:
        with pytest.raises(ResightError, match=words):
            export(model, **{"out": tmp_path / "out", **arguments})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ResightError, match="did not write"):
        export(tfod_checkpoint(), "savedmodel", tmp_path / "mine", force=True)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    sys.modules.pop("resight.tfod.saved_model", None)
    with pytest.raises(ResightError, match=r"resight\[tensorflow\]"):
        export(tfod_checkpoint(), "savedmodel", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 40])
def test_what_is_no_saved_model(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ResightError, match=str(tmp_path)):
        load(tmp_path)
