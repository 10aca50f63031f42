"""What a job of AWS Batch runs, without AWS: the container's command as a process, records and run in a store on
loopback, interrupted as an instance is taken away, and begun again as Batch does."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from resight.cli.app import app
from resight.config.toml_text import to_toml
from resight.io import object_store as storage
from resight.models.checkpoints import LAST, load_checkpoint, weights_digest
from resight.models.remote import objects_of, pointed
from resight.training import attempt, remote_run
from resight.training.run_record import Launch, Limits, RunRecord, read_run_record, update_run_record, write_run_record
from resight.training.train import train

OPTIONS = {"train__steps": 6, "train__schedule": "constant", "train__warmup_steps": 0}


@pytest.fixture(scope="module")
def expected(tiny, shapes, once):
    """The weights of the run that is never interrupted."""
    folder = once("job", lambda folder: train(tiny(shapes(train=12), **OPTIONS), folder / "run"))
    return weights_digest(load_checkpoint(folder / "run" / LAST).tensors)


@pytest.fixture
def job(tiny, shapes, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_run, "LEASE", 0.5)
    for name, value in (("TICK", 0.01), ("POLL", 0.02)):
        monkeypatch.setattr(attempt, name, value)
    return Job(s3, s3.put(shapes(train=12), "set"), lambda **more: to_toml(tiny("", **OPTIONS, **more)), tmp_path)


class Job:
    """A job as ``launch`` makes it, whose attempts follow one another; ``request`` sees what each asks of the store."""

    def __init__(self, s3, data, config, folder):
        self.s3, self.run, self.folder = s3, f"s3://{s3.bucket}/runs/first", folder
        self.command = ["train", f"{self.run}/launch/config.toml", "--data", data, "--out", self.run, "--resume"]
        self.command += ["--log-format", "json"]
        self.config, self.attempts = config, 0
        self.request = lambda request: None
        s3.next_fault = lambda request: self.request(request) or ""

    def launch(self, **options):
        storage.write(f"{self.run}/launch/config.toml", self.config(**options).encode())
        prices = {"g5.xlarge": 1.0}
        launch = Launch("resight", "us-east-1", "s3://b/set", "config.toml", "g5.xlarge", prices=prices)
        record = RunRecord(self.run, command=("resight", *self.command), launch=launch)
        write_run_record(self.run, record, "")

    def limit(self, **limits):
        """As ``launch`` does with a run that exists."""

        def change(record):
            return replace(record, launch=replace(record.launch, limits=Limits(**limits)))

        update_run_record(self.run, change)

    def environment(self):
        """Of a new container of the job."""
        self.attempts += 1
        cache = self.folder / f"container-{self.attempts}"
        job = {"AWS_BATCH_JOB_ID": "job-1", "AWS_BATCH_JOB_ATTEMPT": str(self.attempts)}
        return {**job, "RESIGHT_LOG_STREAM": "stdout", "RESIGHT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}

    def start(self):
        words = [sys.executable, "-m", "resight", *self.command]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=os.environ | self.environment(), stdout=pipe, stderr=pipe, text=True)

    def go_on(self):
        """The next attempt, in this process: its exit code, and what it said."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            done = CliRunner().invoke(app, self.command)
        return done.exit_code, messages(done.stdout)

    def weights(self):
        path = self.folder / "last.safetensors"
        found = pointed(objects_of(self.run), LAST)
        path.write_bytes(storage.read_range(found, 0, found.size))
        return weights_digest(load_checkpoint(path).tensors)

    def record(self):
        return read_run_record(self.run)[0]


def messages(said):
    """All of stdout is lines of JSON."""
    return [json.loads(line)["message"] for line in said.splitlines()]


def test_a_job_that_gets_sigterm_goes_on_in_its_next_attempt(job, expected):
    job.launch(checkpoint__every_steps=4)
    signalled = threading.Event()

    def request(request):
        if re.search("^PUT .*/checkpoints/last$", request) and not signalled.is_set():  # the save of step 4
            signalled.set()
            process.send_signal(signal.SIGTERM)

    job.request = request
    process = job.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and not err, err
    assert messages(out)[-1].startswith("interrupted after step 5, saved; continue with")
    assert not [name for name in objects_of(job.run) if name.startswith(".")]  # the lock is given back
    shown = CliRunner().invoke(app, ["train", "--resume", "-o", job.run, "--show-config"])  # it needs no CONFIG
    assert shown.exit_code == 0 and "steps = 6 " in shown.stdout
    job.limit(hours=1e-9)
    code, said = job.go_on()
    assert code == 1 and "reached" in said[-1] and "nothing was trained" in said[-1]
    assert f"resight cloud launch --again {job.run} --max-hours N --max-cost USD" in said[-1]
    job.limit(hours=1.0, usd=1.0)
    code, said = job.go_on()
    assert code == 0 and "resumed at step 5" in said and said[-1].startswith("Next: resight evaluate")
    assert job.weights() == expected
    record = job.record()
    assert [(one.job, one.from_step, one.step, one.ended, one.exit_code) for one in record.attempts] == [
        ("job-1", 0, 5, "interrupted", 75),
        ("job-1", 5, 6, "done", 0),
    ]
    assert (record.interruptions, record.lost_steps) == (1, 0)
    assert record.usd == pytest.approx(record.hours) and record.hours > 0


def test_a_job_whose_instance_is_taken_away_has_saved_before(job, expected, metadata, monkeypatch):
    def polls():
        return sum("instance-action" in path for _, path in metadata.asked)

    def request(request):
        if "/set/" in request:  # nothing is trained before the notice was seen
            for _ in range(3000):
                if polls() >= needed:
                    break
                time.sleep(0.01)
        if process and re.search("^PUT .*/checkpoints/last$", request):  # of a save that the notice alone asks for
            process.kill()

    job.launch()
    metadata.announce(3600)
    needed, process, job.request = 1, None, request
    process = job.start()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL and "saving a checkpoint and continuing" in out
    (killed,) = job.record().attempts
    assert killed.notice and killed.ended is None and (killed.instance_type, killed.usd_per_hour) == ("g5.xlarge", 1.0)

    metadata.announce(30)
    monkeypatch.setattr(attempt, "MARGIN", 60.0)  # no signal comes: it stops by itself
    needed, process = polls() + 2, None
    code, said = job.go_on()
    assert code == 75 and "resumed at step 1" in said and any("about to be taken away" in line for line in said)

    del metadata.answers["spot/instance-action"]
    assert job.go_on()[0] == 0
    assert job.weights() == expected
    record = job.record()
    assert [(one.from_step, one.ended, one.exit_code, one.lost_steps) for one in record.attempts] == [
        (0, None, None, 0),
        (1, "interrupted", 75, 0),
        (record.attempts[1].step, "done", 0, 0),
    ]
    assert (record.interruptions, record.lost_steps) == (2, 0)
