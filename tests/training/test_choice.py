"""What is trained in the minutes given: the table, what is expected by it, and that a run keeps what was chosen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.dialect import load_config
from resight.fpn.specs import spec_of
from resight.training import choice
from resight.training.plan import make_plan
from resight.training.train import train

MEASURED = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "signs"
BINS = ("network < 16", "network 16-32", "network 32-64", "network > 64")
SETTINGS = {
    "default": choice.DEFAULT,
}


def test_the_default_is_the_default_and_all_weights_are_packaged():
    model = load_config().model
    assert choice.DEFAULT.keys == {key: getattr(model, key) for key in choice.DEFAULT.keys}
    assert all(spec_of(candidate.name).source == "packaged" for candidate in choice.CANDIDATES)
    assert list(SETTINGS.values()) == list(choice.CANDIDATES) and len(choice.CANDIDATES) > 1
    assert all(set(candidate.values) <= set(choice.DEFAULT.values) for candidate in choice.CANDIDATES)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_table_is_what_was_measured(setting):
    candidate, seconds = SETTINGS[setting], {}
    for steps, values in candidate.values.items():
        facts = json.loads((MEASURED / f"{setting}-{steps}-0.json").read_text())
        assert values == tuple(round(facts["numbers"][part]["mAP"], 3) for part in BINS)
        assert {key: facts["config"][f"model.{key}"] for key in candidate.keys} == candidate.keys
        seconds[steps] = facts["training_cpu_seconds"]
    if candidate is not choice.DEFAULT:
        own = json.loads((MEASURED / f"default-{max(seconds)}-0.json").read_text())["training_cpu_seconds"]
        assert candidate.cost == round(seconds[max(seconds)] / own, 2)


@given(st.integers(0, len(choice.CANDIDATES) - 1), st.floats(1, 1e9))
def test_what_is_expected_is_what_was_measured_and_between(number, steps):
    candidate = choice.CANDIDATES[number]
    for count, values in candidate.values.items():
        np.testing.assert_allclose(choice.expected(candidate, count), values, atol=1e-12)
    assert (choice.expected(candidate, steps) <= 1).all()
    assert (choice.expected(choice.DEFAULT, 2 * steps) >= choice.expected(choice.DEFAULT, steps) - 1e-12).all()


def candidates(monkeypatch):
    """Two: the default, and one that costs a tenth and is better in short trainings."""
    default = replace(choice.DEFAULT, values={100: (0.1, 0.1, 0.1, 0.1), 1000: (0.5, 0.6, 0.7, 0.8)})
    small = replace(default, min_size=96, max_size=128, cost=0.1)
    small = replace(small, values={100: (0.3, 0.3, 0.3, 0.3), 1000: (0.1, 0.6, 0.7, 0.7)})
    monkeypatch.setattr(choice, "DEFAULT", default)
    monkeypatch.setattr(choice, "CANDIDATES", (default, small))
    return default, small


def planned(data, step=1.0, **keys):
    given = {key.replace("__", "."): value for key, value in keys.items()}
    config = load_config(None, {"data.path": str(data), "train.device": "cpu"} | given)
    return make_plan(config, default_step=lambda config: step)


def test_few_minutes_take_the_cheap_one_and_many_the_best(shapes, monkeypatch):
    default, small = candidates(monkeypatch)
    data = shapes(train=9)
    plan = planned(data, train__max_minutes=1)
    assert plan.choice.chosen is small and (plan.config.model.min_size, plan.config.model.max_size) == (96, 128)
    assert "(chosen)" in plan.text().splitlines()[3]
    assert [candidate for candidate, _, _ in plan.choice.rows] == [default, small]
    few, many = (count for _, count, _ in plan.choice.rows)
    assert many == pytest.approx(10 * few, rel=0.1)
    assert planned(data, train__max_minutes=1000).choice.chosen is default
    # On a machine that is a thousand times faster.
    assert planned(data, step=0.001, train__max_minutes=1).choice.chosen is default


def test_small_objects_take_what_finds_them(shapes, monkeypatch):
    default, _ = candidates(monkeypatch)
    tiny = replace(default, min_size=768, max_size=1280, cost=4.0, values={1000: (0.9, 0.6, 0.6, 0.6)})
    monkeypatch.setattr(choice, "CANDIDATES", (default, tiny))
    data = shapes(train=9)
    assert planned(data, train__max_minutes=1e4).choice.chosen is default
    monkeypatch.setattr(choice, "network_boxes", lambda split, model: (np.full((9, 2), 12.0), None))
    assert planned(data, train__max_minutes=1e4).choice.chosen is tiny


@pytest.mark.parametrize(
    "keys",
    [
        {"train__max_minutes": 1, "model__min_size": 384, "model__max_size": 640},
        {"train__max_minutes": 1, "model__min_size": 100},
        {"train__max_minutes": 1, "model__name": "resnet18"},
        {"train__max_minutes": 1, "model__tile": 640},
        {"train__max_minutes": 1, "model__start": "none"},
        {"train__max_minutes": 1, "train__steps": 7},
        {"train__steps": 7},
    ],
)
def test_what_is_set_overrules(shapes, monkeypatch, keys):
    candidates(monkeypatch)
    plan = planned(shapes(train=9), **keys)
    assert plan.choice is None and "choice" not in plan.text()
    for key, value in keys.items():
        section, name = key.split("__")
        assert getattr(getattr(plan.config, section), name) == value


def test_without_a_step_measured_nothing_is_chosen(shapes, monkeypatch):
    candidates(monkeypatch)
    assert planned(shapes(train=9), step=None, train__max_minutes=1).choice is None


def test_a_run_keeps_what_was_chosen(shapes, tmp_path, monkeypatch):
    _, small = candidates(monkeypatch)
    paces = iter([0.03])  # asked once
    monkeypatch.setattr("resight.training.train.default_step", lambda config, distributed: next(paces))
    keys = {"data.path": str(shapes(train=3)), "train.device": "cpu", "data.workers": 0, "train.batch_size": 1}
    assert train(load_config(None, keys | {"train.max_minutes": 0.03}), tmp_path).exit_code == 0
    kept = load_config(tmp_path / "config.toml").model
    assert {key: getattr(kept, key) for key in small.keys} == small.keys
    longer = load_config(None, keys | {"train.max_minutes": 1000})
    assert "tf_efficientnet_lite0, 96-128 px" in train(longer, tmp_path, resume=True, dry_run=True).message
    # So does one that was killed before its first checkpoint; what is set now is not what was chosen then.
    shutil.rmtree(tmp_path / "checkpoints")
    assert "tf_efficientnet_lite0, 96-128 px" in train(longer, tmp_path, resume=True, dry_run=True).message
    smaller = load_config(None, keys | {"train.max_minutes": 1000, "model.min_size": 64})
    assert "tf_efficientnet_lite0, 64-128 px" in train(smaller, tmp_path, resume=True, dry_run=True).message
