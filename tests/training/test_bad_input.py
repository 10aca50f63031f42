"""What a training is given and cannot use: refused or counted, with its place."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resight.commands.predict import predict
from resight.errors import ResightError
from resight.evaluation.evaluate import evaluate
from resight.io.object_store import StorageError
from resight.label_map import LabelMap
from resight.models.checkpoints import BEST, LAST, load_checkpoint, save_checkpoint
from resight.records.example import encode_example
from resight.records.reader import open_records
from resight.records.tfrecord import TFRecordWriter
from resight.records.writer import write_records_folder
from resight.training.metric_logger import MetricLogger
from resight.training.plan import make_plan
from resight.training.run_folder import check_run, lock_run, new_run
from resight.training.train import train
from resight.training.trainer import Trainer

TFOD = {"model__name": "faster_rcnn_resnet50_v1", "model__tfod": {"pad": True}}


@pytest.fixture
def records(squares, tmp_path):
    """``records(train=3, val=2)``: a folder of so many pictures, without boxes in the splits ``without``."""

    def make(without=(), classes=("red", "blue"), **splits):
        annotations = {
            split: [squares(f"{split}-{number}", number) for number in range(count)] for split, count in splits.items()
        }
        for split in without:
            annotations[split] = [replace(annotation, boxes=()) for annotation in annotations[split]]
        write_records_folder(annotations, tmp_path / "records", LabelMap.from_names(classes))
        return tmp_path / "records"

    return make


def rewritten(folder, split, change):
    """The records of ``split`` with ``change(number, record)`` in their place."""
    found = open_records(folder).splits[split]
    rows = [encode_example(change(number, found[number])) for number in range(len(found))]
    with TFRecordWriter(found.shards[0]) as file:
        for row in rows:
            file.write(row)
    return folder


# Splits, classes and boxes


def test_a_training_split_that_holds_nothing_is_refused(records, tiny, tmp_path):
    folder = records(train=2, val=1)
    shard = next(folder.glob("train-*"))
    shard.write_bytes(b"")
    with pytest.raises(ResightError, match="no records to train on") as caught:
        train(tiny(folder), tmp_path / "run")
    assert caught.value.where == str(folder) and not (tmp_path / "run").exists()


def test_boxes_of_unknown_classes_alone_are_nothing_to_train_on(records, tiny, tmp_path):
    folder = records(train=2)
    (folder / "label_map.pbtxt").write_text("item { id: 7 name: 'tree' }")
    with pytest.raises(ResightError, match="no training image has a box of a known class"):
        train(tiny(folder), tmp_path / "run")


def test_a_split_without_boxes_is_not_watched_and_the_last_weights_serve(records, squares, tiny, tmp_path, caplog):
    config = tiny(records(without=["val"], train=3, val=2), train__steps=4, train__patience=1, evaluate__every=0.5)
    with caplog.at_level("INFO"):
        result = train(config, tmp_path / "run")
    assert "the val split has no boxes: no validation" in caplog.text
    assert (result.exit_code, result.steps, result.best) == (0, 4, None)  # patience has not ended it
    best, last = load_checkpoint(tmp_path / "run" / BEST), load_checkpoint(tmp_path / "run" / LAST)
    assert best.state["step"] == 4
    assert all(torch.equal(value, best.weights()[key]) for key, value in last.weights().items())
    (tmp_path / "a.png").write_bytes(squares("a", 1).image)
    measured = evaluate(tmp_path / "run", split="val", device="cpu")
    assert measured.metrics["mAP"] is None and measured.metrics["num_images"] == 2
    predict(tmp_path / "run", [tmp_path / "a.png"], out=tmp_path / "predictions", device="cpu")


def test_a_class_without_examples_is_told_and_the_others_are_trained(records, tiny, tmp_path, caplog):
    config = tiny(records(classes=("red", "blue", "green"), train=3, val=1), train__steps=2)
    with caplog.at_level("INFO"):
        assert train(config, tmp_path / "run").exit_code == 0
    assert "no training box of green" in caplog.text and "green 0 in 0 images" in caplog.text


def test_the_plan_counts_images_and_boxes_of_each_class(shapes, tiny):
    plan = make_plan(tiny(shapes(train=5)))
    labels = [plan.train.labels(record).tolist() for record in plan.train.summaries]
    assert dict(plan.counts) == {
        name: (sum(index in row for row in labels), sum(row.count(index) for row in labels))
        for index, name in enumerate(plan.classes)
    }


def test_boxes_that_are_no_numbers_are_counted_with_their_record(records, tiny, tmp_path):
    def spoil(number, record):
        boxes = record.boxes.copy()
        if number == 1:
            boxes[0] = (np.nan, 1, 20, 30) if record.filename.startswith("train") else (0, 0, np.inf, 9)
        return replace(record, boxes=boxes)

    folder = rewritten(rewritten(records(train=3, val=2), "train", spoil), "val", spoil)
    splits = open_records(folder).splits
    for dialect in ({}, TFOD):
        notes = make_plan(tiny(folder, **dialect)).notes
        for name in ("train", "val"):
            (note,) = [note for note in notes if note.startswith(f"left out: 1 {name} box with corners")]
            assert note.endswith(f"the first in {splits[name].where(1)}")
    assert train(tiny(folder, train__steps=2), tmp_path / "run").exit_code == 0
    measured = evaluate(tmp_path / "run", split="val", device="cpu")
    assert measured.metrics["num_boxes"] == sum(len(row.boxes) for row in splits["val"].summaries) - 1
    assert "Skipped 1 box with non-finite corners" in measured.text()


# Under way


@pytest.mark.parametrize(("policy", "workers"), [("stop", 2), ("skip", 0)])
def test_a_record_that_goes_bad_under_way(records, tiny, tmp_path, monkeypatch, caplog, policy, workers):
    folder = records(train=4)
    split = open_records(folder).splits["train"]
    step = Trainer.step

    def then_damage(self, *arguments):
        step(self, *arguments)
        if self.state.step == 1:
            with open(split.shards[0], "r+b") as file:
                file.seek(split.index.records["offset"][3] + 200)
                file.write(b"damaged")

    monkeypatch.setattr(Trainer, "step", then_damage)
    options = {"train__steps": 12, "data__workers": workers, "checkpoint__every_steps": 1}
    config = tiny(folder, data__on_bad_record=policy, **options)
    if policy == "skip":
        result = train(config, tmp_path / "run")
        assert result.exit_code == 0 and "records skipped" in result.text()
        assert load_checkpoint(tmp_path / "run" / LAST).state["skipped"] >= 1
        assert split.where(3) in caplog.text
        return
    with pytest.raises(ResightError, match="does not match its CRC") as caught:
        train(config, tmp_path / "run")
    assert caught.value.where == split.where(3)
    assert 1 <= load_checkpoint(tmp_path / "run" / LAST).state["step"] < 12


def test_a_label_map_that_changed_since_is_refused_and_the_run_stays_as_it_is(records, tiny, tmp_path):
    folder = records(train=3)
    config = tiny(folder, train__steps=1)
    train(config, tmp_path / "run")
    before = (tmp_path / "run" / LAST).read_bytes(), (tmp_path / "run" / "label_map.pbtxt").read_text()
    text = (folder / "label_map.pbtxt").read_text()
    for names in (("blue", "red"), ("red", "blue", "green"), ("red",)):
        items = [f"item {{ id: {number} name: '{name}' }}\n" for number, name in enumerate(names, 1)]
        (folder / "label_map.pbtxt").write_text("".join(items))
        with pytest.raises(ResightError, match=f"on the classes red, blue, the data has {', '.join(names)}$") as caught:
            train(config, tmp_path / "run", resume=True)
        assert caught.value.where == str(tmp_path / "run")
    assert ((tmp_path / "run" / LAST).read_bytes(), (tmp_path / "run" / "label_map.pbtxt").read_text()) == before
    (folder / "label_map.pbtxt").write_text(text)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})})
    assert train(longer, tmp_path / "run", resume=True).steps == 2


# Where nothing may be written, or read


@contextmanager
def unprivileged():
    """Without the rights of root, who may write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that everybody may look into, for rights to be taken from."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for folder in (path, *path.rglob("*")):
        folder.chmod(0o755)
    shutil.rmtree(path)


def test_a_run_folder_that_may_not_be_written_is_named(open_folder, untrained):
    (open_folder / "checkpoints").mkdir()
    stored = load_checkpoint(untrained)
    save_checkpoint(open_folder / LAST, stored)
    before = (open_folder / LAST).read_bytes()
    for folder in (open_folder / "checkpoints", open_folder):
        folder.chmod(0o555)
    with unprivileged():
        for write, where in (
            (lambda: new_run(open_folder / "run"), open_folder / "run"),
            (lambda: lock_run(open_folder).__enter__(), open_folder),
            (lambda: MetricLogger(open_folder), open_folder),
            (lambda: save_checkpoint(open_folder / LAST, stored), open_folder / LAST),
        ):
            with pytest.raises(ResightError, match="Permission denied") as caught:
                write()
            assert caught.value.where.startswith(str(where))
    assert (open_folder / LAST).read_bytes() == before


def test_a_folder_that_may_not_be_looked_into_and_a_file_on_the_way_are_no_run_folders(open_folder, shapes, tiny):
    (open_folder / "file").write_text("")
    with pytest.raises(ResightError, match="cannot make the run folder: Not a directory"):
        train(tiny(shapes(train=3)), open_folder / "file" / "run")
    (open_folder / "closed").mkdir(mode=0)
    with unprivileged(), pytest.raises(ResightError, match="cannot be a run folder: Permission denied"):
        check_run(open_folder / "closed" / "run")


def test_a_store_that_cannot_be_asked_is_told_before_anything_is_made(shapes, tiny, tmp_path, s3, monkeypatch):
    address = s3.put(shapes(train=3), "set")
    config = tiny(address)
    with pytest.raises(StorageError, match="no bucket 'nowhere'"):
        train(tiny("s3://nowhere/set"), tmp_path / "run")
    s3.keys = {"another"}
    with pytest.raises(StorageError, match=r"credentials are refused .*InvalidAccessKeyId"):
        train(config, tmp_path / "run")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="nobody"):
        train(config, tmp_path / "run")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="no credentials"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The process that calls


def test_a_training_leaves_the_mode_of_its_process_as_it_was(shapes, tiny, tmp_path):
    config = tiny(shapes(train=3), train__steps=1)
    settings = torch.utils.deterministic

    def mode():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            settings.fill_uninitialized_memory,
        )

    before = mode()
    try:
        for wanted in ((False, False, True), (True, True, False)):
            torch.use_deterministic_algorithms(wanted[0], warn_only=wanted[1])
            settings.fill_uninitialized_memory = wanted[2]
            train(config, tmp_path / f"run {wanted[0]}")
            train(config, tmp_path / "planned", dry_run=True)
            with pytest.raises(ResightError):
                train(config, tmp_path / f"run {wanted[0]}")
            assert mode() == wanted
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = before[2]
