"""An index that says what no scan can have found is made anew, whatever its checksum says."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from resight.errors import ResightError
from resight.label_map import LabelMap
from resight.records.index import INDEX
from resight.records.reader import open_records
from resight.records.tfrecord import TFRecordWriter, read_tfrecord
from resight.records.writer import write_records_folder
from resight.types import Annotation, Box


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "records"
    stream = io.BytesIO()
    Image.new("RGB", (16, 12)).save(stream, "PNG")
    images = [
        Annotation(stream.getvalue(), (Box("a", 1, 1, 9, 9),) * (i % 3), filename=f"{i}.png", source_id=f"{i}")
        for i in range(5)
    ]
    write_records_folder({"train": images[:3], "test": images[3:]}, out, LabelMap.from_names(["a"]))
    return out


def forge(folder: Path, change) -> None:
    """Writes the index again with what ``change(columns, head)`` makes of it, checksums right."""
    _, data = next(read_tfrecord(folder / INDEX))
    columns = load(data)
    head = json.loads(columns.pop("head").tobytes())
    change(columns, head)
    columns["head"] = np.frombuffer((head if isinstance(head, str) else json.dumps(head)).encode(), np.uint8)
    with TFRecordWriter(folder / INDEX) as file:
        file.write(save(columns))


def column(name, change):
    def apply(columns, head):
        columns[name] = np.ascontiguousarray(change(columns[name]))

    return apply


def one(name, value, at=0):
    def apply(columns, head):
        columns[name] = columns[name].copy()
        columns[name][at] = value

    return apply


def in_head(key, value):
    return lambda columns, head: head.__setitem__(key, value)


def string(value):
    return lambda columns, head: head["strings"]["filename"].__setitem__(0, value)


CHANGES = {
    "number type": column("record/offset", lambda c: c.astype(np.float64)),
    "shorter": column("record/width", lambda c: c[:-1]),
    "two-dimensional": column("record/width", lambda c: c.reshape(-1, 1)),
    "boxes flat": column("box/boxes", lambda c: c.reshape(-1)),
    "box type": column("box/text", lambda c: c.astype(np.int32)),
    "shorter boxes": column("box/area", lambda c: c[:-1]),
    "gone": lambda columns, head: columns.pop("box/area"),
    "shard that is not": one("record/shard", 7),
    "shard before the first": one("record/shard", -1),
    "huge count": one("record/count", 1 << 40),
    "negative count": one("record/count", -1),
    "huge length": one("record/length", 1 << 62),
    "negative length": one("record/length", -(1 << 62)),
    "offset": one("record/offset", 3, at=1),
    "crc": one("record/crc", 1 << 33),
    "no width": one("record/width", 0),
    "huge height": one("record/height", 1 << 40),
    "text that is not": one("box/text", 5),
    "text before the first": one("box/text", -2),
    "order": column("record/offset", lambda c: c[::-1]),
    "string of another type": string(3),
    "half a surrogate pair": string("\ud800"),
    "fewer strings": lambda columns, head: head["strings"]["group"].pop(),
    "strings of another type": in_head("strings", [1]),
    "strings gone": in_head("strings", {}),
    "texts of another type": in_head("texts", [None]),
    "texts a number": in_head("texts", 3),
    "texts a word": in_head("texts", "ab"),
    "shards of another type": in_head("shards", 3),
    "shards too long": in_head("shards", [[1, 2, 3, 4]]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_that_no_scan_can_have_made_is_made_anew_and_said(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(folder / "cache"))
    whole = (folder / INDEX).read_bytes()
    forge(folder, CHANGES[name])
    assert (folder / INDEX).read_bytes() != whole or name == "head of another type"
    with caplog.at_level(logging.WARNING, "resight"):
        records = open_records(folder)
    assert [len(records.splits[split]) for split in ("train", "test")] == [3, 2]
    assert (folder / INDEX).read_bytes() == whole
    assert str(folder / INDEX) in caplog.text or name == "head of another type"


@pytest.mark.parametrize("head", ["[" * 100_000, "[]", "null", '{"version": 1}', "nothing"])
def test_a_head_that_is_none(head: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(folder / "cache"))
    whole = (folder / INDEX).read_bytes()
    _, data = next(read_tfrecord(folder / INDEX))
    columns = load(data) | {"head": np.frombuffer(head.encode(), np.uint8)}
    with TFRecordWriter(folder / INDEX) as file:
        file.write(save(columns))
    assert len(open_records(folder).splits["train"]) == 3
    assert (folder / INDEX).read_bytes() == whole


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_an_index_that_is_no_file_is_not_waited_for(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(folder / "cache"))
    whole = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    if kind == "fifo":
        os.mkfifo(folder / INDEX)
    else:
        (folder / INDEX).symlink_to("/dev/zero")
    assert len(open_records(folder).splits["train"]) == 3
    assert (folder / INDEX).read_bytes() == whole


@pytest.mark.parametrize("name", ["dataset.json", "label_map.pbtxt", "train-00000-of-00001.tfrecord"])
@pytest.mark.parametrize("kind", ["fifo", "device", "link loop"])
def test_what_is_no_file_in_a_records_folder_is_named_and_not_waited_for(
    name: str, kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "records"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("cache"))
    (copy / name).unlink()
    if kind == "fifo":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to("/dev/zero" if kind == "device" else name)
    if name == "dataset.json":
        kinds = [problem.kind for problem in open_records(copy).problems]
        assert kinds == ["damaged_info"] or kind == "link loop"  # a link that leads nowhere is nothing
    else:
        with pytest.raises(ResightError) as caught:
            open_records(copy)
        assert name in str(caught.value)
