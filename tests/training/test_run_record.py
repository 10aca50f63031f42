import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.io import object_store as storage
from resight.io.object_store import Conflict
from resight.training import run_record
from resight.training.run_record import (
    HEARTBEAT,
    Attempt,
    Job,
    Launch,
    Limits,
    RunRecord,
    command_line,
    git_commit,
    parse_run_record,
    price_of,
    read_run_record,
    seconds_left,
    update_run_record,
    with_attempt,
    write_run_record,
)

START = datetime(2026, 11, 28, 20, tzinfo=UTC)
PRICES = {"g4dn.xlarge": 0.526, "g5.xlarge": 1.006}


def launched(limits=None, prices=PRICES, **changes):
    job = Job("resight-first-1", START, "1-2")
    launch = Launch(
        "resight", "us-east-1", "s3://b/set", "config.toml", "g5.xlarge", limits=limits or Limits(), prices=prices
    )
    return RunRecord("s3://b/runs/first", launch=replace(launch, jobs=(job,)), **changes)


FULL = launched(
    Limits(hours=2),
    command=("resight", "train", "ä.toml"),
    config_sha256="00",
    attempts=(
        Attempt(START, 1, "1-2", "g5.xlarge", 1.006, 1800.0, 0, 90, 10, START, "interrupted", 75),
        Attempt(START + timedelta(hours=1), 2, seconds=900.0, from_step=80, step=120),
    ),
)


def test_what_a_newer_version_wrote_is_not_to_be_removed():
    with pytest.raises(ResightError, match="has format 2, this version reads 1") as caught:
        parse_run_record('{"format": 2}', "run.json")
    assert caught.value.fix == "Use the version of Resight that wrote it."


def test_what_is_written_is_read_with_its_totals(tmp_path):
    (tmp_path / "run").mkdir()
    assert read_run_record(tmp_path / "run") is None
    write_run_record(tmp_path / "run", FULL, "")
    assert read_run_record(str(tmp_path / "run")) == (FULL, "")
    text = (tmp_path / "run" / "run.json").read_text()
    tree = json.loads(text)
    assert list(tree)[:2] == ["format", "run"] and tree["format"] == 1
    assert tree["attempts"][0]["started"] == "2026-11-28T20:00:00Z" and tree["attempts"][1]["ended"] is None
    assert tree["hours"] == 0.75 and tree["usd"] == pytest.approx(0.503)
    assert (tree["interruptions"], tree["lost_steps"]) == (1, 10)


def test_in_a_store_a_change_by_somebody_else_is_kept(s3, monkeypatch):
    run = f"s3://{s3.bucket}/run"
    assert read_run_record(run) is None
    etag = write_run_record(run, FULL, "")
    assert read_run_record(run) == (FULL, etag)
    with pytest.raises(Conflict):
        write_run_record(run, FULL, "")
    higher = replace(FULL, launch=replace(FULL.launch, limits=Limits(hours=9)))
    write, between = storage.write, [higher]

    def meanwhile(address, data, replacing=None):
        if between:
            write(address, between.pop().text().encode())
        return write(address, data, replacing)

    monkeypatch.setattr(storage, "write", meanwhile)
    new = Attempt(START + timedelta(hours=2))
    written = update_run_record(run, lambda record: with_attempt(record, new))
    assert written.limits.hours == 9 and [attempt.number for attempt in written.attempts] == [1, 2, 3]
    assert read_run_record(run)[0] == written


def test_a_write_whose_answer_is_lost_adds_no_attempt(s3, monkeypatch):
    run = f"s3://{s3.bucket}/run"
    monkeypatch.setattr(storage, "_PAUSE", 0.01)
    write_run_record(run, FULL, "")
    s3.lost_answer = "PUT"
    written = update_run_record(run, lambda record: with_attempt(record, Attempt(START + timedelta(hours=2))))
    assert not s3.lost_answer and len(written.attempts) == len(read_run_record(run)[0].attempts) == 3


def damaged():
    full = json.loads(FULL.text())

    def changed(place, value):
        tree = json.loads(FULL.text())
        *path, last = place
        branch = tree
        for key in path:
            branch = branch[key]
        branch[last] = value
        return json.dumps(tree)

    limits = ("launch", "limits")
    return {
        "not valid JSON": FULL.text()[:100],
        "is not a record": "[]",
        "format None": json.dumps({key: value for key, value in full.items() if key != "format"}),
        "format 0": changed(("format",), 0),
        "format True": changed(("format",), True),
        "run is missing": '{"format": 1}',
        "unknown key 'launch.limits.hour'. Did you mean 'hours'": changed((*limits, "hour"), 3),
        "launch.limits.hours = '2': must be a number": changed((*limits, "hours"), "2"),
        "launch.limits.hours = True: must be a number": changed((*limits, "hours"), True),
        "launch.limits.hours = nan: must be a finite number": changed((*limits, "hours"), math.nan),
        "launch.limits.usd = inf: must be a finite number": changed((*limits, "usd"), math.inf),
        "launch.limits.usd = 0: must be greater than 0": changed((*limits, "usd"), 0),
        "launch.prices.g5.xlarge = -1": changed(("launch", "prices", "g5.xlarge"), -1),
        "attempts.0.seconds = -1": changed(("attempts", 0, "seconds"), -1),
        "attempts.1.step = 1.5": changed(("attempts", 1, "step"), 1.5),
        "attempts.1.started = '28.11.2026'": changed(("attempts", 1, "started"), "28.11.2026"),
        "attempts.0.ended = 'well'": changed(("attempts", 0, "ended"), "well"),
        "command = 'resight train'": changed(("command",), "resight train"),
        "UTF-8|surrogate|hex escape": changed(("run",), "\ud800"),
    }


@pytest.mark.parametrize("message", damaged())
def test_a_damaged_record_is_refused_with_place_and_remedy(message, tmp_path):
    file = tmp_path / "run.json"
    file.write_text(damaged()[message])
    with pytest.raises(ResightError) as caught:
        read_run_record(tmp_path)
    assert any(part in caught.value.message for part in message.split("|")), caught.value.message
    assert caught.value.where.startswith(str(file)) and caught.value.fix.startswith("Correct it, or remove it")


@given(st.binary(max_size=200) | st.text(max_size=200) | st.sampled_from(list(damaged().values())))
def test_any_text_is_a_record_or_an_error_of_the_users(text):
    try:
        assert parse_run_record(text, "run.json").run
    except ResightError as error:
        assert error.where.startswith("run.json")


ATTEMPTS = st.lists(
    st.tuples(
        st.floats(0, 1e5),  # seconds it wanted
        st.sampled_from([None, 0.0, 0.526, 1.006, 32.77]),  # its price
        st.integers(0, 1000),  # steps it took
        st.integers(0, 1000),  # of these saved, at most
        st.sampled_from(["done", "interrupted", "failed", None]),
    ),
    max_size=12,
)


@given(ATTEMPTS)
def test_totals_are_those_of_the_attempts(planned):
    record, saved, now = RunRecord("run"), 0, START
    lost = 0
    for seconds, price, taken, kept, ended in planned:
        new = Attempt(now, usd_per_hour=price, from_step=saved)
        record = with_attempt(record, new)
        new = replace(new, seconds=seconds, step=saved + taken, ended=ended)
        record = with_attempt(record, new)
        assert record == with_attempt(record, new)  # said twice it is the same
        lost += max(taken - kept, 0)
        saved += min(taken, kept)
        now += timedelta(seconds=seconds + 3600)
    record = with_attempt(record, Attempt(now, from_step=saved))  # what the last one lost is known now
    killed = sum(ended is None for *_, ended in planned)
    assert [attempt.number for attempt in record.attempts] == list(range(1, len(planned) + 2))
    assert record.lost_steps == lost
    assert record.interruptions == killed + sum(ended == "interrupted" for *_, ended in planned)
    assert record.hours * 3600 == pytest.approx(sum(seconds for seconds, *_ in planned) + HEARTBEAT * killed)
    paid = [
        price * (seconds + (HEARTBEAT if ended is None else 0)) / 3600
        for seconds, price, *_, ended in planned
        if price is not None
    ]
    assert record.usd == (pytest.approx(sum(paid)) if paid else None)
    assert parse_run_record(record.text(), "run.json") == record


@given(ATTEMPTS, st.floats(0.001, 50), st.floats(0.001, 50), st.sampled_from(["both", "hours", "usd"]))
@settings(max_examples=200)
def test_attempts_that_keep_to_what_is_left_never_exceed_a_limit(planned, hours, usd, which):
    limits = Limits(hours if which != "usd" else None, usd if which != "hours" else None)
    record, now = launched(limits), START
    for wanted, price, *_, ended in planned:
        price = price_of(record, None) if price is None else price
        allowed = seconds_left(record, price)
        assert allowed >= 0
        took = min(wanted, allowed)
        record = with_attempt(record, Attempt(now, usd_per_hour=price, seconds=took, ended=ended or "limit"))
        if limits.hours:
            assert record.hours <= hours * (1 + 1e-9)
        if limits.usd:
            assert (record.usd or 0) <= usd * (1 + 1e-9)
        if took == allowed:
            assert seconds_left(record, price) <= 1e-6 * max(allowed, 1)
        now += timedelta(seconds=took, microseconds=1)  # an attempt is known by when it began


def test_what_is_left_goes_by_the_price_of_the_instance():
    record = launched(Limits(usd=1.006))
    assert price_of(record, "g4dn.xlarge") == 0.526
    assert price_of(record, "p5.48xlarge") == price_of(record, None) == 1.006  # the dearest that was noted
    assert seconds_left(record, 1.006) == 3600
    assert seconds_left(record, 0.0) == math.inf
    rounded = Attempt(START, usd_per_hour=1.006, seconds=3600 * (1 - 1e-12))
    assert seconds_left(with_attempt(record, rounded), 0.0) == 0
    assert seconds_left(RunRecord("run"), None) == math.inf
    bare = launched(Limits(usd=1), prices={})
    assert price_of(bare, "g5.xlarge") is None
    with pytest.raises(ResightError, match="names no price") as caught:
        seconds_left(bare, None)
    assert caught.value.where == "s3://b/runs/first/run.json" and '"prices"' in caught.value.fix


def test_a_killed_attempt_counts_no_longer_than_until_the_next():
    record = with_attempt(RunRecord("run"), Attempt(START, seconds=120.0, step=9))
    record = with_attempt(record, Attempt(START + timedelta(seconds=130), from_step=9))
    assert record.attempts[0].seconds == 130 and record.attempts[0].ended is None
    record = with_attempt(record, Attempt(START + timedelta(seconds=100)))  # clocks of two machines
    assert record.attempts[1].seconds == 0


def test_the_command_and_the_commit_are_those_of_the_run(monkeypatch, tmp_path):
    assert command_line(["/opt/bin/resight", "train", "-o", "x"]) == ("resight", "train", "-o", "x")
    assert command_line(["/a/resight/__main__.py", "train"]) == ("resight", "train")
    assert command_line(["mine.py", "1"]) == ("mine.py", "1")
    monkeypatch.setenv("RESIGHT_GIT_COMMIT", "abc123")
    assert git_commit() == "abc123"
    monkeypatch.setenv("RESIGHT_GIT_COMMIT", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None  # an image without git


def test_it_needs_neither_torch_nor_numpy():
    found = "[name for name in ('torch', 'numpy', 'boto3') if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys, {run_record.__name__}; print({found})"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
