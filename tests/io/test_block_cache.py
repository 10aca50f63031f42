import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from resight.dialect import load_config, training_set
from resight.errors import ResightError
from resight.input.dataset import TrainingExample
from resight.input.sampler import BatchSampler
from resight.io import block_cache
from resight.io import object_store as storage
from resight.io.object_store import Conflict, StorageError
from resight.records.reader import open_records


def test_the_cache_keeps_to_its_limit_and_reads_on(sharded, s3, monkeypatch, tmp_path):
    monkeypatch.setattr(block_cache, "BLOCK", 4096)
    address = s3.put(sharded, "set")
    limit = 12 * 4096  # the shards are some 40 blocks
    split = open_records(address, cache_gb=limit / 1e9).splits["train"]
    assert sum(os.path.getsize(sharded / name.rpartition("/")[2]) for name in split.shards) > 3 * limit
    local = open_records(sharded).splits["train"]
    for i in np.random.default_rng(0).permutation(len(split)).tolist():
        assert split[i].encoded == local[i].encoded
        assert sum(file.stat().st_size for file in (tmp_path / "cache/blocks").iterdir()) <= limit
    with pytest.raises(ResightError, match="cannot hold 3 shards") as caught:
        split.check_window(2)
    assert caught.value.where == "data.cache_gb"


def test_what_is_in_the_cache_is_not_asked_for_again(sharded, s3):
    split = open_records(s3.put(sharded, "set")).splits["train"]
    first = [record.encoded for record in split]
    seen = len(s3.requests)
    assert [record.encoded for record in pickle.loads(pickle.dumps(split))] == first
    assert s3.requests[seen:] == []


@pytest.mark.parametrize("cached", [False, True])
def test_a_shard_that_changes_under_way_is_an_error(sharded, s3, monkeypatch, cached):
    address = s3.put(sharded, "set")
    split = open_records(address).splits["train"]
    dataset = training_set(split, ("red", "blue"), load_config(None, {"data.on_bad_record": "skip"}))
    item = next(iter(BatchSampler(1, split.sizes, 1)))[0]
    if cached:
        assert isinstance(dataset[item], TrainingExample)
        monkeypatch.setattr(block_cache, "RECHECK", 0)
    for name in split.shards:
        storage.write(name, storage.read(name) + b"more")
    error = dataset[item]
    assert isinstance(error, Conflict)
    assert "has changed" in error.message and error.where in split.shards


def test_a_full_disk_is_told(sharded, s3, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    split = open_records(s3.put(sharded, "set")).splits["train"]
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full") as caught:
        split[0]
    assert "data.cache_gb" in caught.value.fix


def test_a_cache_of_somebody_else_is_told(sharded, s3, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    split = open_records(s3.put(sharded, "set")).splits["train"]
    assert split[0]
    monkeypatch.setattr(os, "utime", refused)  # nor can anything be written there
    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(StorageError, match=r"cannot keep shards.*not permitted"):
        split[0]
