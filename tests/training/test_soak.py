"""Runs that are interrupted at random moments, and resumed, end as the run that never was.

``make soak`` sets RESIGHT_SOAK to take that many moments for each signal and number of workers; one of each kind at a
given moment is in ``test_job.py``.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import resight
from resight.cli.app import app
from resight.config.toml_text import to_toml
from resight.dialect import load_config
from resight.models.checkpoints import BEST, LAST, load_checkpoint
from resight.training.train import train
from resight.training.trainer import Trainer

MOMENTS = int(os.environ.get("RESIGHT_SOAK", "1"))
STEPS = 12


def start(config, run):
    command = [sys.executable, "-m", "resight", "train", str(config), "-o", str(run), "--resume"]
    environment = os.environ | {"PYTHONPATH": str(Path(resight.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.fixture(scope="module")
def whole(shapes, tiny, once):
    """The configuration, the run that is never interrupted, and how long it trains after the first second."""

    def make(folder):
        options = {"train__steps": STEPS, "checkpoint__every_steps": 2, "augment__scale": (0.8, 1.2)}
        for workers in (0, 2):
            config = tiny(shapes(train=5, val=1), data__workers=workers, **options)
            (folder / f"{workers}.toml").write_text(to_toml(config))
        process = start(folder / "0.toml", folder / "run")
        wait_for_steps(process, folder / "run")
        began = time.monotonic()
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        (folder / "seconds").write_text(str(time.monotonic() - began))

    folder = once("soak", make)
    return folder, float((folder / "seconds").read_text())


def wait_for_steps(process, run):
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.02)


def outcome(run):
    return {
        name: {key: value.numpy().tobytes() for key, value in load_checkpoint(run / name).tensors.items()}
        for name in (LAST, BEST)
    }


@pytest.mark.soak
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_an_interrupted_run_ends_as_the_one_that_never_was(whole, tmp_path, workers, blow, moment):
    folder, seconds = whole
    run, config = tmp_path / "run", folder / f"{workers}.toml"
    draw = random.Random(f"{blow} {workers} {moment}")
    process = start(config, run)
    if draw.random() < 0.8:  # else it may come before the first step
        wait_for_steps(process, run)
    time.sleep(draw.uniform(0, seconds))
    process.send_signal(blow)
    said, _ = process.communicate(timeout=300)
    assert process.returncode in ((75, 0) if blow == signal.SIGTERM else (-signal.SIGKILL, 0)), said
    if (run / LAST).exists():
        assert load_checkpoint(run / LAST).state["step"] <= STEPS
    process = start(config, run)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert outcome(run) == outcome(folder / "run")
    rows = [(run / "metrics.jsonl").read_text().count(f'"step": {step},') for step in range(1, STEPS + 1)]
    assert rows == [(folder / "run" / "metrics.jsonl").read_text().count(f'"step": {s},') for s in range(1, STEPS + 1)]


def test_a_file_that_cannot_be_written_whole_leaves_the_checkpoint_before_it(shapes, tiny, tmp_path):
    """A limit on the size of files stands for the full disk: the checkpoint cannot be written to its end."""
    run, config = tmp_path / "run", tmp_path / "config.toml"
    options = {"checkpoint__every_steps": 1, "augment__scale": (0.8, 1.2)}
    config.write_text(to_toml(tiny(shapes(train=5), train__steps=1, **options)))
    train(load_config(config), run)
    before = outcome(run)
    config.write_text(to_toml(tiny(shapes(train=5), train__steps=3, **options)))
    before_limit = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores the signal that comes with it
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before_limit[1]))
    try:
        done = CliRunner().invoke(app, ["train", str(config), "-o", str(run), "--resume"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before_limit)
    assert done.exit_code == 2 and "The previous checkpoint is as it was." in done.stderr, done.stderr
    assert outcome(run) == before
    assert [file.name for file in (run / "checkpoints").iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("steps", [30, pytest.param(2000, marks=pytest.mark.soak)])
def test_memory_does_not_grow(shapes, tiny, tmp_path, monkeypatch, steps):
    resident = []
    step = Trainer.step

    def watched(self, *arguments):
        step(self, *arguments)
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)

    monkeypatch.setattr(Trainer, "step", watched)
    options = {"train__steps": steps, "evaluate__every": 1e6, "augment__scale": (1.0, 1.0)}
    train(tiny(shapes(train=5, val=1), **options), tmp_path)
    middle, end = resident[steps // 3 : 2 * steps // 3], resident[2 * steps // 3 :]
    # The least of each third: what comes and goes does not count, what stays does.
    assert min(end) - min(middle) < 20, (min(middle), min(end))
