import pathlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from resight.dialect import load_config
from resight.errors import ResightError
from resight.models.checkpoints import ModelMetadata, load_checkpoint, save_checkpoint
from resight.training import start
from resight.training.start import find_start

TFOD = load_config(None, {"model.name": "faster_rcnn_resnet50_v1"})


@pytest.fixture
def left_by_tfod(monkeypatch, tmp_path):
    """``model.start`` is what TFOD left, of the model ``TFOD``."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("old").mkdir()
    monkeypatch.setattr(start, "left_by_tfod", lambda _: SimpleNamespace(prefix="ckpt-0"))
    monkeypatch.setattr("resight.tfod.checkpoint.trained.read_settings", lambda _: TFOD)
    monkeypatch.setattr("resight.tfod.checkpoint.reader.read_checkpoint", lambda _: None)


def model_of(**keys):
    return find_start(load_config(None, {f"model.{key}": value for key, value in keys.items()}))[1].model


def test_what_is_set_goes_over_what_the_model_of_the_start_has(left_by_tfod):
    assert model_of(start="old") == TFOD.model.model_copy(update={"start": "old"})
    assert model_of(start="old", min_size=600, max_size=1024).max_size == 1024
    assert model_of(start="old", start_type="full").start_type == "full"


def test_what_is_set_and_the_model_of_the_start_has_not_is_refused(left_by_tfod):
    with pytest.raises(ResightError, match=r"model\.tfod\.detections_per_class") as caught:
        model_of(start="old", detections=300)
    assert "old" in caught.value.where


def test_the_most_detections_are_those_of_the_start_unless_they_are_set(untrained, tmp_path):
    made = load_checkpoint(untrained)
    model = made.card.model.model_copy(update={"detections": 300})
    path = tmp_path / "many.safetensors"
    save_checkpoint(path, replace(made, card=replace(made.card, model=model)))
    assert model_of(start=str(path)).detections == 300
    assert model_of(start=str(path), detections=200).detections == 200


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_the_sizes_are_those_of_the_start_where_only_its_name_is_set_too(name, untrained, tmp_path):
    made = load_checkpoint(untrained)
    model = load_config(None, {"model.name": name, "model.min_size": 512, "model.max_size": 512}).model
    path = tmp_path / "large.safetensors"
    save_checkpoint(path, replace(made, card=replace(made.card, model=model)))
    found = model_of(start=str(path), name=name)
    assert (found.min_size, found.max_size) == (512, 512)


def test_heads_are_those_of_the_start_and_one_where_it_was_stored_before_there_were_more(untrained, tmp_path):
    assert model_of().heads == model_of(start="none").heads == 2
    assert model_of(name="fasterrcnn_resnet50_fpn").heads == 1
    known = load_checkpoint(untrained).card.to_json()
    for heads in (None, 1, 3):
        stored = {**known, "model": {key: value for key, value in known["model"].items() if key != "heads"}}
        stored["model"] |= {"heads": heads} if heads else {}
        made = replace(load_checkpoint(untrained), card=ModelMetadata.from_json(stored))
        path = tmp_path / f"{heads}.safetensors"
        save_checkpoint(path, made)
        assert model_of(start=str(path)).heads == (heads or 1)
        assert find_start(load_config(None), made)[1].model.heads == (heads or 1)
        with pytest.raises(ResightError, match=rf"has {heads or 1} box head.*, and model.heads is 2") as caught:
            model_of(start=str(path), heads=2)
        assert caught.value.fix == f"Set model.heads to {heads or 1}."
