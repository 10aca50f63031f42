import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import resight
from resight.cli.app import app
from resight.dialect import load_config
from resight.errors import ResightError
from resight.evaluation.evaluate import evaluate
from resight.io import object_store as storage
from resight.io.object_store import StorageError
from resight.models.build import build_model
from resight.models.checkpoints import LAST, load_checkpoint, weights_digest
from resight.models.remote import fetch_config, fetch_model, objects_of, pointed
from resight.training import remote_run
from resight.training.remote_run import _Lease
from resight.training.run_folder import METRICS
from resight.training.run_record import RunRecord, read_run_record, write_run_record
from resight.training.start import find_start
from resight.training.train import train


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSE", 0.01)
    monkeypatch.setattr(remote_run, "LEASE", 0.5)


def final(run) -> str:
    """What the last checkpoint of a run holds."""
    if isinstance(run, str):
        data = storage.read(pointed(objects_of(run), LAST).address)
        path = Path(os.environ["RESIGHT_CACHE"], "last.safetensors")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    else:
        path = run / LAST
    return weights_digest(load_checkpoint(path).tensors)


OPTIONS = {"train__schedule": "constant", "train__warmup_steps": 0, "checkpoint__every_steps": 4}


@pytest.fixture(scope="module")
def expected(tiny, shapes, once):
    """The weights after six steps from disk to disk."""
    options = {"train__steps": 6, **OPTIONS}
    return final(once("local", lambda folder: train(tiny(shapes(train=12), **options), folder / "run")) / "run")


def test_from_a_store_and_to_it_with_faults_the_weights_are_those_from_disk(tiny, shapes, s3, tmp_path, expected):
    address, run = s3.put(shapes(train=12), "set"), f"s3://{s3.bucket}/runs/one"
    s3.faults = 0.05
    result = train(tiny(address, train__steps=6, data__workers=2, **OPTIONS), run)
    assert s3.injected
    s3.faults = 0
    assert result.run == run and run in result.message and str(tmp_path) not in result.message
    assert final(run) == expected
    rows = [json.loads(line) for line in storage.read(f"{run}/{METRICS}").splitlines()]
    assert next(row["step"] for row in rows if row["split"] == "train") == 1
    names = objects_of(run)
    assert {"config.toml", "label_map.pbtxt", "environment.json", "checkpoints/best", "checkpoints/last"} <= set(names)
    assert not any(name.startswith(".") for name in names)
    assert any(name.startswith("events.out") for name in names)
    assert sum(name.startswith("checkpoints/last-") for name in names) == 2  # the one before stays for its readers


def test_an_interrupted_run_goes_on_elsewhere(tiny, shapes, s3, tmp_path, monkeypatch, expected):
    address, run = s3.put(shapes(train=12), "set"), f"s3://{s3.bucket}/run"
    s3.faults = 0.2
    train(tiny(address, train__steps=4, checkpoint__keep=1, **OPTIONS), run, resume=True)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "elsewhere"))
    stored = load_config(fetch_config(run), {"train.steps": 6})
    listed = objects_of(run)
    with pytest.raises(ResightError, match="holds a run already") as caught:
        train(stored, run)
    assert "--resume -o s3://" in caught.value.fix
    assert train(stored, run, resume=True).steps == 6
    assert s3.injected
    s3.faults = 0
    assert final(run) == expected
    assert pointed(listed, LAST).address not in [found.address for found in listed.values()]  # by who looks meanwhile
    kept = sorted(name for name in objects_of(run) if "step-" in name)
    assert kept == ["checkpoints/step-00000006.safetensors"]  # the one of step 4 is beyond the limit
    assert not list((tmp_path / "elsewhere/runs").glob("*/*"))  # nothing is left of the working folder


def test_a_run_in_a_store_is_a_model(tiny, shapes, s3, tmp_path, monkeypatch):
    data = shapes(train=8, test=2)
    run = f"s3://{s3.bucket}/run"
    train(tiny(s3.put(data, "set"), train__steps=1), run)
    detector = resight.load(run)
    assert detector.classes == ("red", "blue") and detector.name == run
    seen = len(s3.requests)
    resight.load(run)
    assert not [path for _, path, _ in s3.requests[seen:] if path.endswith(".safetensors")]  # kept
    result = evaluate(run)
    assert result.path == f"{run}/evaluation/metrics.json"
    assert json.loads(storage.read(result.path))["model"] == run
    start, config = find_start(tiny(data, model__start=run))
    model = build_model(config.model, 2, start.anchors)
    assert start.initialize(model, ("red", "blue")) == []  # every tensor, so the classes are these in this order
    single = pointed(objects_of(run), LAST).address
    assert resight.load(single).classes == ("red", "blue")
    with pytest.raises(ResightError, match="no such model"):
        resight.load(f"s3://{s3.bucket}/none")
    with pytest.raises(ResightError, match="records folder"):
        resight.load(f"s3://{s3.bucket}/set")
    with pytest.raises(ResightError, match="only runs are written"):
        evaluate(run, out=f"s3://{s3.bucket}/out")


def test_two_trainings_do_not_write_to_one_run(tiny, shapes, s3):
    run = f"s3://{s3.bucket}/run"
    lease = _Lease(run)
    lease.take()
    with lease, pytest.raises(ResightError, match="another training is writing"):
        train(tiny(shapes(train=8), train__steps=1), run, resume=True)
    _Lease(run).take()  # it was given back


def test_the_lock_of_a_killed_training_ends_and_a_late_one_is_told(s3):
    run = f"s3://{s3.bucket}/run"
    killed, second = _Lease(run), _Lease(run)
    killed.take()  # and never renewed
    second.take()
    with second:
        with pytest.raises(ResightError, match="taken this run over"):
            killed.renew()
        time.sleep(0.4)
        second.renew()
    assert storage.stat(second.address) is None


def test_a_lock_is_had_also_when_the_answer_is_lost(s3, monkeypatch):
    lease = _Lease(f"s3://{s3.bucket}/run")
    write = storage.write

    def lost(*args, **options):
        write(*args, **options)
        raise storage.Conflict("precondition")

    monkeypatch.setattr(storage, "write", lost)
    lease.take()
    lease.renew()
    assert storage.stat(lease.address).etag == lease.etag


def test_a_store_that_fails_under_way_ends_the_training_and_what_was_saved_stays(tiny, shapes, s3, monkeypatch):
    run = f"s3://{s3.bucket}/run"
    data = shapes(train=8)
    train(tiny(data, train__steps=1), run)
    before = final(run)
    write = storage.write

    def refused(address, *args, **options):
        if "/last-" in address:
            raise StorageError("the credentials do not allow to write this", where=address)
        return write(address, *args, **options)

    monkeypatch.setattr(storage, "write", refused)
    with pytest.raises(ResightError, match="do not allow to write") as caught:
        train(tiny(data, train__steps=2, data__workers=1), run, resume=True)
    assert not multiprocessing.active_children()  # while the error is held
    assert Path(caught.value.fix.split(" lies in ")[1].rstrip("."), LAST).exists()
    assert final(run) == before


def test_a_save_outlasts_a_store_that_is_away(tiny, shapes, s3, monkeypatch, caplog):
    run, write, failed = f"s3://{s3.bucket}/run", storage.write, []

    def away(address, *args, **options):
        if "/last-" in address and len(failed) < 2:
            failed.append(address)
            raise storage.Passing("the store does not answer as it should")
        return write(address, *args, **options)

    monkeypatch.setattr(storage, "write", away)
    train(tiny(shapes(train=3), train__steps=1), run)
    assert len(failed) == 2 and final(run) and "cannot be saved at the moment, and is tried again" in caplog.text
    monkeypatch.setattr(remote_run, "PATIENCE", 0.0)
    failed.clear()
    with pytest.raises(ResightError, match="does not answer") as caught:
        train(tiny(shapes(train=3), train__steps=2), run, resume=True)
    assert len(failed) == 1 and " lies in " in caught.value.fix


def test_places_that_cannot_be_a_run_are_told_before_the_training(tiny, shapes, s3):
    config = tiny(shapes(train=8), train__steps=1)
    storage.write(f"s3://{s3.bucket}/other/file", b"")
    for place, message in (
        (f"s3://{s3.bucket}/other", "is not empty"),
        (f"s3://{s3.bucket}/other/file", "found an object"),
        ("s3://nowhere/run", "no bucket"),
    ):
        with pytest.raises(ResightError, match=message):
            train(config, place)


def test_data_that_the_cache_cannot_hold_is_refused_by_name(tiny, shapes, s3):
    address = s3.put(shapes(train=8), "set")
    with pytest.raises(ResightError, match="cannot hold") as caught:
        train(tiny(address, data__cache_gb=1e-6), f"s3://{s3.bucket}/run")
    assert caught.value.where == "data.cache_gb" and "data.window" in caught.value.fix


def test_a_run_whose_first_copy_was_cut_off_can_go_on(s3, tmp_path):
    address = f"s3://{s3.bucket}/run"
    lease = _Lease(address)
    lease.take()
    for name in ("config.toml", "checkpoints/step-00000001.safetensors", "checkpoints/last.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write, written = storage.write, []

    def cut_off(where, *arguments, **options):
        if written:
            raise StorageError("the network is gone")
        if not where.endswith(".lock"):
            written.append(where)
        return write(where, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(storage, "write", cut_off)
        remote_run._Mirror(address, tmp_path, lease).copy()
    remote_run.check_remote_run(address, resume=True)


def test_the_configuration_may_be_an_address(s3, tmp_path, monkeypatch):
    address = f"s3://{s3.bucket}/runs/first/launch/config.toml"

    def trained(*words):
        return CliRunner().invoke(app, ["train", *words, "--data", "s3://b/set", "--show-config"])

    storage.write(address, b"[train]\nsteps = 7\n")
    assert "steps = 7 " in trained(address).output and "steps = 8 " in trained(address, "--steps", "8").output
    storage.write(address, b"[train]\nsteps = 7\nstep = 7\n")
    done = trained(address)
    assert done.exit_code == 2 and f"{address}:3: unknown key 'train.step'" in done.output
    assert str(tmp_path) not in done.output
    folder = f"is a folder, and a configuration is a file\n  Name one in it, such as {address}"
    for wrong, words in (
        (f"s3://{s3.bucket}/none.toml", "there is no such configuration\n  Copy it there: aws s3 cp CONFIG"),
        (f"s3://{s3.bucket}", folder),
        (f"s3://{s3.bucket}/runs/first", folder),
    ):
        done = trained(wrong)
        assert done.exit_code == 2 and f"{wrong}: {words}" in done.output


def test_a_pipeline_config_may_be_at_an_address(s3, tmp_path):
    address = f"s3://{s3.bucket}/configs/pipeline.config"
    storage.write(address, b"model { faster_rcnn { num_classes: 3 what: 1 } }")
    done = CliRunner().invoke(app, ["train", address, "--data", "s3://b/set"])
    assert done.exit_code == 2 and f"{address}: not supported" in done.output and "what" in done.output
    assert str(tmp_path) not in done.output


def test_what_a_launch_put_there_is_no_run_and_stays(tiny, shapes, s3, tmp_path):
    run = f"s3://{s3.bucket}/runs/first"
    write_run_record(run, RunRecord(run), "")
    for name in ("config.toml", "start.safetensors", "start/ckpt-0.index", "start/saved_model.pb"):
        storage.write(f"{run}/launch/{name}", b"theirs")
    with pytest.raises(ResightError, match="holds no model"):
        fetch_model(run)
    train(tiny(shapes(train=3, test=1), train__steps=1), run, resume=True)
    assert sum(name.startswith("launch/") for name in objects_of(run)) == 4
    (attempt,) = read_run_record(run)[0].attempts
    assert (attempt.ended, attempt.step) == ("done", 1)
    folder = fetch_model(run)
    assert not (folder / "launch").exists() and resight.load(run).classes == ("red", "blue")
    assert evaluate(run).path == f"{run}/evaluation/metrics.json"
    storage.write(f"{run[:-5]}other/launch/config.toml", b"")
    storage.write(f"{run[:-5]}other/notes.txt", b"")
    with pytest.raises(ResightError, match="is not empty"):
        remote_run.check_remote_run(f"{run[:-5]}other", resume=True)
