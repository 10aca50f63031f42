"""What is refused before anything is written. What an export finds is in the tests of the dialects."""

import sys
from pathlib import Path

import pytest

from resight.errors import ResightError
from resight.exporting.export import export


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "onx"}, "Did you mean 'onnx'"),
        ({"out": "model.bin"}, "ends in .onnx"),
        ({"out": None}, "export: out is None"),
        ({"model": 3}, "export: model is 3"),
        ({"model": "nowhere"}, "no such model"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    untrained: Path, tmp_path: Path, arguments: dict[str, str], words: str
) -> None:
    given = {"model": untrained, "format": "onnx", "out": tmp_path / "m.onnx"} | arguments
    with pytest.raises(ResightError, match=words):
        export(**given)


def test_what_cannot_be_a_saved_model_is_refused(untrained, tfod_checkpoint, tfod_export, tmp_path, monkeypatch):
    for model, arguments, words in [
        (untrained, {"format": "savedmodel"}, "only faster_rcnn_resnet50_v1"),
        (tfod_checkpoint(), {"input_type": "tf_exampel", "format": "savedmodel"}, "Did you mean 'tf_example'"),
        (tfod_checkpoint(), {"input_type": "tf_example", "out": tmp_path / "m.onnx"}, "--format savedmodel"),
        (tfod_checkpoint(), {"format": "savedmodel", "out": tfod_export}, "--force"),
    ]:
        with pytest.raises(ResightError, match=words):
            export(model, **{"out": tmp_path / "out", **arguments})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ResightError, match="did not write"):
        export(tfod_checkpoint(), "savedmodel", tmp_path / "mine", force=True)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    sys.modules.pop("resight.exporting.saved_model", None)
    with pytest.raises(ResightError, match=r"resight\[tensorflow\]"):
        export(tfod_checkpoint(), "savedmodel", tmp_path / "out")
