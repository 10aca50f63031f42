import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch

import resight
from resight.cli.app import app
from resight.dialect import load_config, training_set
from resight.errors import ResightError
from resight.evaluation.coco import MEASURES, CocoMetrics
from resight.evaluation.loop import evaluate_images, measure
from resight.evaluation.operating_point import OperatingPoint
from resight.inference.detector import load
from resight.input.sampler import SampleKey
from resight.io.signals import stop_on_signal
from resight.models.checkpoints import BEST, LAST, load_checkpoint
from resight.training import evaluator, learner
from resight.training import train as module
from resight.training.diverged import Diverged
from resight.training.learner import Learner
from resight.training.optim import build_optimizer, lr_at
from resight.training.plan import make_plan
from resight.training.start import start_model
from resight.training.train import train
from resight.training.trainer import Trainer

OFTEN = {"augment__scale": (0.8, 1.2), "train__warmup_steps": 2, "train__learning_rate": 0.001}
SMALLEST = {"model__min_size": 32, "model__max_size": 48}
HALF = {**OFTEN, **SMALLEST, "train__precision": "float16", "train__batch_size": 1}  # which a CPU is slow at


@pytest.fixture
def interrupt_after(monkeypatch):
    """A SIGTERM to this process after so many steps."""

    def after(steps):
        step = Trainer.step

        def then_stop(self, *arguments):
            step(self, *arguments)
            if self.state.step == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "step", then_stop)

    return after


def state_of(run):
    """What a training is, without the times that it took."""
    found = load_checkpoint(run / LAST)
    state = {key: value for key, value in found.state.items() if "seconds" not in key and key != "waited"}
    for row in state["recent"]:
        del row["images_per_second"], row["waited"]
    return {key: value.numpy().tobytes() for key, value in found.tensors.items()}, state


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(shapes, tiny, once):
    """A run of 8 steps, which are 3 an epoch."""

    def make(folder):
        result = train(tiny(shapes(train=5, val=1), train__steps=8, **OFTEN), folder / "run")
        assert (result.exit_code, result.steps, result.run) == (0, 8, str(folder / "run"))

    return once("whole", make) / "run"


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


def test_a_run_that_was_killed_while_it_evaluated_evaluates_at_the_same_step(
    whole, shapes, tiny, tmp_path, monkeypatch
):
    def killed(*_):
        raise SystemExit

    config = tiny(shapes(train=5, val=1), train__steps=8, **OFTEN)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "evaluate", killed)
        train(config, tmp_path)
    assert load_checkpoint(tmp_path / LAST).state["step"] == 3
    train(config, tmp_path, resume=True)
    assert state_of(tmp_path) == state_of(whole)
    assert load_checkpoint(tmp_path / BEST).state == load_checkpoint(whole / BEST).state


def test_an_evaluation_ends_at_a_signal_and_is_made_again(whole, shapes, tiny, tmp_path, monkeypatch):
    def then_stop(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from evaluate_images(*arguments, **options)

    config = tiny(shapes(train=5, val=1), train__steps=8, **OFTEN)
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "evaluate_images", then_stop)
        assert train(config, tmp_path).exit_code == 75
    state = load_checkpoint(tmp_path / LAST).state
    assert (state["step"], state["evaluated_at"], state["best"]) == (3, 0, None)
    train(config, tmp_path, resume=True)
    assert state_of(tmp_path) == state_of(whole)


def test_with_tiles_and_repeats_a_run_resumes_and_is_a_model_that_tiles(shapes, tiny, tmp_path, interrupt_after):
    options = {"model__tile": 64, "data__repeat_threshold": 1.0, "train__epochs": 1}
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


def test_a_signal_within_the_handling_of_another_waits_for_nothing(monkeypatch):
    def late(*_):
        raise AssertionError("it waits for ever")

    def again(self):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, late)
    try:
        with stop_on_signal(announced=False) as stop:
            monkeypatch.setattr(threading.Condition, "notify_all", again)
            signal.alarm(5)
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def workers_of(group):
    """How many loader workers and fork servers a process group has."""
    listed = subprocess.run(["ps", "-o", "args=", "-g", str(group)], capture_output=True, text=True).stdout
    return listed.count("forkserver")


@pytest.mark.parametrize(("number", "then"), [(signal.SIGINT, "Ctrl-C again"), (signal.SIGTERM, "Ctrl-C")])
def test_the_first_signal_is_answered_at_once(number, then, caplog):
    with stop_on_signal(announced=True) as stop:
        signal.raise_signal(number)
        assert stop.is_set()
        for thread in threading.enumerate():
            if thread.name == "signals":
                thread.join(5)
        assert f"stopping after this step and saving; press {then} to quit without saving" in caplog.text


def test_a_training_that_is_not_interrupted_says_nothing_of_it(caplog):
    with stop_on_signal(announced=True):
        pass
    for thread in threading.enumerate():
        if thread.name == "signals":
            thread.join(5)
    assert "stopping" not in caplog.text


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
        (tiny(shapes(train=5, val=1), train__batch_size=3), "that was batch_size 2, now it is batch_size 3"),
        (tiny(shapes(train=5, val=1), data__repeat_threshold=0.5), "now it is repeat_threshold 0.5"),
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
    }
    assert load_config(whole / "config.toml").train.steps == 8
    told = json.loads((whole / "environment.json").read_text())
    assert told["seed"] == 42 and told["device"] == "cpu" and len(told["dataset"]) == len(told["weights"]) == 64
    rows = lines(whole)
    losses = {"loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert losses | {"learning_rate", "gradient_norm", "images_per_second", "waited"} <= rows[0].keys()
    assert rows[0]["step"] == 1 and rows[0]["loss"] == pytest.approx(sum(rows[0][key] for key in losses - {"loss"}))
    assert {measure.key for measure in MEASURES} <= rows[-1].keys()


def test_nothing_in_a_run_folder_is_a_pickle(whole):
    for file in (file for file in whole.rglob("*") if file.is_file()):
        assert not zipfile.is_zipfile(file)  # what torch.save writes
        assert not file.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05"))


def test_best_holds_the_averaged_weights_that_were_measured(whole):
    best, last = load_checkpoint(whole / BEST), load_checkpoint(whole / LAST)
    assert best.state["selected_on"] == "val" and best.card.score == last.card.score
    rows = {row["step"]: row["mAP"] for row in lines(whole) if row["split"] == "val"}
    assert best.state["best"] == rows[best.state["step"]] == max(rows.values()) == last.state["best"]
    assert best.weights().keys() == last.part("model").keys() and not best.part("optimizer")
    if best.state["step"] == 8:
        assert all(torch.equal(value, last.weights()[key]) for key, value in best.weights().items())


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


def test_a_loss_that_is_not_finite_ends_with_the_batch_and_the_last_good_checkpoint(shapes, tiny, tmp_path):
    config = tiny(
        shapes(train=5), train__steps=9, train__learning_rate=1e30, train__warmup_steps=0, checkpoint__every_steps=1
    )
    with pytest.raises(Diverged, match="not finite at step 2") as caught:
        train(config, tmp_path)
    assert caught.value.exit_code == 1
    assert "train.learning_rate" in str(caught.value) and str(tmp_path / "diverged") in str(caught.value)
    assert len(list((tmp_path / "diverged").glob("record-*.png"))) in (1, 2)
    last = load_checkpoint(tmp_path / LAST)
    assert last.state["step"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in last.tensors.values())


def test_a_gradient_that_is_not_finite_spoils_no_weight(shapes, tiny, tmp_path, monkeypatch):
    norm, spoiled = Learner.clip_gradients, []
    monkeypatch.setattr(Learner, "clip_gradients", lambda self: float("nan") if spoiled else norm(self))
    monkeypatch.setattr(Learner, "update", lambda self, step, _: spoiled.append(step))
    with pytest.raises(Diverged, match="the gradient is not finite at step 2"):
        train(tiny(shapes(train=5), train__steps=9), tmp_path)
    assert spoiled == [0]
    assert list((tmp_path / "diverged").glob("record-*.png"))


def measured(value):
    return CocoMetrics({item.key: value for item in MEASURES}, {}, 1, 1, 0), OperatingPoint(0.4)


def test_patience_ends_a_training_that_does_not_get_better(shapes, tiny, tmp_path, monkeypatch):
    values = iter([0.1, 0.3, 0.3, 0.2, 0.25])
    monkeypatch.setattr(evaluator, "measure", lambda *_, **__: measured(next(values)))
    config = tiny(shapes(train=6, test=1), train__steps=50, train__patience=3, train__batch_size=6, **SMALLEST)
    result = train(config, tmp_path)
    assert (result.exit_code, result.steps, result.best) == (0, 5, 0.3)
    best = load_checkpoint(tmp_path / BEST)
    assert best.state == {"step": 2, "selected_on": "test", "best": 0.3} and best.card.score == 0.4
    # Resumed, it is still out of patience.
    assert train(config, tmp_path, resume=True).steps == 5


def test_minutes_end_a_training_and_drive_its_schedule(shapes, tiny, tmp_path, monkeypatch):
    config = tiny(shapes(train=3), train__max_minutes=2, train__warmup_steps=0, train__learning_rate=0.001)
    monkeypatch.setattr(Trainer, "seconds", lambda self: 30.0 * self.state.step)
    rates = []
    monkeypatch.setattr(learner, "set_lr", lambda _, rate: rates.append(rate))
    result = train(config, tmp_path)
    assert (result.exit_code, result.steps) == (0, 4)
    assert rates == pytest.approx([0.001 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75)])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_record_that_cannot_be_used_stops_the_training_or_is_counted(shapes, tiny, tmp_path, split):
    good, bad = shapes(train=3, val=2), shapes(broken=1, train=3, val=2)
    other = {"train": "val", "val": "train"}[split]
    globs = {f"data__{split}": f"{bad}/{split}-*", f"data__{other}": f"{good}/{other}-*"}
    config = tiny("", data__label_map=str(good / "label_map.pbtxt"), train__steps=2, **globs)
    with pytest.raises(ResightError) as caught:
        train(config, tmp_path / "stop")
    assert f"{split}-00000" in caught.value.where
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_record": "skip"})})
    result = train(skipping, tmp_path / "skip")
    assert result.exit_code == 0 and "1 records skipped" in result.text()
    assert load_checkpoint(tmp_path / "skip" / LAST).state["skipped"] == 1


def test_older_checkpoints_are_kept_as_many_as_asked_for(shapes, tiny, tmp_path):
    train(tiny(shapes(train=3), train__steps=4, checkpoint__every_steps=1, checkpoint__keep=2), tmp_path)
    kept = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [load_checkpoint(path).state["step"] for path in kept] == [3, 4]


# And it learns


def test_it_learns_the_pictures_it_is_shown(shapes, tiny, tmp_path):
    config = tiny(
        shapes(train=6),
        model__name="tf_efficientnet_lite0",
        model__start="pretrained",
        train__steps=25,
        train__batch_size=3,
        train__learning_rate=0.002,
        train__warmup_steps=5,
        train__ema=0.9,
        augment__color=0,
        augment__scale=(1, 1),
    )
    result = train(config, tmp_path)
    detector = load(result.run)
    plan = module.make_plan(config)
    images = evaluate_images(detector, plan.train, range(len(plan.train)), on_error=pytest.fail)
    results = [result for _, result in images]
    found = [result.truth for result in results], [result.detections for result in results]
    metrics, point = measure(*found, detector.classes)
    assert metrics.summary["AP50"] > 0.5
    assert point.f1 > 0.5


# Switches that change the arithmetic and not the training


def first_step(shapes, tiny, folder, **switches):
    """The velocity after one step: the gradient."""
    options = {"train__optimizer": "sgd", "train__warmup_steps": 0, "train__ema": 0.0, **OFTEN, **switches}
    train(tiny(shapes(train=5), train__steps=1, train__batch_size=4, **options), folder)
    return load_checkpoint(folder / LAST).part("optimizer")


@pytest.mark.parametrize(
    ("switch", "value", "tolerance"),
    [
        ("train__channels_last", False, 5e-3),
        ("train__precision", "bfloat16", 0.3),
        ("train__precision", "float16", 0.3),
    ],
)
def test_a_switch_changes_the_arithmetic_only(shapes, tiny, tmp_path, switch, value, tolerance):
    plain = first_step(shapes, tiny, tmp_path / "plain")
    switched = first_step(shapes, tiny, tmp_path / "switched", **{switch: value})
    difference = math.sqrt(sum(float((plain[key] - switched[key]).square().sum()) for key in plain))
    assert 0 < difference < tolerance * math.sqrt(sum(float(value.square().sum()) for value in plain.values()))


def test_a_loss_scale_goes_on_where_it_was(shapes, tiny, tmp_path, interrupt_after):
    config = tiny(shapes(train=3), train__steps=2, **HALF)
    train(config, tmp_path / "whole")
    interrupt_after(1)
    train(config, tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    whole, parts = (load_checkpoint(tmp_path / name / LAST).state["loss_scale"] for name in ("whole", "parts"))
    assert whole == parts and whole["scale"] > 0


def test_accumulated_batches_are_one_step(shapes, tiny):
    config = tiny(shapes(train=9), train__ema=0.0, **OFTEN)
    plan = make_plan(config)
    dataset = training_set(plan.train, plan.classes, config)
    examples = [dataset[SampleKey(0, 0, record)] for record in (0, 1, 3, 4)]  # of one shape
    gradients = []
    for parts in ([examples], [examples[:2], examples[2:]], [examples[:1], examples[1:]]):
        model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
        optimizer = build_optimizer(model.train(), config.train)
        Learner(model, optimizer, partial(lr_at, config.train), config.train).backward(parts)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    # Equal but for images whose minibatch is not full, which count a little less or more.
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 0.02 * gradients[0].norm()


def test_what_changes_on_resume_is_said(shapes, tiny, tmp_path, caplog):
    config = tiny(shapes(train=3), train__steps=1, **OFTEN)
    train(config, tmp_path)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})})
    with caplog.at_level("INFO"):
        train(longer, tmp_path, resume=True)
    assert "changed: its length was 1 step and is now 2 steps" in caplog.text


def test_a_training_that_can_use_nothing_ends(shapes, tiny, tmp_path, monkeypatch):
    def broken(self, item):
        return ResightError("is damaged")

    monkeypatch.setattr("resight.input.dataset.TrainingSet.__getitem__", broken)
    with pytest.raises(ResightError, match="no record of the training split can be used"):
        train(tiny(shapes(train=3), train__steps=9, data__on_bad_record="skip"), tmp_path)


def test_a_run_that_was_killed_after_an_evaluation_does_not_tell_it_twice(whole, shapes, tiny, tmp_path, monkeypatch):
    evaluate = Trainer.evaluate

    def killed(self, *arguments):
        evaluate(self, *arguments)
        if self.state.step == 3:
            raise SystemExit

    config = tiny(shapes(train=5, val=1), train__steps=8, **OFTEN)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "evaluate", killed)
        train(config, tmp_path)
    assert [row["step"] for row in lines(tmp_path) if row["split"] == "val"] == [3]
    train(config, tmp_path, resume=True)
    assert [row["step"] for row in lines(tmp_path) if row["split"] == "val"] == [3, 6, 8]
    assert state_of(tmp_path) == state_of(whole)


def test_gradients_that_are_never_finite_end_a_training_in_half_precision(shapes, tiny, tmp_path, monkeypatch):
    norms = iter([math.inf, math.nan, math.nan])
    scales = iter([65536.0, 0.5])
    monkeypatch.setattr(Learner, "clip_gradients", lambda self: next(norms))
    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda _: next(scales))
    config = tiny(shapes(train=5), train__steps=500, **HALF)
    with pytest.raises(Diverged, match="the gradient is not finite at step 2"):
        train(config, tmp_path)
    assert lines(tmp_path)[0]["gradient_norm"] is None  # JSON knows no infinity


def test_one_bad_record_that_comes_again_and_again_ends_nothing(shapes, tiny, tmp_path):
    config = tiny(shapes(broken=1, train=2), train__steps=8, train__batch_size=1, data__on_bad_record="skip", **OFTEN)
    assert train(config, tmp_path).exit_code == 0


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
