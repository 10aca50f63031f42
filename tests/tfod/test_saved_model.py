"""A TFOD model exported as TFOD exports it, read by TensorFlow itself in a process of its own.

A process that imports PyTorch and TensorFlow takes seconds to start: one exports, and tries the comparison.
"""

import json
import os
import pickle
import re
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


EXPORT = """
import contextlib, io, pickle, sys
from pathlib import Path
import torch
from resight.__main__ import main
from resight.exporting.export import export
from resight.exporting.parity import compare
from resight.inference.detector import load
from resight.inference.saved_model import load_saved_model
from resight.tfod.saved_model import with_stages
command, errors, image, checkpoint, kind = pickle.load(sys.stdin.buffer)
sys.argv, said, ended = command, io.StringIO(), None
with contextlib.redirect_stdout(said):
    try:
        main()
    except SystemExit as error:
        ended = error.code
assert not ended
folder = Path(command[-1])
before = sorted(folder.rglob("*"))
with with_stages(folder) as model:
    exported = load_saved_model(model)
assert sorted(folder.rglob("*")) == before
equal = {}
for name, error in errors.items():
    detector = load(command[2])
    with torch.no_grad():
        detector.model.get_parameter(name)[-1] += error
    equal[name, error] = compare(detector, exported, [image, 0 * image]).ok
detector.model.tfod = detector.model.tfod.model_copy(update={"nms_iou": 0.5})
equal["nms_iou"] = compare(detector, exported, [image]).ok
other = export(checkpoint, "savedmodel", folder.with_name(kind), input_type=kind)
sys.stdout.buffer.write(pickle.dumps((said.getvalue(), equal, other)))
"""
# Of each head's bias, a little more than is equal; and one of nothing.
ERRORS = {"rpn.objectness.bias": 5e-3, "predictor.classes.bias": 5e-3, "rpn.box.bias": 1.5e-3}
ERRORS |= {"predictor.box.bias": 1.5e-3, "head.conv5.0.norm1.bias": 0.0}
NOTHING = ("float_image_tensor", 0.9999)  # a kind of input, and a score that nothing reaches


def export_apart(out, checkpoint, errors, kind, score):
    """In a process of its own: what the command says of ``out``, the comparisons, and the report of another export."""
    command = ["resight", "export", str(checkpoint()), "--format", "savedmodel", "-o", str(out)]
    other = str(checkpoint(score=score) if score else checkpoint())
    given = pickle.dumps((command, errors, IMAGES[-2], other, kind))
    done = subprocess.run([sys.executable, "-c", EXPORT], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert f"resight predict {out}/saved_model" in done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.fixture(scope="module")
def exported(tfod_checkpoint, once):
    def write(folder):
        out = folder / "model"
        (folder / "said").write_bytes(pickle.dumps(export_apart(out, tfod_checkpoint, ERRORS, *NOTHING)))
        given = pickle.dumps((str(out), IMAGES))
        done = subprocess.run([sys.executable, "-c", READ], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        (folder / "read").write_bytes(done.stdout)

    return once("exported", write) / "model"


@pytest.fixture(scope="module")
def said(exported):
    """What the command said, which comparisons found the two equal, and the report of the other export."""
    return pickle.loads(exported.with_name("said").read_bytes())


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


def test_the_command_compares_the_two(said):
    assert "0 wrongly kept or left out: equal within the tolerance" in said[0]


def test_the_comparison_notices_an_error_in_each_head_and_another_rule(said):
    equal = said[1]
    assert [name for name, same in equal.items() if same] == [("head.conv5.0.norm1.bias", 0.0)] and len(equal) == 6


def assert_kind(folder, kind):
    session = Session(folder / "saved_model")
    (info,) = session.inputs.values()
    sides = [dim.size for dim in info.tensor_shape.dim]
    wanted = ([1, -1, -1, 3], 1) if kind == "float_image_tensor" else ([1], 7)
    assert (list(session.inputs), sides, info.dtype) == (["input_tensor"], *wanted)
    assert json.loads((folder / "resight.json").read_text())["input_type"] == kind


def test_another_kind_of_input_and_a_threshold_that_leaves_nothing(said, exported):
    report = said[2]
    assert report.ok and report.parity.detections == 0, report.text()
    assert_kind(exported.with_name(NOTHING[0]), NOTHING[0])


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["encoded_image_string_tensor", "tf_example"])
def test_every_kind_of_input(tfod_checkpoint, tmp_path, kind):
    *_, report = export_apart(tmp_path / "model", tfod_checkpoint, {"head.conv5.0.norm1.bias": 0.0}, kind, 0.0)
    assert report.ok and report.parity.detections > 0, report.text()
    assert_kind(tmp_path / kind, kind)


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
