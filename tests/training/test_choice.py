"""The input size for the minutes given: the table, what is expected by it, and that a run keeps what was chosen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.config.toml_text import to_toml
from resight.dialect import load_config
from resight.training import choice
from resight.training.plan import make_plan
from resight.training.train import train

MEASURED = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "signs"
BINS = ("network < 16", "network 16-32", "network 32-64", "network > 64")


def setting_of(candidate):
    return "default" if candidate is choice.DEFAULT else f"size-{candidate.min_size}"


def test_the_default_is_the_default():
    model = load_config().model
    assert choice.DEFAULT.size == (model.min_size, model.max_size)
    assert choice.DEFAULT is choice.CANDIDATES[0] and len(choice.CANDIDATES) > 1
    assert all(set(candidate.values) <= set(choice.DEFAULT.values) for candidate in choice.CANDIDATES)


@pytest.mark.parametrize("candidate", choice.CANDIDATES, ids=setting_of)
def test_the_table_is_what_was_measured(candidate):
    def measured(setting, steps):
        return json.loads((MEASURED / f"{setting}-{steps}-0.json").read_text())

    for steps, values in candidate.values.items():
        facts = measured(setting_of(candidate), steps)
        assert values == tuple(round(facts["numbers"][part]["mAP"], 3) for part in BINS)
        assert candidate.size == (facts["config"]["model.min_size"], facts["config"]["model.max_size"])
    one, other = (measured(name, 150)["training_cpu_seconds"] for name in (setting_of(candidate), "default"))
    assert candidate.cost == round(one / other, 2)


@given(st.integers(0, len(choice.CANDIDATES) - 1), st.floats(1, 1e9))
def test_what_is_expected_is_what_was_measured_and_between(number, steps):
    candidate = choice.CANDIDATES[number]
    for count, values in candidate.values.items():
        np.testing.assert_allclose(choice.expected(candidate, count), values, atol=1e-12)
    below, above = (choice.expected(candidate, count) for count in (steps / 2, steps))
    assert ((above >= 0) & (above <= 1)).all()
    if steps <= min(choice.DEFAULT.values):
        assert candidate is not choice.DEFAULT or (below <= above).all()
    if steps >= max(choice.DEFAULT.values):
        np.testing.assert_array_equal(above, choice.expected(candidate, 2 * steps))


def candidates(monkeypatch):
    """Two: the default, and one that costs a tenth and is better in short trainings."""
    default = replace(choice.DEFAULT, values={100: (0.1, 0.1, 0.1, 0.1), 1000: (0.5, 0.6, 0.7, 0.8)})
    small = choice.Candidate(96, 128, 0.1, {100: (0.3, 0.3, 0.3, 0.3), 1000: (0.1, 0.6, 0.7, 0.7)})
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
    assert [candidate for candidate, _ in plan.choice.rows] == [default, small]
    assert plan.text().splitlines()[1].startswith("size      96-128 px for 1 min on this machine; ")
    assert planned(data, train__max_minutes=1000).choice.chosen is default
    # On a machine that is a thousand times faster.
    assert planned(data, step=0.001, train__max_minutes=1).choice.chosen is default


def test_small_objects_take_what_finds_them(shapes, monkeypatch):
    default, _ = candidates(monkeypatch)
    tiny = choice.Candidate(768, 1280, 4.0, {100: (0.9, 0.1, 0.1, 0.1), 1000: (0.9, 0.6, 0.6, 0.6)})
    monkeypatch.setattr(choice, "CANDIDATES", (default, tiny))
    data = shapes(train=9)
    assert planned(data, train__max_minutes=1e4).choice.chosen is default
    monkeypatch.setattr(choice, "network_boxes", lambda split, model: (np.full((9, 2), 12.0), None))
    assert planned(data, train__max_minutes=1e4).choice.chosen is tiny


def test_what_is_expected_follows_the_images_and_not_the_batches(shapes, monkeypatch):
    candidates(monkeypatch)
    data = shapes(train=9)
    batches = {"train__batch_size": 2}, {"train__batch_size": 2, "train__accumulate": 3}, {"train__batch_size": 99}
    rows = [planned(data, train__max_minutes=5, **keys).choice.rows for keys in ({}, *batches)]
    assert all(row == rows[0] for row in rows)
    (_, whole), _ = rows[0]
    (_, evaluated), _ = planned(shapes(train=9, val=3), train__max_minutes=5).choice.rows
    assert evaluated < whole  # which takes a tenth of the time


def test_beyond_what_was_measured_all_is_as_at_its_ends(shapes, monkeypatch):
    default, _ = candidates(monkeypatch)
    data = shapes(train=9)
    long, longer = (planned(data, train__max_minutes=minutes).choice.rows for minutes in (1e3, 1e6))
    assert long == longer
    # After less than its first steps nothing is known of a candidate.
    assert [one for one, _ in planned(data, step=1e4, train__max_minutes=1).choice.rows] == [default]


@pytest.mark.parametrize(
    "keys",
    [
        {"train__max_minutes": 1, "model__min_size": 384, "model__max_size": 640},
        {"train__max_minutes": 1, "model__min_size": 100},
        {"train__max_minutes": 1, "model__name": "resnet18"},
        {"train__max_minutes": 1, "model__heads": 1},
        {"train__max_minutes": 1, "model__name": "fasterrcnn_mobilenet_v3_large_320_fpn"},
        {"train__max_minutes": 1, "model__tile": 640},
        {"train__max_minutes": 1, "model__start": "none"},
        {"train__max_minutes": 1, "train__steps": 7},
        {"train__max_minutes": 1, "train__epochs": 7},
        {"train__steps": 7},
    ],
)
def test_nothing_is_chosen_where_something_else_is_set(shapes, monkeypatch, keys):
    candidates(monkeypatch)
    plan = planned(shapes(train=9), **keys)
    assert plan.choice is None and "\nsize " not in plan.text()
    for key, value in keys.items():
        section, name = key.split("__")
        assert getattr(getattr(plan.config, section), name) == value


def test_without_a_step_measured_nothing_is_chosen(shapes, monkeypatch):
    candidates(monkeypatch)
    plan = planned(shapes(train=9), step=None, train__max_minutes=1)
    assert plan.choice is None and "no input size was chosen for the minutes given" in plan.text()


@pytest.mark.parametrize(
    ("begun", "now", "size"),
    [
        ({"model.min_size": 96, "model.max_size": 128}, {}, 96),
        ({"model.min_size": 96, "model.max_size": 200}, {}, 384),  # which is none of the table
        ({"model.min_size": 96, "model.max_size": 128}, {"model.max_size": 700}, 384),
        ({"model.min_size": 96, "model.max_size": 128}, {"model.name": "resnet18"}, 384),
        ({"model.name": "resnet18", "model.min_size": 96, "model.max_size": 128}, {}, 384),
        ({"model.min_size": 96, "model.max_size": 128}, {"train.steps": 3}, 384),
        ({"model.name": "faster_rcnn_resnet50_v1"}, {}, 384),
        ({"model.min_size": 96, "model.max_size": 128}, {"model.name": "faster_rcnn_resnet50_v1"}, 800),
    ],
)
def test_an_attempt_without_a_checkpoint_hands_its_choice_on(tmp_path, monkeypatch, begun, now, size):
    candidates(monkeypatch)
    (tmp_path / "config.toml").write_text(to_toml(load_config(None, begun)))
    found = choice.as_begun(load_config(None, {"train.max_minutes": 1} | now), tmp_path / "config.toml")
    assert found.model.min_size == size
    assert choice.is_open(found) == (not now and size == 384)


def test_a_run_keeps_what_was_chosen(shapes, tmp_path, monkeypatch):
    _, small = candidates(monkeypatch)
    steps = iter([0.03])  # asked once
    monkeypatch.setattr("resight.training.train.default_step", lambda config, distributed: next(steps))
    keys = {"data.path": str(shapes(train=3)), "train.device": "cpu", "data.workers": 0, "train.batch_size": 1}
    assert train(load_config(None, keys | {"train.max_minutes": 0.03}), tmp_path).exit_code == 0
    kept = load_config(tmp_path / "config.toml").model
    assert (kept.min_size, kept.max_size) == small.size
    longer = load_config(None, keys | {"train.max_minutes": 1000})
    assert "tf_efficientnet_lite0, 96-128 px" in train(longer, tmp_path, resume=True, dry_run=True).message
    # So does one that was killed before its first checkpoint.
    shutil.rmtree(tmp_path / "checkpoints")
    assert "tf_efficientnet_lite0, 96-128 px" in train(longer, tmp_path, resume=True, dry_run=True).message
