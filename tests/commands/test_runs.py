import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from resight.commands.runs import best_run, read_runs, runs_table
from resight.config.toml_text import to_toml
from resight.dialect import load_config
from resight.errors import ResightError


def save_state(path, **state):
    save_file({}, path, metadata={"resight": json.dumps({"state": state})})


@pytest.fixture
def runs(tmp_path):
    """A finished run, one that has only begun, one whose last line is torn, and a folder that is no run."""
    for name, score in (("a", 0.5), ("b", None), ("c", 0.6)):
        run = tmp_path / name
        run.mkdir()
        keys = {"data.path": "records", "train.seed": 7, "train.ema": 0.9 if name == "c" else 0.5}
        (run / "config.toml").write_text(to_toml(load_config(None, keys)))
        if score is None:
            continue
        begun = {"step": 10, "loss": 2.0, "seconds": 90.0, "memory_gb": 1.25}
        lines = [begun, {"step": 20, "mAP": score, "AP50": 0.9}, {"step": 30, "mAP": 0.1}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "checkpoints").mkdir()
        save_state(run / "checkpoints" / "last.safetensors", step=33, seconds=100.0)
    save_state(tmp_path / "a" / "checkpoints" / "best.safetensors", step=20)
    (tmp_path / "a" / "environment.json").write_text('{"device": "cpu"}')
    (tmp_path / "a" / "evaluation").mkdir()
    (tmp_path / "a" / "evaluation" / "metrics.json").write_text('{"split": "test", "mAP": 0.4, "AP50": 0.8}')
    with open(tmp_path / "c" / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_runs_stand_side_by_side(runs):
    a, b, c = read_runs(runs)
    assert [run["path"] for run in (a, b, c)] == [str(runs / name) for name in "abc"]
    assert (a["steps"], a["checkpoint"], a["data"], a["seed"], a["device"]) == (33, "best", "records", 7, "cpu")
    assert (a["minutes"], a["memory_gb"], a["config"]["train.ema"]) == (1.7, 1.25, 0.5)
    assert (b["minutes"], b["memory_gb"], b["usd"]) == (None, None, None)
    assert "USD" not in runs_table([a, b, c], 200)
    (runs / "a" / "run.json").write_text('{"usd": 2.5}')
    (runs / "b" / "run.json").write_text('{"usd": "2.5"}')
    priced = runs_table(read_runs(runs), 200).splitlines()
    assert priced[0].endswith("  USD") and priced[1].endswith("  2.50") and priced[2].endswith("  -")
    assert (a["watched"], a["measured"]) == ({"mAP": 0.5, "AP50": 0.9}, {"mAP": 0.4, "AP50": 0.8})
    assert (b["steps"], b["checkpoint"], b["watched"], b["measured"], b["problems"]) == (None, "", {}, {}, [])
    assert (c["steps"], c["checkpoint"]) == (33, "last")
    assert c["problems"] == ["metrics.jsonl: 1 line cannot be read"]
    assert best_run([a, b, c]) == c["path"] and best_run([b]) == ""


def test_the_table_has_a_line_for_each_run_and_names_problems(runs):
    head, a, b, c, *rest = runs_table(read_runs(runs)).splitlines()
    assert head.split() == ["run", "steps", "minutes", "mAP", "AP50", "test", "mAP", "test", "AP50", "saved", "GB"]
    assert a.split() == ["a", "33", "1.7", "0.500", "0.900", "0.400", "0.800", "best", "1.2"]
    assert b.split() == ["b", *["-"] * 6, "none", "-"]
    assert c.split() == ["c", "33", "1.7", "0.600", "0.900", "-", "-", "last", "1.2"]
    assert {"model: tf_efficientnet_lite0", "size: 384,640", "data: records"} <= set(rest)
    assert rest[rest.index("What differs in their configurations:") + 1] == "  train.ema: 0.5 in a, b; 0.9 in c"
    assert f"{runs / 'c'}: metrics.jsonl: 1 line cannot be read" in rest


@pytest.mark.parametrize("evaluation", ['{"split": "val", "mAP": 0.4, "AP50": 0.8}', '{"mAP": 0.4, "AP50": 0.8}'])
def test_only_the_test_split_is_shown_as_such(runs, evaluation):
    (runs / "a" / "evaluation" / "metrics.json").write_text(evaluation)
    assert read_runs(runs)[0]["measured"] == {}


def test_a_run_itself_can_be_named(runs):
    assert [run["path"] for run in read_runs(runs / "a")] == [str(runs / "a")]


def test_what_holds_no_run_is_refused(runs):
    with pytest.raises(ResightError, match="holds no run"):
        read_runs(runs / "notes")
    with pytest.raises(ResightError, match="there is no such folder"):
        read_runs(runs / "none")
    with pytest.raises(ResightError, match="found a file"):
        read_runs(runs / "a" / "config.toml")
    with pytest.raises(ResightError, match="folder is 3"):
        read_runs(3)


CONTENT = st.binary(max_size=40) | st.sampled_from(
    [b"[]", b"3", b'{"step": "x"}\n{"step": true}', b'{"mAP": {}}', b"model = 1\ntrain = []", b"[model]\nname = []"]
)


@given(config=CONTENT, metrics=CONTENT, environment=CONTENT, evaluation=CONTENT)
def test_damaged_files_never_hide_the_other_runs(tmp_path_factory, config, metrics, environment, evaluation):
    run = tmp_path_factory.getbasetemp() / "damaged" / "run"
    (run / "evaluation").mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_bytes(config)
    (run / "metrics.jsonl").write_bytes(metrics)
    (run / "environment.json").write_bytes(environment)
    (run / "evaluation" / "metrics.json").write_bytes(evaluation)
    (found,) = read_runs(run.parent)
    assert found["path"] == str(run)
    assert runs_table([found]).splitlines()[1].startswith("run ")
    json.dumps(found)


def test_runs_in_a_store_are_refused_by_name():
    with pytest.raises(ResightError, match="only local folders") as caught:
        read_runs("s3://bucket/runs")
    assert caught.value.where == "s3://bucket/runs"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_table_keeps_to_its_width_whatever_the_runs_are_called(runs, width):
    (runs / "a").rename(runs / ("a_run_with_" * 9 + "end"))
    toml = to_toml(load_config(None, {"data.path": "/a/long/path/to/records" * 6, "model.name": "resnet18"}))
    (runs / "b" / "config.toml").write_text(toml)
    lines = [line for line in runs_table(read_runs(runs), width).splitlines() if str(runs) not in line]
    assert all(len(line) <= width for line in lines)
    assert any(line.split()[0].endswith("end") for line in lines if line)
    assert ("not shown: " in "\n".join(lines)) == (width < 80 or any("saved" not in line for line in lines[:1]))


def test_a_checkpoint_that_cannot_be_read_is_named(runs):
    (runs / "a" / "checkpoints" / "last.safetensors").write_bytes(b"x")
    run = read_runs(runs)[0]
    assert run["problems"][0].startswith("last.safetensors cannot be read") and run["steps"] == 30
