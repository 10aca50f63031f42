import json
import os
import subprocess
import sys

import pytest

from resight.dialect import load_config
from resight.errors import ResightError
from resight.label_map import LabelMap, read_label_map
from resight.models.checkpoints import BEST, LAST, find_checkpoint
from resight.training.run_folder import check_run, describe_run, forget_metrics, lock_run, new_run

CONFIG = load_config(None, {"train.seed": 7})
LABELS = LabelMap.from_names(["stop"])


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_the_best_checkpoint_is_meant_and_else_the_last(tmp_path):
    last = touch(tmp_path / LAST)
    assert find_checkpoint(tmp_path) == last
    best = touch(tmp_path / BEST)
    touch(tmp_path / f"{LAST}.partial")
    assert find_checkpoint(tmp_path) == best
    assert find_checkpoint(str(last)) == last


def test_what_is_no_model_is_said_with_what_would_be_one(tmp_path):
    touch(tmp_path / "records" / "dataset.json")
    touch(tmp_path / "a.txt")
    touch(tmp_path / "a run" / "config.toml")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, answer in (
        ("records", f"Train on it: resight train --data {tmp_path / 'records'}"),
        (".", "holds no checkpoint"),
        ("a.txt", "is not a model"),
        ("a run", f"resight train --resume -o '{tmp_path / 'a run'}'"),
        ("pipe.safetensors", "is neither a file nor a folder"),
        ("none", "there is no such model"),
    ):
        with pytest.raises(ResightError) as caught:
            find_checkpoint(tmp_path / name)
        assert answer in str(caught.value) and caught.value.where == str(tmp_path / name)


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    run = tmp_path / "a" / "run"
    new_run(run)
    new_run(run)  # nothing has begun there
    describe_run(run, CONFIG, LABELS, {})
    with pytest.raises(ResightError, match=f"holds a run already\n.*--resume -o {run}"):
        new_run(run)
    new_run(run, resume=True)
    (run / "config.toml").unlink()
    touch(run / LAST)
    for file in ("label_map.pbtxt", "environment.json"):
        (run / file).unlink()
    with pytest.raises(ResightError, match="holds a run already"):
        new_run(run)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, resume):
    touch(tmp_path / "thesis.docx")
    with pytest.raises(ResightError, match=r"is not empty: thesis\.docx"):
        new_run(tmp_path, resume)
    with pytest.raises(ResightError, match="expected a folder, found a file"):
        new_run(tmp_path / "thesis.docx", resume)


@pytest.mark.parametrize("written", [".config.toml.partial-1f", "config.toml", "label_map.pbtxt"])
def test_a_run_that_was_killed_while_it_began_can_begin_again(tmp_path, written):
    new_run(tmp_path)
    if written == ".config.toml.partial-1f":
        touch(tmp_path / written)
    else:
        describe_run(tmp_path, CONFIG, LABELS, {})
        for file in {"label_map.pbtxt", "environment.json"} - {written}:
            (tmp_path / file).unlink()
    new_run(tmp_path, resume=True)
    describe_run(tmp_path, CONFIG, LABELS, {})
    assert load_config(tmp_path / "config.toml") == CONFIG


def test_a_run_folder_is_one_trainings_alone(tmp_path):
    new_run(tmp_path)
    holder = "import sys, time; from pathlib import Path; from resight.training.run_folder import lock_run\n"
    holder += f"with lock_run(Path({str(tmp_path)!r})): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(ResightError, match="another training"), lock_run(tmp_path):
            pass
        left = touch(tmp_path / f"{LAST}").with_name(".last.safetensors.partial-1f")
        touch(left)
        touch(left.with_name(".tmpA1b2C3"))  # safetensors' own, of an earlier version
        touch(left.with_name(".last.safetensors.partial-2e") / "last.safetensors")
        process.kill()
    with lock_run(tmp_path):
        assert os.listdir(tmp_path / "checkpoints") == ["last.safetensors"]
    new_run(tmp_path / "other")
    (tmp_path / "other" / ".lock").mkdir()
    with pytest.raises(ResightError, match="cannot write into the run folder"), lock_run(tmp_path / "other"):
        pass


def test_a_run_says_of_itself_what_it_is(tmp_path):
    new_run(tmp_path)
    describe_run(tmp_path, CONFIG, LABELS, {"dataset": "abc"})
    assert load_config(tmp_path / "config.toml") == CONFIG
    assert read_label_map(tmp_path / "label_map.pbtxt").names == ("stop",)
    told = json.loads((tmp_path / "environment.json").read_text())
    assert told["dataset"] == "abc" and {"command", "torch", "resight", "threads"} <= told.keys()
    describe_run(tmp_path, load_config(None, {"train.seed": 8}), LABELS, None)
    assert load_config(tmp_path / "config.toml").train.seed == 8
    assert json.loads((tmp_path / "environment.json").read_text()) == told
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoints", "config.toml", "environment.json", "label_map.pbtxt",
    ]  # fmt: skip


def test_lines_of_steps_that_are_done_again_are_forgotten(tmp_path):
    forget_metrics(tmp_path, 3)  # nothing there, nothing to do
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "split": "train"}, {"step": 3, "split": "val", "name": "ä"}, {"step": 3, "split": "train"}]
    rows += [{"step": 4, "split": "train"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_bytes("\n".join([*lines, '{"step": 3, "lo']).encode() + b"\xc3")
    forget_metrics(tmp_path, 3, 3)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rows[:3]
    forget_metrics(tmp_path, 3, 2)  # the evaluation is made again
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == [rows[0], rows[2]]
    forget_metrics(tmp_path, 0)
    assert file.read_text() == ""


def test_what_a_killed_verb_left_in_a_run_folder_does_not_keep_it_from_going_on(tmp_path):
    (tmp_path / ".predictions.partial-1234").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.safetensors.partial-1234").touch()
    with lock_run(tmp_path):
        assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_link_that_leads_nowhere_is_refused(tmp_path, resume):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ResightError, match="link that leads nowhere"):
        check_run(tmp_path / "run", resume)


def test_a_folder_that_holds_only_what_a_launch_leaves_is_an_empty_one(tmp_path):
    touch(tmp_path / "run.json")
    touch(tmp_path / "launch" / "start.safetensors")
    check_run(tmp_path)
    check_run(tmp_path, resume=True)
    touch(tmp_path / "notes.txt")
    with pytest.raises(ResightError, match=r"is not empty: notes\.txt"):
        check_run(tmp_path, resume=True)
