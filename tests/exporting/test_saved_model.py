"""A TFOD model exported as TFOD exports it, read by TensorFlow itself in a process of its own."""

import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from resight.exporting.pictures import probe_images
from resight.inference.detector import load
from resight.inference.tensorflow_session import Session
from resight.label_map import read_label_map
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
def exported(tfod_export):
    return tfod_export


@pytest.fixture(scope="module")
def said(exported):
    """What the command said, which comparisons found the two equal, and the report of the other export."""
    return pickle.loads(exported.with_name("said").read_bytes())


@pytest.fixture(scope="module")
def read(exported, once):
    """What TensorFlow reads."""

    def write(folder):
        given = pickle.dumps((str(exported), IMAGES))
        done = subprocess.run([sys.executable, "-c", READ], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        (folder / "read").write_bytes(done.stdout)

    return pickle.loads((once("read", write) / "read").read_bytes())


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


def test_the_command_compares_the_two_and_names_the_next(said, exported):
    assert "0 wrongly kept or left out: equal within the tolerance" in said[0]
    assert f"resight predict {exported}/saved_model" in exported.with_name("stderr").read_text()


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
    assert_kind(exported.with_name("float_image_tensor"), "float_image_tensor")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["encoded_image_string_tensor", "tf_example"])
def test_every_kind_of_input(export_apart, tfod_checkpoint, tmp_path, kind):
    *_, report = export_apart(tmp_path / "model", {"head.conv5.0.norm1.bias": 0.0}, kind, tfod_checkpoint())
    assert report.ok and report.parity.detections > 0, report.text()
    assert_kind(tmp_path / kind, kind)
