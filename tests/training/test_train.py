import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import resight
from fixtures.runs import OFTEN, lines, state_of
from resight.cli.app import app
from resight.dialect import load_config
from resight.errors import ResightError
from resight.evaluation.coco import MEASURES, CocoMetrics
from resight.evaluation.operating_point import OperatingPoint
from resight.inference.detector import load
from resight.models.checkpoints import BEST, LAST, load_checkpoint
from resight.training import train as module
from resight.training.train import train
from resight.training.trainer import Trainer

# Interrupted and resumed


@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=pytest.mark.soak), 2, pytest.param(4, marks=pytest.mark.soak)]
)
def test_interrupted_and_resumed_is_never_interrupted(whole, shapes, tiny, tmp_path, interrupt_after, workers):
    interrupt_after(4)
    config = tiny(shapes(train=5, val=1), train__steps=8, data__workers=workers, **OFTEN)
    stopped = train(config, tmp_path)
    assert (stopped.exit_code, stopped.steps) == (75, 4)
    assert f"resight train --resume -o {tmp_path}" in stopped.text()
    torch.rand(5)
    done = train(config, tmp_path, resume=True)
    assert (done.exit_code, done.steps) == (0, 8)
    tensors, state = state_of(whole)
    assert {key.split(".")[0] for key in tensors} == {"model", "ema", "optimizer"}
    assert state_of(tmp_path) == (tensors, state)
    assert load_checkpoint(tmp_path / BEST).state == load_checkpoint(whole / BEST).state
    watched = [[row for row in lines(run) if row["split"] == "val"] for run in (whole, tmp_path)]
    assert all(row.pop("seconds") > 0 for row in (*watched[0], *watched[1]))
    assert watched[0] == watched[1] and [row["step"] for row in watched[0]] == [3, 6, 8]


def test_with_tiles_repeats_and_two_heads_a_run_resumes_and_tiles(shapes, tiny, tmp_path, interrupt_after):
    options = {"model__tile": 64, "model__heads": 2, "data__repeat_threshold": 1.0, "train__epochs": 1}
    config = tiny(shapes(train=5, val=1), **options)
    result = train(config, tmp_path / "whole")
    assert result.steps > 5 / config.train.batch_size  # an epoch is longer
    interrupt_after(1)
    assert train(config, tmp_path / "cut").exit_code == 75
    train(config, tmp_path / "cut", resume=True)
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")
    assert load(tmp_path / "whole").tile == 64
    metrics = resight.evaluate(tmp_path / "whole", split="val").metrics
    assert metrics["num_images"] == 1
    with pytest.raises(ResightError, match="repeat_threshold"):
        train(tiny(shapes(train=5, val=1), **options | {"data__repeat_threshold": 0.5}), tmp_path / "cut", resume=True)


@pytest.mark.parametrize("steps", [8, 3])
def test_a_finished_run_stays_as_it_is(whole, shapes, tiny, tmp_path, steps, caplog):
    run = shutil.copytree(whole, tmp_path / "run")
    before = state_of(run)
    with caplog.at_level("INFO"):
        again = train(tiny(shapes(train=5, val=1), train__steps=steps, **OFTEN), run, resume=True)
    assert (again.exit_code, again.steps) == (0, 8)
    assert f"has taken 8 steps of {steps}: nothing is left" in caplog.text
    assert state_of(run) == before


def test_a_signal_before_the_first_step_saves_step_0(shapes, tiny, tmp_path, monkeypatch):
    config = tiny(shapes(train=3), train__steps=1)
    start = module.start_model

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*arguments)

    monkeypatch.setattr(module, "start_model", interrupted)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stopped = train(config, tmp_path)
    assert (stopped.exit_code, stopped.steps) == (75, 0)
    assert load_checkpoint(tmp_path / LAST).state["step"] == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    done = train(config, tmp_path, resume=True)
    assert (done.exit_code, done.steps) == (0, 1)
    # Nothing was watched, so the last weights are the best there are.
    assert load_checkpoint(tmp_path / BEST).state["step"] == 1


def test_a_second_ctrl_c_ends_at_once(shapes, tiny, tmp_path, monkeypatch):
    def impatient(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one must end it")

    monkeypatch.setattr(module, "start_model", impatient)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(shapes(train=3)), tmp_path)


def workers_of(group):
    """How many loader workers and fork servers a process group has."""
    listed = subprocess.run(["ps", "-o", "args=", "-g", str(group)], capture_output=True, text=True).stdout
    return listed.count("forkserver")


@pytest.mark.parametrize(
    ("blow", "moment"),
    [
        pytest.param("SIGTERM", "steps", marks=pytest.mark.soak),
        pytest.param("SIGTERM", "workers", marks=pytest.mark.soak),
        ("SIGINT", "workers"),
    ],
)
def test_a_supervisor_ends_the_process_group_and_the_run_goes_on_later(shapes, tiny, tmp_path, blow, moment):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "resight", "train", "--data", str(shapes(train=5)), "-o", str(run), "--resume"]
    command += ["--model", "test_efficientnet", "--start", "none", "--size", "64,96", "--batch", "2", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--set", "data.workers=1"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(resight.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # a group of its own
    )
    try:
        # The first step's line, or the worker while it is still being imported.
        while not ((run / "metrics.jsonl").exists() and lines(run) if moment == "steps" else workers_of(process.pid)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        os.killpg(process.pid, signal.Signals[blow])
        _, said = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 75, said
    assert "Traceback" not in said
    steps = load_checkpoint(run / LAST).state["step"]
    assert steps >= 1
    done = train(load_config(run / "config.toml", {"train.steps": steps + 1, "data.workers": 0}), run, resume=True)
    assert (done.exit_code, done.steps) == (0, steps + 1)


LATE = """
import atexit, os, signal, sys, threading, time
threading.Thread(target=time.sleep, args=[600], daemon=True).start()  # which may take the signal, too
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
sys.argv = ["resight", "train", "--resume", "-o", sys.argv[1]]
from resight.__main__ import main
main()
"""


def test_a_signal_after_the_training_does_not_change_how_it_ended(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    environment = os.environ | {"PYTHONPATH": str(Path(resight.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LATE, run], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8 steps in" in done.stdout


# What --resume accepts


def test_resume_starts_where_there_is_nothing_and_where_nothing_was_saved(shapes, tiny, tmp_path, monkeypatch):
    config = tiny(shapes(train=3), train__steps=1)
    step = Trainer.step

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr(Trainer, "step", killed)
    for folder in ("missing", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(SystemExit):
            train(config, tmp_path / folder, resume=True)
    monkeypatch.setattr(Trainer, "step", step)
    run = tmp_path / "missing"
    assert (run / "config.toml").exists() and not (run / LAST).exists()
    (run / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"st')
    with pytest.raises(ResightError, match="holds a run already"):
        train(config, run)
    assert train(config, run, resume=True).exit_code == 0
    assert [row["step"] for row in lines(run)] == [1]
    with pytest.raises(ResightError, match="holds a run already"):
        train(config, run)


def test_a_run_goes_on_with_its_own_model_and_classes_only(whole, shapes, tiny, squares, tmp_path):
    whole = shutil.copytree(whole, tmp_path / "run")
    from dataclasses import replace

    from resight.label_map import LabelMap
    from resight.records.writer import write_records_folder

    stored = (whole / "config.toml").read_text()
    told = (whole / "environment.json").read_text()
    other = squares("a", 0)
    other = replace(other, boxes=tuple(replace(box, label="stop") for box in other.boxes))
    write_records_folder({"train": [other]}, tmp_path / "records", LabelMap.from_names(["stop"]))
    for config, answer in (
        (tiny(tmp_path / "records"), "trained on the classes red, blue, the data has stop"),
        (tiny(shapes(train=5, val=1), model__min_size=80), "model.min_size was 64 and is now 80"),
        (tiny(shapes(train=5, val=1), train__batch_size=3), "was batch_size 2, now batch_size 3"),
        (tiny(shapes(train=5, val=1), data__repeat_threshold=0.75), "now repeat_threshold 0.75"),
        (tiny(shapes(train=6, val=1)), "data or order changed"),
    ):
        with pytest.raises(ResightError, match=answer):
            train(config, whole, resume=True)
        assert (whole / "config.toml").read_text() == stored  # or the next --resume would fail, too
    with pytest.raises(ResightError, match="another optimizer"):
        train(tiny(shapes(train=5, val=1), train__optimizer="sgd", **OFTEN), whole, resume=True)
    assert (whole / "config.toml").read_text() == stored
    train(load_config(whole / "config.toml"), whole, resume=True)
    assert (whole / "environment.json").read_text() == told


def test_a_damaged_checkpoint_is_named(shapes, tiny, tmp_path):
    (tmp_path / LAST).parent.mkdir()
    (tmp_path / LAST).write_bytes(b"damaged")
    with pytest.raises(ResightError) as caught:
        train(tiny(shapes(train=3)), tmp_path, resume=True)
    assert caught.value.where == str(tmp_path / LAST)


@pytest.mark.parametrize("out", ["gs://bucket/run", Path("s3://bucket/run")])
def test_an_address_that_no_run_can_have_is_no_folder(tiny, shapes, out):
    with pytest.raises(ResightError, match="no run can be written there"):
        train(tiny(shapes(train=3)), out)


# What a run leaves


def test_a_run_folder_holds_what_is_promised(whole, shapes):
    names = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()}
    events = {name for name in names if "tfevents" in name}
    assert events
    assert names - events - {".lock"} == {
        "config.toml",
        "label_map.pbtxt",
        "environment.json",
        "metrics.jsonl",
        "run.json",
        LAST,
        BEST,
        "evaluation/val/metrics.json",
        "evaluation/val/detections.safetensors",
    }
    assert load_config(whole / "config.toml").train.steps == 8
    told = json.loads((whole / "environment.json").read_text())
    assert told["seed"] == 42 and told["device"] == "cpu" and len(told["dataset"]) == len(told["weights"]) == 64
    rows = lines(whole)
    losses = {"loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert losses | {"learning_rate", "gradient_norm", "images_per_second", "waited"} <= rows[0].keys()
    assert rows[0]["step"] == 1 and rows[0]["loss"] == pytest.approx(sum(rows[0][key] for key in losses - {"loss"}))
    assert {measure.key for measure in MEASURES} <= rows[-1].keys()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_folder_that_cannot_be_a_new_run_is_refused_before_the_data_is_read(tiny, tmp_path, dry_run):
    config = tiny(tmp_path / "no records")
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "config.toml").write_text("")
    (tmp_path / "file").write_text("")
    for name, words in (
        ("a run", "holds a run already\n.*'.*/a run'"),
        ("file", "found a file"),
        (".", "is not empty"),
    ):
        with pytest.raises(ResightError, match=words):
            train(config, tmp_path / name, dry_run=dry_run)
    with pytest.raises(ResightError, match="no such file"):
        train(config, tmp_path / "a run", dry_run=dry_run, resume=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("my.toml",), "config is 'my.toml', of the type str"),
        ((None,), "config is None"),
        ((load_config(), 3), "out is 3"),
        ((load_config(), ""), "out is empty"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ResightError, match=f"^train: {words}"):
        train(*arguments)


def test_a_dry_run_tells_its_plan_once_and_writes_nothing(shapes, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", str(shapes(train=3)), "-o", "run", "--dry-run", "--size", "64,96", "--start", "none"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0
    assert (said.stdout + said.stderr).count("images to train on") == 1
    assert "run folder run" in said.stdout and os.listdir() == []


def test_a_dry_run_of_a_run_that_goes_on_refuses_what_the_training_would(whole, shapes, tiny, tmp_path):
    whole = shutil.copytree(whole, tmp_path / "run")
    before = state_of(whole)
    config = tiny(shapes(train=5, val=1), train__steps=9, **OFTEN)
    assert "nothing was trained" in train(config, whole, resume=True, dry_run=True).text()
    for key, says in (("model__tile", "model.tile was 0 and is now 64"), ("train__batch_size", "batch_size 2")):
        with pytest.raises(ResightError, match=says):
            train(tiny(shapes(train=5, val=1), **{**OFTEN, key: 64}), whole, resume=True, dry_run=True)
    assert state_of(whole) == before


# When things go wrong


def measured(value):
    return CocoMetrics({item.key: value for item in MEASURES}, {}, 1, 1, 0), OperatingPoint(0.4)


def first_step(shapes, tiny, folder, **switches):
    """The velocity after one step: the gradient."""
    options = {"train__optimizer": "sgd", "train__warmup_steps": 0, "train__ema": 0.0, **OFTEN, **switches}
    train(tiny(shapes(train=5), train__steps=1, train__batch_size=4, **options), folder)
    return load_checkpoint(folder / LAST).part("optimizer")


def test_what_changes_on_resume_is_said(shapes, tiny, tmp_path, caplog):
    config = tiny(shapes(train=3), train__steps=1, **OFTEN)
    train(config, tmp_path)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})})
    with caplog.at_level("INFO"):
        train(longer, tmp_path, resume=True)
    assert "changed: its length was 1 step and is now 2 steps" in caplog.text


def test_a_run_that_another_training_wrote_to_meanwhile_is_left_alone(shapes, tiny, tmp_path, monkeypatch):
    config = tiny(shapes(train=3), train__steps=1, **OFTEN)
    train(config, tmp_path)
    plan = module.make_plan

    def meanwhile(*arguments):
        monkeypatch.setattr(module, "make_plan", plan)
        train(config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})}), tmp_path, resume=True)
        return plan(*arguments)

    monkeypatch.setattr(module, "make_plan", meanwhile)
    with pytest.raises(ResightError, match="another training has just written"):
        train(config, tmp_path, resume=True)
    assert load_checkpoint(tmp_path / LAST).state["step"] == 2


@pytest.mark.parametrize(
    ("device", "deterministic", "found"),
    [("cuda", False, "tf32"), ("cuda", True, "ieee"), ("cpu", False, None)],
)
def test_a_gpu_multiplies_in_tf32_where_equal_numbers_are_not_asked_for(
    tiny, monkeypatch, device, deterministic, found
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [place.fp32_precision for place in places]
    with module._arithmetic(tiny("records", train__device=device, train__deterministic=deterministic)):
        assert [place.fp32_precision for place in places] == ([found] * 2 if found else before)
        assert torch.are_deterministic_algorithms_enabled() == (device == "cpu" or deterministic)
    assert [place.fp32_precision for place in places] == before
