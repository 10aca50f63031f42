"""A model of the TFOD dialect as TFOD exports it: ``saved_model/`` and ``checkpoint/ckpt-0``, of one tree of variables.

TensorFlow may be imported after torchvision; the other order can end the process.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torchvision  # noqa: F401

from ..inference.tensorflow_session import SIGNATURE, quiet

# isort: split
with quiet():
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from torch import Tensor

from ..config.tree import Config, ModelConfig
from ..detection.stages import STAGE
from ..dialect import load_config
from ..inference.detector import Detector
from ..inference.exported import SAVED_MODEL, card_of
from ..inference.saved_model import CARD, LABEL_MAP
from ..io.files import read_json
from ..io.textproto import read
from ..label_map import LabelMap, to_pbtxt
from ..tfod.checkpoint.folder import PIPELINE, find_tfod
from ..tfod.checkpoint.variables import SUFFIX, checkpoint_keys, to_tensorflow
from ..tfod.config import TfodTree
from ..tfod.pipeline.text import merge_pipeline, with_limits, write_pipeline
from ..tfod.saved_model_graph import Graph, decode_input, input_spec
from ..tfod.specs import SPECS


class Serving(tf.Module):
    """What a client calls: the tree of variables under TFOD's name, and one function."""

    def __init__(self, model: tf.Module, graph: Graph, input_type: str) -> None:
        super().__init__("serving")
        self._model = model

        def call(input_tensor: tf.Tensor) -> dict[str, tf.Tensor]:
            return graph.outputs(decode_input(input_tensor, input_type))

        self.__call__ = tf.function(call, input_signature=[input_spec(input_type)], autograph=False)


def write_export(detector: Detector, folder: Path, input_type: str) -> None:
    """Writes what TFOD's export writes, a label map and Resight's own card into ``folder``."""
    weights, count = detector.model.state_dict(), len(detector.classes)
    trained = Path(detector.name).parent.parent / "config.toml"  # of the run folder whose checkpoint it is
    config = load_config(trained) if trained.is_file() else TfodTree()
    config = config.model_copy(update={"model": detector.config})
    write_saved_model(weights, detector.config, count, folder, input_type)
    (folder / PIPELINE).write_text(_pipeline_of(detector.name, config, count), encoding="utf-8")
    (folder / LABEL_MAP).write_text(to_pbtxt(LabelMap.from_names(detector.classes)), encoding="utf-8")
    (folder / CARD).write_text(card_of(detector, input_type=input_type), encoding="utf-8")


def _pipeline_of(model: str, config: Config, num_classes: int) -> str:
    """The `pipeline.config` that ``model`` was trained from, with what was trained otherwise; where none is known, one
    that says what ``config`` says."""
    if (left := find_tfod(model)) and left.pipeline:
        return with_limits(read(left.pipeline), config, num_classes)
    told = Path(model).parent.parent / "environment.json"
    facts = read_json(told) if told.is_file() else {}
    text = facts.get("pipeline") if isinstance(facts, dict) else None
    if not (text and isinstance(text, str)):
        return write_pipeline(config, num_classes)
    return (with_limits if "converted" in facts else merge_pipeline)(text, config, num_classes)


def write_saved_model(
    weights: Mapping[str, Tensor], config: ModelConfig, num_classes: int, folder: Path, input_type: str
) -> None:
    """Writes ``saved_model/`` and ``checkpoint/`` into ``folder``.

    Args:
        weights: by the names of the PyTorch model's ``state_dict``, in its layout.
        input_type: one of ``defaults.InputType``.

    Raises:
        OSError: they cannot be written.
    """
    anchors = len(config.tfod.anchor_scales) * len(config.tfod.anchor_ratios)
    model, variables = tf.Module("model"), {}
    for given in checkpoint_keys(SPECS[config.name].depth, num_classes, config.tfod.share_boxes, anchors):
        values = to_tensorflow(weights[given.name])
        variable = tf.Variable(values, name=given.full_name, shape=given.shape, trainable="running" not in given.name)
        variables[given.name] = variable
        _plant(model, given.key.removesuffix(SUFFIX).split("/")[1:], variable)
    checkpoint = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(folder / "checkpoint"), max_to_keep=1)
    with _told():
        checkpoint.save(checkpoint_number=0)
    serving = Serving(model, Graph(variables, config, num_classes), input_type)
    signature = serving.__call__.get_concrete_function()
    with _told():
        tf.saved_model.save(serving, str(folder / "saved_model"), signatures=signature)
    _for_older_tensorflow(folder / "saved_model" / SAVED_MODEL)


@contextmanager
def with_stages(export: Path) -> Iterator[Path]:
    """The SavedModel of an export for as long as the block lasts with what its graph works out on the way among its
    outputs. Graph and variables are the exported ones."""
    copy = export / "with_stages"
    copy.mkdir()
    try:
        (copy / "variables").symlink_to("../saved_model/variables", target_is_directory=True)
        saved = SavedModel.FromString((export / "saved_model" / SAVED_MODEL).read_bytes())
        meta = saved.meta_graphs[0]
        outputs = meta.signature_def[SIGNATURE].outputs
        call = next(iter(outputs.values())).name.partition(":")[0]
        node = next(node for node in meta.graph_def.node if node.name == call)
        functions = {function.signature.name: function for function in meta.graph_def.library.function}
        for name, (place, kind) in _hand_out(node, functions).items():
            outputs[name].name, outputs[name].dtype = f"{call}:{place}", kind
        (copy / SAVED_MODEL).write_bytes(saved.SerializeToString())
        yield copy
    finally:
        shutil.rmtree(copy)


def _hand_out(call: Any, functions: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Makes the call of a function return the stages inside of it, too: the place and type of each by its name."""
    function = functions[call.attr["f"].func.name]
    found = {
        node.name: (f"{node.name}:output:0", node.attr["T"].type)
        for node in function.node_def
        if node.name.startswith(STAGE)
    }
    for node in function.node_def:
        if not found and node.op == "StatefulPartitionedCall":
            inner = _hand_out(node, functions)
            found = {name: (f"{node.name}:output:{place}", kind) for name, (place, kind) in inner.items()}
    kinds = call.attr["Tout"].list.type
    call.attr.pop("_output_shapes", None)
    places = {}
    for name, (tensor, kind) in found.items():
        output = name.replace("/", "_")
        function.signature.output_arg.add(name=output, type=kind)
        function.ret[output] = tensor
        places[name] = (len(kinds), kind)
        kinds.append(kind)
    return places


@contextmanager
def _told() -> Iterator[None]:
    """Raises OSError: what TensorFlow writes in the block cannot be written."""
    try:
        yield
    except tf.errors.OpError as error:
        why = error.message.rpartition("; ")[2].partition(" [Op:")[0]  # behind the node and a temporary name
        raise OSError(f"TensorFlow could not write its files: {why}") from error


def _plant(root: tf.Module, path: list[str], variable: tf.Variable) -> None:
    for name in path[:-1]:
        if not hasattr(root, name):
            setattr(root, name, tf.Module())
        root = getattr(root, name)
    setattr(root, path[-1], variable)


def _for_older_tensorflow(path: Path) -> None:
    """Takes out what TensorFlow 2.8 does not know, none of which changes a number: operation and attribute."""
    saved = SavedModel.FromString(path.read_bytes())
    for meta in saved.meta_graphs:
        library = meta.graph_def.library.function
        for nodes in (meta.graph_def.node, *(function.node_def for function in library)):
            gone = {f"^{node.name}" for node in nodes if node.op == "DisableCopyOnRead"}
            kept = [node for node in nodes if f"^{node.name}" not in gone]
            for node in kept:
                inputs = [name for name in node.input if name not in gone]
                node.ClearField("input")
                node.input.extend(inputs)
                if node.op == "VarHandleOp":
                    node.attr.pop("debug_name", None)
            copies = [type(node).FromString(node.SerializeToString()) for node in kept]
            del nodes[:]
            nodes.extend(copies)
        for function in library:
            names = {node.name for node in function.node_def}
            lost = [name for name, node in function.control_ret.items() if node not in names]
            for name in lost:
                del function.control_ret[name]
                function.signature.control_output.remove(name)
    path.write_bytes(saved.SerializeToString())
