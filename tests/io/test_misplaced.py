import pytest
from typer.testing import CliRunner

from resight.cli.app import app
from resight.io.misplaced import kind_of, meant


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run, a records folder, photographs and a model, by their names alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/checkpoints/last.safetensors", "run/config.toml", "photos/1.jpg", "photos/1.xml", "m.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "m.onnx").write_bytes(b"\x08\xff")
    for name in ("records/train-00000-of-00001.tfrecord", "records/dataset.json", "notes/readme.txt", "my.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_what_a_path_is(place):
    kinds = {name: kind_of(name) for name in ("run", "photos", "photos/1.jpg", "m.onnx", "records", "my.toml")}
    assert kinds == {
        "run": "run", "photos": "images", "photos/1.jpg": "images", "m.onnx": "model", "records": "records",
        "my.toml": "config",
    }  # fmt: skip
    assert [kind_of(name) for name in ("notes", "nothing", "a\0b")] == ["", "", ""]
    assert meant("notes", "model") == meant("run", "model") == ""


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train", "records"], "resight train --data records"),
        (["train", "photos"], "resight data build photos -o records"),
        (["train", "run"], "resight train --resume -o run"),
        (["train", "m.onnx"], "--start m.onnx"),
        (["train", "epochs=3"], "--epochs N"),
        (["train", "resnet18"], "--model resnet18"),
        (["train", "--data", "photos"], "resight data build"),
        (["train", "--data", "run"], "resight evaluate"),
        (["evaluate", "records"], "resight evaluate MODEL --data records"),
        (["evaluate", "photos"], "resight predict MODEL photos"),
        (["export", "records", "-o", "a.onnx"], "resight train --data records"),
        (["predict", "photos", "run"], "resight predict run PHOTOS"),
        (["predict", "photos/1.jpg", "m.onnx"], "resight predict MODEL photos/1.jpg"),
        (["predict", "run", "records"], "resight data show records"),
        (["data", "build", "run", "-o", "new"], "resight evaluate run"),
        (["data", "check", "run"], "resight evaluate run"),
    ],
)
def test_what_is_given_in_the_wrong_place_is_answered_with_the_command_that_was_meant(place, words, command):
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2
    assert command in said.stderr and "Traceback" not in said.stderr


def test_records_that_are_built_again_are_said_to_be_records_already(place):
    said = CliRunner().invoke(app, ["data", "build", "records", "-o", "new"])
    assert "is a records folder already (resight train --data records)" in said.stderr
