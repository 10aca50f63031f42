import json
import os
import signal
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from resight.errors import ResightError
from resight.io.object_store import StorageError
from resight.models.checkpoints import LAST, load_checkpoint
from resight.training import attempt
from resight.training import train as module
from resight.training.attempt import Watch, watching
from resight.training.distributed import Distributed
from resight.training.run_record import (
    Attempt,
    Launch,
    Limits,
    RunRecord,
    command_line,
    read_run_record,
    update_run_record,
    write_run_record,
)
from resight.training.state import Control
from resight.training.train import train
from resight.training.trainer import Diverged, Trainer

EARLIER = datetime(2026, 11, 28, 20, tzinfo=UTC)
PRICES = {"g4dn.xlarge": 0.5, "g5.xlarge": 1.0, "p5.48xlarge": 100.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(attempt, "TICK", 0.01)
    monkeypatch.setattr(attempt, "POLL", 0.02)


@pytest.fixture
def clock(monkeypatch):
    """Seconds as the attempts see them: a step takes as many as ``clock.step``."""
    clock = Clock()
    monkeypatch.setattr(attempt, "Watch", partial(Watch, clock=lambda: clock.now))
    step = Trainer.step

    def timed(self, *arguments):
        step(self, *arguments)
        clock.now += clock.step
        for _ in range(2):  # what watches has seen the time
            clock.looked.clear()
            assert clock.looked.wait(10)

    watch = Watch._look_at_clock

    def looked(self):
        watch(self)
        clock.looked.set()

    monkeypatch.setattr(Trainer, "step", timed)
    monkeypatch.setattr(Watch, "_look_at_clock", looked)
    return clock


class Clock:
    def __init__(self):
        self.now, self.step, self.looked = 1000.0, 0.0, threading.Event()


def limited(run, limits, attempts=(), prices=PRICES):
    launch = Launch("resight", "us-east-1", "s3://b/set", "config.toml", "g5.xlarge", limits=limits, prices=prices)
    write_run_record(run, RunRecord(str(run), command=("launched",), launch=launch, attempts=attempts), "")


def record_of(run) -> RunRecord:
    return read_run_record(run)[0]


def test_an_attempt_is_noted_with_what_was_trained(tiny, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_IMAGE", "repo@sha256:00")
    monkeypatch.setenv("RESIGHT_GIT_COMMIT", "abc123")
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "job-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    run = tmp_path / "run"
    train(tiny(shapes(train=3), train__steps=2), run)
    record = record_of(run)
    environment = json.loads((run / "environment.json").read_text())
    assert record.run == str(run) and record.command and record.launch is None
    assert (record.image, record.git_commit, record.dataset) == ("repo@sha256:00", "abc123", environment["dataset"])
    assert environment["git_commit"] == "abc123" and len(record.config_sha256) == 64
    (only,) = record.attempts
    assert (only.number, only.job, only.from_step, only.step, only.ended, only.exit_code) == (
        1,
        "job-1",
        0,
        2,
        "done",
        0,
    )
    assert only.seconds > 0 and only.usd_per_hour is record.usd is None
    write_run_record(run, replace(record, dataset="other"), "")
    train(tiny(shapes(train=3), train__steps=3), run, resume=True)
    again = record_of(run)
    assert again.attempts[0] == only and again.attempts[1].from_step == 2 and again.attempts[1].step == 3
    assert (again.command, again.dataset) == (record.command, record.dataset)
    assert again.config_sha256 != record.config_sha256
    assert again.hours == pytest.approx(sum(one.seconds for one in again.attempts) / 3600)
    (run / "run.json").unlink()  # as in a run of an earlier version
    train(tiny(shapes(train=3), train__steps=3), run, resume=True)
    assert [(one.from_step, one.step, one.ended) for one in record_of(run).attempts] == [(3, 3, "done")]


def test_names_that_are_no_utf_8_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_IMAGE", "a\udcff")
    run = tmp_path / "run\udcff"
    run.mkdir()
    watch = Watch(run, Control())
    watch.look()
    watch.begin(0)
    watch.end("done", 0)
    record = record_of(run)
    assert record.run.endswith("run\\udcff") and record.image == "a\\udcff"
    assert record.attempts[0].ended == "done"
    assert command_line(["resight", "train", "-o", "\udcff"])[-1] == "\\udcff"


def test_at_the_limit_of_dollars_a_run_saves_and_goes_on_when_it_is_raised(
    tiny, shapes, tmp_path, clock, metadata, monkeypatch
):
    run = tmp_path
    before = Attempt(EARLIER, 1, "old", "g5.xlarge", 1.0, 3000.0, 0, 0, 0, None, "interrupted", 75)
    limited(run, Limits(usd=2.0), (before,))
    config = tiny(shapes(train=3), train__steps=4)
    clock.step = 2100.0  # $2 are 7200 s at the price of the instance; two steps are more than what is left
    result = train(config, run, resume=True)
    assert (result.exit_code, result.steps) == (1, 2)
    assert "the limit of $2.00 is reached, with 2.00 h and $2.00 in 2 attempts; saved at step 2" in result.text()
    assert f"raise launch.limits in {run}/run.json, and train again" in result.text()
    record = record_of(run)
    assert record.attempts[0] == before and record.command == ("launched",)
    mine = record.attempts[1]
    assert (mine.instance_type, mine.usd_per_hour, mine.seconds) == ("g5.xlarge", 1.0, 4200.0)
    assert (mine.step, mine.ended, mine.exit_code) == (2, "limit", 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_plan", None)  # nothing is loaded
        nothing = train(config, run, resume=True)
    assert nothing.exit_code == 1 and "nothing was trained" in nothing.text()
    assert record_of(run) == record  # an attempt that has not begun is none
    update_run_record(run, lambda record: replace(record, launch=replace(record.launch, limits=Limits(usd=9.0))))
    done = train(config, run, resume=True)
    assert (done.exit_code, done.steps) == (0, 4)
    assert [(one.from_step, one.ended) for one in record_of(run).attempts[1:]] == [(0, "limit"), (2, "done")]


def test_at_the_limit_of_hours_too_and_unknown_instances_cost_the_most(tiny, shapes, tmp_path, clock):
    limited(tmp_path, Limits(hours=1.0, usd=1000.0))
    clock.step = 3600.0
    result = train(tiny(shapes(train=3), train__steps=3), tmp_path)  # the record alone makes no run of it
    assert (result.exit_code, result.steps) == (1, 1) and "the limit of 1 h is reached" in result.text()
    assert record_of(tmp_path).attempts[0].usd_per_hour == 100.0
    assert load_checkpoint(tmp_path / LAST).state["step"] == 1


def test_a_limit_that_is_raised_or_lowered_under_way_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "HEARTBEAT", 0.01)
    limited(tmp_path, Limits(hours=1.0))
    time_of_day, control = [0.0], Control()
    watch = Watch(tmp_path, control, clock=lambda: time_of_day[0])
    watch.look()
    watch.begin(0)
    limited(tmp_path, Limits(hours=3.0))
    until(lambda: watch._allowed == 3 * 3600)
    time_of_day[0] = 2 * 3600
    until(lambda: record_of(tmp_path).attempts[0].seconds == 7200)
    assert not control.stop.is_set()
    limited(tmp_path, Limits(hours=1.5))
    assert control.stop.wait(10) and watch.over
    watch.end("limit", 1)
    assert record_of(tmp_path).attempts[0].ended == "limit"


def test_a_training_that_hangs_at_its_limit_is_ended(tmp_path):
    limited(tmp_path, Limits(hours=1.0))
    time_of_day, codes, control = [0.0], [], Control()
    watch = Watch(tmp_path, control, clock=lambda: time_of_day[0], leave=codes.append)
    watch.look()
    watch.begin(0)
    time_of_day[0] = 3600 + 10.0
    assert control.stop.wait(10)
    time_of_day[0] += attempt.PATIENCE - 1  # it may still be saving
    threading.Event().wait(0.1)
    assert not codes
    time_of_day[0] += 1
    until(lambda: codes == [1])
    (one,) = record_of(tmp_path).attempts
    assert (one.ended, one.exit_code, one.seconds) == ("limit", 1, time_of_day[0])


def until(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("did not happen")


@pytest.mark.parametrize(
    ("error", "ended", "code"),
    [
        (ResightError("is damaged"), "failed", 2),
        (Diverged("the loss is not finite"), "failed", 1),
        (ValueError("a bug"), "failed", 70),
        (MemoryError(), "failed", 2),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_every_end_is_noted_with_its_exit_code(tiny, shapes, tmp_path, monkeypatch, error, ended, code):
    def fails(*_):
        raise error

    monkeypatch.setattr(Trainer, "train", fails)
    with pytest.raises(type(error)):
        train(tiny(shapes(train=3), train__steps=2), tmp_path)
    (only,) = record_of(tmp_path).attempts
    assert (only.ended, only.exit_code) == (ended, code)


def test_what_fails_before_the_run_is_locked_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(ResightError):
        train(tiny(tmp_path / "no-records", train__steps=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_in_a_store_what_fails_is_paid_for_and_noted(tiny, s3, tmp_path):
    run = f"s3://{s3.bucket}/run"
    for attempts in (1, 2):  # what a failed attempt leaves is no run
        with pytest.raises(ResightError):
            train(tiny(tmp_path / "no-records", train__steps=2), run)
        assert [(one.ended, one.exit_code) for one in record_of(run).attempts] == [("failed", 2)] * attempts


def test_an_interruption_is_counted_and_after_a_kill_the_steps_that_were_lost(tiny, shapes, tmp_path, monkeypatch):
    step = Trainer.step

    def interrupted(self, *arguments):
        step(self, *arguments)
        if self.state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny(shapes(train=3), train__steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert train(config, tmp_path).exit_code == 75
    record = record_of(tmp_path)
    assert (record.interruptions, record.lost_steps, record.attempts[0].step) == (1, 0, 3)
    killed = Attempt(datetime.now(UTC) - timedelta(hours=1), 2, seconds=100.0, from_step=3, step=8)
    write_run_record(tmp_path, replace(record, attempts=(*record.attempts, killed)), "")
    assert train(config, tmp_path, resume=True).exit_code == 0
    record = record_of(tmp_path)
    assert (record.interruptions, record.lost_steps) == (2, 5)
    assert record.attempts[1].seconds == 160.0  # until the heartbeat that did not come


@dataclass(frozen=True)
class Second(Distributed):
    """The other one of two processes, which hears what the first has found."""

    told: object = None

    def broadcast(self, value):
        return self.told


@pytest.mark.parametrize("hours", [1.0, 1 / 3, 0.0123456789])
def test_at_the_limit_nothing_is_left(hours, tmp_path):
    limited(tmp_path, Limits(hours=hours))
    time_of_day, control = [0.0], Control()
    watch = Watch(tmp_path, control, clock=lambda: time_of_day[0])
    watch.look()
    watch.begin(0)
    time_of_day[0] = watch._allowed
    assert control.stop.wait(10)
    watch.end("limit", 1)
    again = Watch(tmp_path, Control())
    again.look()
    assert again.over


def test_other_processes_end_as_the_first_does(tmp_path):
    limited(tmp_path, Limits(hours=1.0), (Attempt(EARLIER, 1, seconds=3600.0, ended="limit", exit_code=1),))
    with watching(tmp_path, Control(), Distributed()) as first:
        told = (None, first.over)
        assert first.over and first.nothing_left().exit_code == 1
    with watching(tmp_path, Control(), Second(1, 2, told)) as second:
        assert second.over and second.nothing_left() == first.nothing_left()
    with (
        pytest.raises(ResightError, match="is damaged"),
        watching(tmp_path, Control(), Second(1, 2, (ResightError("is damaged"), ""))),
    ):
        pass
    assert len(record_of(tmp_path).attempts) == 1


def test_a_damaged_record_is_refused_before_anything_is_loaded(tiny, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "make_plan", None)
    (tmp_path / "run.json").write_text('{"format": 1, "run": "x", "launch": {"limits": {"hours": NaN}}}')
    with pytest.raises(ResightError, match="must be a finite number") as caught:
        train(tiny(shapes(train=3)), tmp_path, resume=True)
    assert caught.value.where == str(tmp_path / "run.json")
    limited(tmp_path, Limits(usd=1.0), prices={})
    with pytest.raises(ResightError, match="names no price"):
        train(tiny(shapes(train=3)), tmp_path, resume=True)


def test_a_store_that_hiccups_does_not_end_a_training(tiny, shapes, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(attempt, "HEARTBEAT", 0.05)
    update, refused = attempt.update_run_record, []

    def hiccups(run, change):
        if refused or read_run_record(run):  # all but the first
            refused.append(run)
            raise StorageError("the store does not answer as it should")
        return update(run, change)

    monkeypatch.setattr(attempt, "update_run_record", hiccups)
    assert train(tiny(shapes(train=3), train__steps=2), tmp_path).exit_code == 0
    assert refused and "the record of the run cannot be kept at the moment" in caplog.text
    assert record_of(tmp_path).attempts[0].ended is None


def test_on_a_notice_it_saves_and_works_on_and_stops_before_the_end(
    tiny, shapes, tmp_path, clock, metadata, monkeypatch
):
    saved, watches = [], []
    save, step, look = Trainer.save, Trainer.step, Watch.look

    def saves(self):
        save(self)
        saved.append(self.state.step)

    def passes(seconds):
        clock.now += seconds
        return True

    def steps(self, *arguments):
        step(self, *arguments)
        control = watches[0].control
        if self.state.step == 2:
            metadata.announce(600)
            until(lambda: passes(0.05) and control.save.is_set())
        if self.state.step == 4:
            assert not control.stop.is_set()
            passes(600)
            assert control.stop.wait(10)

    monkeypatch.setattr(Watch, "look", lambda self: watches.append(self) or look(self))
    monkeypatch.setattr(Trainer, "save", saves)
    monkeypatch.setattr(Trainer, "step", steps)
    result = train(tiny(shapes(train=3), train__steps=100, evaluate__every=1e6), tmp_path)
    assert result.exit_code == 75 and saved == [2, 4] and result.steps == 4
    (only,) = record_of(tmp_path).attempts
    assert only.notice and (only.ended, only.exit_code, only.step) == ("interrupted", 75, 4)


def test_a_notice_in_other_words_does_not_put_off_the_end(tmp_path, metadata):
    watch = Watch(tmp_path, Control())
    watch.look()
    metadata.announce(100)
    watch._heed(watch._service.notice())
    at = watch._stop_at
    metadata.answers["spot/instance-action"] = "?"
    watch._heed(watch._service.notice())
    assert watch._stop_at == at < watch.clock() + 100


@pytest.mark.parametrize(("ahead", "stops"), [(3600, False), (5, True), (-30, False), (None, False)])
def test_the_announced_end_counts_where_it_is_still_ahead(ahead, stops, tmp_path, metadata, monkeypatch):
    control, time_of_day = Control(), [0.0]
    watch = Watch(tmp_path, control, clock=lambda: time_of_day[0])
    watch.look()
    watch.begin(0)
    if ahead is None:
        metadata.answers["spot/instance-action"] = "soon"
    else:
        metadata.announce(ahead)
    time_of_day[0] += 10
    assert control.save.wait(10)
    control.save.clear()
    for _ in range(3):
        time_of_day[0] += 10
        threading.Event().wait(0.05)
    assert control.stop.wait(10 if stops else 0) == stops
    assert not control.save.is_set()  # one notice asks once
    watch.end("interrupted", 75)
    assert record_of(tmp_path).attempts[0].notice
