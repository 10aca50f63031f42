import json
import os
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from resight.detection.anchors import AnchorSettings
from resight.dialect import load_config
from resight.errors import ResightError
from resight.fpn.config import FpnModelConfig
from resight.io.outputs import is_partial
from resight.label_map import LabelMap
from resight.models import checkpoints
from resight.models.checkpoints import Checkpoint, ModelMetadata, load_checkpoint, save_checkpoint
from resight.training.optim import build_optimizer, optimizer_tensors, restore_optimizer

CARD = ModelMetadata(
    FpnModelConfig(name="resnet18", min_size=64, max_size=96, anchors="default"),
    LabelMap.from_names(["stop", 'a "quoted" näme\n']),
    AnchorSettings(((7.3, 11.1), (1 / 3, 45)), (0.5, 1, 2.0)),
    norm_eps=0.0,
    score=0.1 + 0.2,
)


def checkpoint(step=1):
    tensors = {
        "model.a": torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "model.modelled": torch.tensor(step),
        "ema.a": torch.full((2, 3, 2, 2), float(step)),
        "optimizer.0.exp_avg": torch.tensor([float("nan"), -0.0]),
    }
    return Checkpoint(CARD, tensors, {"step": step, "best": None, "seconds": 0.1})


def same(a, b):
    assert a.card == b.card and a.state == b.state and a.tensors.keys() == b.tensors.keys()
    for key, value in a.tensors.items():
        assert value.dtype == b.tensors[key].dtype and value.shape == b.tensors[key].shape
        assert value.contiguous().numpy().tobytes() == b.tensors[key].contiguous().numpy().tobytes()


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = tmp_path / "new" / "last.safetensors"
    save_checkpoint(path, checkpoint(), load_config())
    same(load_checkpoint(path), checkpoint())
    assert os.listdir(path.parent) == ["last.safetensors"]


def test_averaged_weights_are_the_ones_to_use():
    weights = checkpoint(3).weights()
    assert weights.keys() == {"a", "modelled"} and weights["a"].unique().tolist() == [3]
    assert checkpoint().part("optimizer").keys() == {"0.exp_avg"}


def test_nothing_in_the_file_is_code(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, checkpoint(), load_config(None, {"train.seed": 7}))
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    assert len(data) == 8 + length + max(ends)  # numbers, and nothing else
    described = json.loads(header["__metadata__"]["resight"])
    assert described["state"]["step"] == 1
    config = tmp_path / "config.toml"
    config.write_text(described["config"], encoding="utf-8")
    assert load_config(config).train.seed == 7


# Whole or absent


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", ["save_file", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_previous_checkpoint(tmp_path, monkeypatch, fails, before):
    path = tmp_path / "last.safetensors"
    if before:
        save_checkpoint(path, checkpoint(1))

    def full(tensors, file, metadata):
        file.write_bytes(b"the beginning of a file")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    if fails == "save_file":
        monkeypatch.setattr(checkpoints, "save_file", full)
    else:
        monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(ResightError, match="No space left on device") as caught:
        save_checkpoint(path, checkpoint(2))
    assert caught.value.where == str(path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["last.safetensors"] if before else [])
    if before:
        same(load_checkpoint(path), checkpoint(1))


def test_a_kill_while_writing_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, checkpoint(1))

    def killed(*_):
        raise SystemExit  # nothing of ours is run after it, as after a SIGKILL

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        save_checkpoint(path, checkpoint(2))
    monkeypatch.undo()
    same(load_checkpoint(path), checkpoint(1))
    save_checkpoint(path, checkpoint(3))
    same(load_checkpoint(path), checkpoint(3))
    assert [name for name in os.listdir(tmp_path) if not is_partial(name)] == ["last.safetensors"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResightError, match="the checkpoint cannot be written"):
        save_checkpoint(tmp_path / "file" / "last.safetensors", checkpoint())


# What is not a checkpoint of ours


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    save_checkpoint(path, checkpoint())
    return path.read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_a_part_of_a_file_is_refused_by_name(saved, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "part.safetensors"
    path.write_bytes(saved[: data.draw(st.integers(0, len(saved) - 1))])
    with pytest.raises(ResightError) as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_description_is_refused_by_name_or_still_describes_a_model(saved, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    (length,) = struct.unpack("<Q", saved[:8])
    damaged = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 8 + length - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        found = load_checkpoint(path)
    except ResightError as error:
        assert error.where == str(path)
    else:
        assert isinstance(found.card, ModelMetadata) and isinstance(found.state, dict)


def description(**changes):
    return json.dumps({"format": 1, "card": CARD.to_json(), "state": {}} | changes)


@pytest.mark.parametrize(
    ("metadata", "answer"),
    [
        (None, "no description of a Resight model"),
        ({"format": "pt"}, "no description of a Resight model"),
        ({"resight": "{"}, "damaged"),
        ({"resight": "[1]"}, "a.safetensors: is of format None"),
        ({"resight": "[" * 100_000}, "damaged"),
        ({"resight": description(format=2)}, "a.safetensors: is of format 2, this version reads 1\n  Upgrade"),
        ({"resight": description(card={})}, "damaged"),
        ({"resight": description(card=None)}, "damaged"),
        ({"resight": description(card=CARD.to_json() | {"model": {"name": 3}})}, "damaged"),
        (
            {"resight": description(version="9.1", card=CARD.to_json() | {"model": {"heads": 2, "depth": 3}})},
            r"is of another version: unknown key 'depth'\.\n  Version 9\.1 of Resight wrote it, this is .*: upgrade",
        ),
        ({"resight": description(card=CARD.to_json() | {"label_map": "item {"})}, "damaged"),
        ({"resight": description(card=CARD.to_json() | {"anchors": {"sizes": 3, "ratios": []}})}, "damaged"),
        ({"resight": description(card=CARD.to_json() | {"anchors": {"sizes": [["a"]], "ratios": [1]}})}, "damaged"),
        ({"resight": description(card=CARD.to_json() | {"score": "x"})}, "damaged"),
        ({"resight": description(card=CARD.to_json() | {"score": 7})}, "damaged"),
        ({"resight": description(card=CARD.to_json() | {"norm_eps": []})}, "damaged"),
        ({"resight": description(state=3)}, "damaged"),
        ({"resight": json.dumps({"format": 1})}, "damaged"),
    ],
)
def test_foreign_weights_are_refused_by_name(tmp_path, metadata, answer):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(ResightError, match=answer) as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, "a.safetensors")
    with pytest.raises(ResightError):
        load_checkpoint(tmp_path / "a.safetensors")
    assert os.listdir() == ["a.safetensors"]


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(ResightError, match="cannot be read") as caught:
            load_checkpoint(path)
        assert caught.value.where == str(path)


# The optimizer


def trained(optimizer, steps=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    model.to(memory_format=torch.channels_last)
    made = build_optimizer(model, load_config(None, {"train.optimizer": optimizer}).train)
    go_on(model, made, 0, steps)
    return model, made


def go_on(model, optimizer, start, stop):
    for step in range(start, stop):
        model(torch.full((2, 3, 4, 4), step + 1.0)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_optimizer_goes_on_as_if_nothing_had_been(tmp_path, kind):
    model, optimizer = trained(kind)
    tensors = {f"optimizer.{key}": value for key, value in optimizer_tensors(optimizer).items()}
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(CARD, tensors, {}))
    other, resumed = trained(kind, 0)
    other.load_state_dict(model.state_dict())
    restore_optimizer(resumed, load_checkpoint(tmp_path / "a.safetensors").part("optimizer"))
    momentum = resumed.state[other[0].weight]["exp_avg" if kind == "adamw" else "momentum_buffer"]
    assert momentum.stride() == other[0].weight.stride()
    go_on(model, optimizer, 3, 5)
    go_on(other, resumed, 3, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kinds", [("adamw", "sgd"), ("sgd", "adamw")])
def test_the_state_of_another_optimizer_is_refused(kinds):
    tensors = optimizer_tensors(trained(kinds[0])[1])
    with pytest.raises(ValueError, match="of another optimizer"):
        restore_optimizer(trained(kinds[1])[1], tensors)


def test_a_checkpoint_of_a_version_without_the_number_of_detections_has_100():
    written = ModelMetadata(FpnModelConfig(detections=300), CARD.label_map, CARD.anchors).to_json()
    assert ModelMetadata.from_json(json.loads(json.dumps(written))).model.detections == 300
    del written["model"]["detections"]
    assert ModelMetadata.from_json(written).model == FpnModelConfig()
