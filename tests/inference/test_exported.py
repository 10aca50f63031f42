"""What Resight notes with an exported model, where somebody has been at it."""

import json
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from resight.errors import ResightError
from resight.inference import saved_model as saved_model_detector
from resight.inference.detector import load
from resight.inference.exported import read_card
from resight.inference.saved_model import NEEDED
from resight.tfod.config import TfodConfig

GOOD = {"classes": ["stop", "yield"], "score": None, "dialect": "fpn", "digest": "0a", "version": "9"}
DAMAGED = {
    "": "EOF",
    "[1": "EOF",
    "[]": "object",
    "null": "object",
    "{}": "classes is missing; score is missing",
    "[" * 100_000: "recursion",
    **{
        json.dumps(GOOD | change): says
        for change, says in (
            ({"classes": "stop"}, "classes = 'stop': must be a list"),
            ({"classes": [1]}, "classes.0 = 1: must be text"),
            ({"score": "x"}, "score = 'x': must be a number"),
            ({"score": "0.5"}, "must be a number"),
            ({"score": 7}, "1 or less"),
            ({"score": float("nan")}, "score"),
            ({"tile": -1}, "0 or more"),
            ({"tfod": {"nope": 1}}, "unknown key 'tfod.nope'"),
            ({"tfod": {"proposals": 0}}, "greater than 0"),
        )
    },
}


def onnx_model(folder, noted):
    """An ONNX file with the note and a graph that does nothing."""
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3])
    made = helper.make_tensor_value_info("boxes", TensorProto.UINT8, [1, "H", "W", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["boxes"])], "graph", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"resight": noted})
    onnx.save_model(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def saved_model(tmp_path, monkeypatch):
    """``saved_model(note)``: a SavedModel's folder with the note, and no TensorFlow behind it."""

    def session(folder, threads=None):
        outputs = dict.fromkeys(NEEDED)
        return SimpleNamespace(folder=folder, outputs=outputs, inputs={"input_tensor": SimpleNamespace(dtype=4)})

    def make(noted):
        (tmp_path / "saved_model").mkdir()
        (tmp_path / "saved_model" / "saved_model.pb").touch()
        (tmp_path / "label_map.pbtxt").write_text('item { id: 1 name: "stop" }')
        (tmp_path / "resight.json").write_bytes(noted)
        return tmp_path / "saved_model"

    monkeypatch.setattr(saved_model_detector, "Session", session)
    return make


@pytest.mark.parametrize("noted", DAMAGED, ids=lambda noted: noted[-40:])
def test_a_damaged_note_is_our_error_in_both_formats(noted, tmp_path, saved_model):
    for path, where in (
        (onnx_model(tmp_path, noted), "model.onnx"),
        (saved_model(noted.encode()), "resight.json"),
    ):
        with pytest.raises(ResightError) as caught:
            load(path)
        assert DAMAGED[noted] in caught.value.message and str(caught.value.where).endswith(where)
        assert caught.value.fix and len(str(caught.value)) < 1000


def test_a_note_that_is_no_text(saved_model):
    with pytest.raises(ResightError, match="not UTF-8"):
        load(saved_model(b'{"score": "\xff"}'))


def test_a_whole_note_is_heard(tmp_path, saved_model):
    tfod = TfodConfig(proposals=7).model_dump()
    noted = json.dumps(GOOD | {"score": 0.4, "tile": 640, "tfod": tfod, "input_type": "tf_example"})
    model = load(onnx_model(tmp_path, noted))
    assert (model.classes, model.score) == (("stop", "yield"), 0.4) and model.config.tfod.proposals == 7
    assert load(onnx_model(tmp_path, json.dumps(GOOD | {"tile": 640}))).tile == 640
    model = load(saved_model(noted.encode()))
    assert (model.score, model.input_type) == (0.4, "tf_example")
    assert not load(onnx_model(tmp_path, json.dumps(GOOD))).has_score
    with pytest.raises(ResightError):
        read_card(noted[:-1], "here")


def test_an_export_tells_of_which_weights_it_is(tmp_path, saved_model):
    for path in (onnx_model(tmp_path, json.dumps(GOOD)), saved_model(json.dumps(GOOD).encode())):
        assert load(path).digest() == "0a"
