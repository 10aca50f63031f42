import io
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fixtures.records import LABELS, annotations, image
from resight.errors import ResightError
from resight.label_map import LabelMap
from resight.records import writer as module
from resight.records.reader import open_records
from resight.records.writer import write_records_folder
from resight.types import Annotation, Box

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("layout", ["resight", "tfod"])
@pytest.mark.parametrize("shards", [None, 3, 7])
def test_a_written_folder_opens_with_all_it_was_given(tmp_path, layout, shards):
    given_splits = {"train": annotations(9), "val": [], "test": iter(annotations(4, 20))}
    info = write_records_folder(
        given_splits, tmp_path / "out", LABELS, info={"source": "photos"}, shards=shards, layout=layout
    )
    records = open_records(tmp_path / "out")
    assert records.problems == []
    assert records.label_map.items == LABELS.items
    assert records.info == info and info["source"] == "photos" and info["digest"] == records.digest
    assert info["images"] == {"train": 9, "test": 4}
    assert sum(info["boxes"]["train"].values()) == 12
    assert info["boxes"]["test"] == {"yield": 3, "stop": 2, "go": 1}
    assert len(records.splits["train"].shards) == (shards or 1)
    assert len(records.splits["test"].shards) == min(shards or 1, 4)
    for name, expected in (("train", annotations(9)), ("test", annotations(4, 20))):
        split = records.splits[name]
        assert len(split) == len(split.summaries) == len(expected)
        by_name = {annotation.filename: annotation for annotation in expected}
        copy = pickle.loads(pickle.dumps(split))
        for i in range(len(split)):
            found, annotation = copy[i], by_name.pop(split[i].filename)
            assert found.encoded == split[i].encoded == annotation.image
            assert found.boxes.tolist() == [list(box.xyxy) for box in annotation.boxes]
            assert found.group == annotation.group
            assert split.labels(found).tolist() == [LABELS.names.index(box.label) for box in annotation.boxes]
            assert found.difficult.tolist() == [box.difficult for box in annotation.boxes]
            assert replace(found, encoded=b"").filename == split.summaries[i].filename
            assert split.summaries[i].encoded == b""
            assert split.where(i).startswith(split.shards[0].rsplit("/", 1)[0]) and "byte" in split.where(i)
        assert by_name == {}


def test_a_large_split_is_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_BYTES", 20_000)
    write_records_folder({"train": annotations(7)}, tmp_path / "out", LABELS)
    split = open_records(tmp_path / "out").splits["train"]
    assert len(split.shards) == 3
    assert [row.filename for row in split.summaries] == [f"f{i}.png" for i in range(7)]


def test_a_rotated_image_is_stored_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = image(1, (64, 48), "JPEG", exif=exif.tobytes(), quality=95)
    plain = image(2, kind="JPEG")
    rows = [
        Annotation(rotated, (Box("stop", 1, 2, 40, 60),), filename="r.jpg"),
        Annotation(plain, (), filename="p.jpg"),
    ]
    assert write_records_folder({"train": rows}, tmp_path / "out", LABELS)["rotated"] == 1
    first, second = (open_records(tmp_path / "out").splits["train"][i] for i in range(2))
    assert (first.width, first.height, first.boxes.tolist()) == (48, 64, [[1, 2, 40, 60]])
    with Image.open(io.BytesIO(first.encoded)) as stored:
        assert stored.size == (48, 64) and not stored.getexif()
    assert second.encoded == plain


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_output_that_holds_something_is_refused_and_force_replaces_only_ours(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is fine
    write_records_folder({"train": annotations(3)}, out, LABELS, shards=3)
    before = tree(tmp_path)
    with pytest.raises(ResightError, match="already holds something") as caught:
        write_records_folder({"train": annotations(1)}, out, LABELS)
    assert "--force" in caught.value.fix
    assert tree(tmp_path) == before
    write_records_folder({"test": annotations(1)}, out, LABELS, force=True)
    assert sorted(tree(out)) == ["dataset.json", "label_map.pbtxt", "records.index", "test-00000-of-00001.tfrecord"]
    (out / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(ResightError, match=r"did not write.*notes\.txt"):
        write_records_folder({"train": annotations(1)}, out, LABELS, force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ResightError("the source is gone"), MemoryError])
def test_an_interrupted_write_leaves_nothing(tmp_path, error, force):
    def some():
        yield from annotations(2)
        raise error

    if force:
        write_records_folder({"train": annotations(3)}, tmp_path / "out", LABELS)
    before = tree(tmp_path)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_records_folder({"train": annotations(1), "test": some()}, tmp_path / "out", LABELS, force=force)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if force else [])


@pytest.mark.parametrize("call", [1, 2])
def test_an_interruption_while_replacing_keeps_the_old_folder(tmp_path, monkeypatch, call):
    write_records_folder({"train": annotations(3)}, tmp_path / "out", LABELS)
    before = tree(tmp_path)
    rename, calls = module.os.rename, []

    def interrupted(source, target):
        if tmp_path / "out" in (Path(source), Path(target)):
            calls.append(target)
            if len(calls) == call:
                raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_records_folder({"train": annotations(1)}, tmp_path / "out", LABELS, force=True)
    assert tree(tmp_path) == before


def test_what_cannot_be_written_is_refused(tmp_path):
    one = annotations(1)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ResightError, match="cannot be an output folder"):
            write_records_folder({"train": one}, out, LABELS)
    bad = {
        "no image to write": {"train": []},
        "unknown split: dev": {"dev": one},
        "label map does not have: tree": {"train": [replace(one[0], boxes=(Box("tree", 0, 0, 1, 1),))]},
        "known format": {"train": [replace(one[0], image=b"text")]},
        "No such file": {"train": [Annotation(tmp_path / "none.jpg")]},
    }
    for says, splits in bad.items():
        with pytest.raises(ResightError, match=says):
            write_records_folder(splits, tmp_path / "out", LABELS)
    with pytest.raises(ResightError, match="is 0, and must be at least 1"):
        write_records_folder({"train": one}, tmp_path / "out", LABELS, shards=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_that_are_not_unicode(tmp_path):
    odd = "caf\udce9.png"  # as os.listdir gives a Latin-1 name
    labels = LabelMap.from_names(["half \ud800"])
    rows = [Annotation(image(), (Box("half \ud800", 1, 2, 3, 4),), filename=odd)]
    write_records_folder({"train": rows}, tmp_path / "out", labels, info={"source": odd})
    records = open_records(tmp_path / "out")
    assert records.problems == []
    assert records.splits["train"].labels(records.splits["train"][0]).tolist() == [0]
