import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from resight.commands.check import check_data
from resight.commands.show import show_data
from resight.datasets.formats import read_source
from resight.dialect import load_config, training_set
from resight.errors import ResightError
from resight.input.loader import load_batches
from resight.input.sampler import BatchSampler
from resight.io import object_store as storage
from resight.records.index import INDEX
from resight.records.reader import open_records


def same(one, other):
    assert list(one.splits) == list(other.splits)
    assert one.digest == other.digest
    assert one.label_map.items == other.label_map.items
    assert one.info == other.info
    for name, split in one.splits.items():
        assert len(split) == len(other.splits[name])
        for left, right in zip(split, other.splits[name], strict=True):
            assert left.encoded == right.encoded
            np.testing.assert_array_equal(left.boxes, right.boxes)


def test_remote_records_are_those_on_disk(sharded, s3):
    address = s3.put(sharded, "set")
    seen = len(s3.requests)
    remote = open_records(address)
    read = [path for _, path, _ in s3.requests[seen:] if path.endswith(".tfrecord")]
    assert not read  # the index that lies there is enough
    same(remote, open_records(sharded))
    same(open_records(f"{address}/"), open_records(sharded))


def test_without_an_index_one_is_made_once_and_kept_here(sharded, s3, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(sharded, foreign, ignore=shutil.ignore_patterns(INDEX, "dataset.json"))
    address = s3.put(foreign, "set")
    local = open_records(foreign)
    same(open_records(address), local)
    written = [path for method, path, _ in s3.requests if method == "PUT" and path.endswith(INDEX)]
    assert not written
    shutil.rmtree(tmp_path / "cache" / "blocks")
    seen = len(s3.requests)
    again = open_records(address)
    assert not [path for _, path, _ in s3.requests[seen:] if path.endswith(".tfrecord")]
    same(again, local)


def test_an_index_of_other_records_of_the_same_size_is_found_out(sharded, s3, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(sharded, other)
    shards = sorted(other.glob("train-*.tfrecord"))
    address = s3.put(other, "set")
    storage.write(f"{address}/{shards[0].name}", _with_other_name(shards[0]))
    split = open_records(address).splits["train"]
    with pytest.raises(ResightError, match="is not the record that the index lists") as caught:
        list(split)
    assert caught.value.where.startswith(f"{address}/{shards[0].name}, byte")


def _with_other_name(path: Path) -> bytes:
    """The shard with one byte of its first record changed, and the CRC made to fit."""
    from resight.records.tfrecord import TFRecordWriter, read_tfrecord

    copy = path.with_name("copy")
    with TFRecordWriter(copy) as writer:
        for offset, payload in read_tfrecord(path):
            changed = bytearray(payload)
            if offset == 0:
                at = payload.index(b"t0.png")
                changed[at] = ord("s")
            writer.write(bytes(changed))
    return copy.read_bytes()


def test_foreign_names_globs_and_label_maps_are_found(sharded, s3, tmp_path):
    files = {"a/one.record": "train-00000-of-00004.tfrecord", "b/two.record": "val-00000-of-00003.tfrecord"}
    for name, stored in files.items():
        storage.write(f"s3://{s3.bucket}/{name}", sharded / stored)
    storage.write(f"s3://{s3.bucket}/maps/classes.pbtxt", sharded / "label_map.pbtxt")
    base = f"s3://{s3.bucket}"
    for options in (
        {"path": base, "train": "a/*.record", "val": f"{base}/b/two.rec*", "label_map": "maps/classes.pbtxt"},
        {"path": "", "train": f"{base}/a/*", "val": f"{base}/b/*", "label_map": f"{base}/maps/classes.pbtxt"},
        {"path": "", "train": f"{base}/a/*", "val": f"{base}/b/*", "label_map": str(sharded / "label_map.pbtxt")},
    ):
        records = open_records(**options)
        assert {name: len(split) for name, split in records.splits.items()} == {"train": 4, "val": 1}
    assert len(open_records(f"{base}/a/one.record", label_map=str(sharded / "label_map.pbtxt")).splits["train"]) == 4
    with pytest.raises(ResightError, match="no object matches"):
        open_records(base, train="c/*")
    with pytest.raises(ResightError, match="some records are local"):
        open_records(sharded, val=f"{base}/b/*")
    with pytest.raises(ResightError, match="label map"):
        open_records(f"{base}/a/one.record")


def test_what_is_not_there_is_told_with_its_address(sharded, s3, tmp_path):
    with pytest.raises(ResightError, match="nothing at this address"):
        open_records(f"s3://{s3.bucket}/none")
    storage.write(f"s3://{s3.bucket}/notes/some.csv", b"a,b")
    with pytest.raises(ResightError, match="no records"):
        open_records(f"s3://{s3.bucket}/notes")
    address = s3.put(sharded, "set")
    storage.delete(f"{address}/train-00002-of-00004.tfrecord")
    with pytest.raises(ResightError, match="missing: train-00002-of-00004"):
        open_records(address)
    assert len(open_records(address, on_bad_record="skip").splits["train"]) == 12


def test_a_damaged_remote_record_is_told_as_a_local_one(sharded, s3, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy, ignore=shutil.ignore_patterns(INDEX))
    shard = copy / "train-00001-of-00004.tfrecord"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ResightError) as local:
        open_records(copy)
    address = s3.put(copy, "set")
    with pytest.raises(ResightError) as remote:
        open_records(address)
    assert str(remote.value) == str(local.value).replace(str(copy), address)


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_change_nothing_in_what_training_sees(sharded, s3, workers):
    config = load_config(None, {"model.min_size": 64, "model.max_size": 96, "train.batch_size": 4})
    address = s3.put(sharded, "set")

    def examples(path, workers):
        split = open_records(path).splits["train"]
        batches = BatchSampler(42, split.sizes, 4, 0, split.shard_numbers, 2)
        loaded = load_batches(training_set(split, ("red", "blue"), config), itertools.islice(batches, 8), workers)
        return [example for batch in loaded for example in batch]

    expected = examples(sharded, 0)
    s3.faults = 0.2  # seven tries all fail once in 80,000 requests
    found = examples(address, workers)
    assert len(found) == len(expected) == 32
    assert s3.injected
    for left, right in zip(found, expected, strict=True):
        assert left.record == right.record
        assert left.image.equal(right.image)


def test_a_dataset_json_that_is_none_is_a_problem_only(sharded, s3):
    address = s3.put(sharded, "set")
    storage.write(f"{address}/dataset.json", json.dumps([]).encode())
    assert [problem.kind for problem in open_records(address).problems] == ["damaged_info"]


def test_remote_records_are_checked_and_shown_and_remote_annotations_refused(sharded, s3, tmp_path):
    address = s3.put(sharded, "set")
    local, remote = check_data(sharded), check_data(address)
    assert remote.counts == local.counts
    assert [problem.message for problem in remote.warnings] == [problem.message for problem in local.warnings]
    assert len(show_data(address, tmp_path / "pictures", limit=2)) == 2
    with pytest.raises(ResightError, match="annotations are read from local files"):
        read_source(address)
