import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.records import LABELS, annotations, image
from resight.errors import ResightError
from resight.label_map import to_pbtxt
from resight.records import index
from resight.records.example import Record, decode_example, encode_example
from resight.records.reader import open_records
from resight.records.tfrecord import TFRecordWriter, read_tfrecord
from resight.records.writer import write_records_folder

pytestmark = pytest.mark.usefixtures("cache")


def record(boxes, texts=None, ids=None, *, name="a.png", source="", picture=b"") -> Record:
    count = len(boxes)
    flags = np.zeros(count, bool)
    return Record(
        encoded=picture or image(),
        format="png",
        filename=name,
        source_id=source or name,
        width=64,
        height=48,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        label_texts=tuple(texts or ["stop"] * count),
        label_ids=np.array(ids or [2] * count, np.int64),
        difficult=flags,
        crowd=flags,
        occluded=flags,
        area=np.full(count, np.nan, np.float32),
    )


def foreign(folder, *, label_map=LABELS, **splits: list[Record]):
    """A folder as other people's scripts leave it: records and a label map, nothing else."""
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        with TFRecordWriter(folder / f"{name}.record") as writer:
            for row in rows:
                writer.write(encode_example(row))
    (folder / "classes.pbtxt").write_text(to_pbtxt(label_map), encoding="utf-8")
    return folder


def kinds(records) -> list[tuple[str, str]]:
    return [(problem.level, problem.kind) for problem in records.problems]


def test_the_index_is_the_same_written_and_scanned(tmp_path):
    write_records_folder({"train": annotations(9), "test": annotations(3)}, tmp_path / "out", LABELS, shards=2)
    written = open_records(tmp_path / "out")
    (tmp_path / "out" / "records.index").unlink()
    scanned = open_records(tmp_path / "out")
    assert (tmp_path / "out" / "records.index").exists()
    assert scanned.digest == written.digest
    for name, split in written.splits.items():
        other = scanned.splits[name]
        for group in ("records", "boxes"):
            for key, column in getattr(split.index, group).items():
                np.testing.assert_array_equal(column, getattr(other.index, group)[key], err_msg=key)
        assert split.index.strings == other.index.strings


@given(st.data())
def test_a_damaged_index_is_made_again(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged-index"
    if not folder.exists():
        write_records_folder({"train": annotations(3)}, folder, LABELS)
    index = folder / "records.index"
    whole = index.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    index.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert [row.filename for row in open_records(folder).splits["train"].summaries] == ["f0.png", "f1.png", "f2.png"]
    assert index.read_bytes() == whole


def test_an_index_of_other_shards_is_stale(tmp_path):
    folder = foreign(tmp_path / "records", train=[record([])])
    assert len(open_records(folder).splits["train"]) == 1
    foreign(folder, train=[record([]), record([], name="b.png")])
    assert len(open_records(folder).splits["train"]) == 2


def test_a_foreign_folder_is_left_as_it_is_and_its_index_cached(tmp_path, cache, monkeypatch):
    folder = foreign(tmp_path / "theirs", training=[record([[1, 2, 3, 4]])], testing=[record([])])
    before = sorted(path.name for path in folder.iterdir())
    first = open_records(folder)
    assert {name: len(split) for name, split in first.splits.items()} == {"train": 1, "test": 1}
    assert sorted(path.name for path in folder.iterdir()) == before
    assert len(list((cache / "index").iterdir())) == 1
    monkeypatch.setattr(index, "scan", None)  # a second scan would fail
    assert open_records(folder).digest == first.digest


def test_where_the_folder_cannot_take_the_index_the_cache_does(tmp_path, cache):
    write_records_folder({"train": annotations(2)}, tmp_path / "out", LABELS)
    (tmp_path / "out" / "records.index").unlink()
    (tmp_path / "out" / "records.index").mkdir()
    assert len(open_records(tmp_path / "out").splits["train"]) == 2
    assert len(list((cache / "index").iterdir())) == 1


def test_the_digest_names_content_and_not_place(tmp_path):
    rows = [record([[1, 2, 3, 4]])]
    one, two = (open_records(foreign(tmp_path / name, train=rows)) for name in ("one", "two"))
    other = open_records(foreign(tmp_path / "other", train=[record([[1, 2, 3, 5]])]))
    assert one.digest == two.digest != other.digest


# The old workflow wrote an image with n boxes n times, with its first 1..n boxes.

A, B, C = [1, 2, 30, 40], [5, 6, 20, 21], [7, 8, 9, 10]


def test_growing_repeats_are_one_image_with_all_boxes(tmp_path):
    rows = [record([A], name="x.png", picture=image(1)), record([A], name="y.png", picture=image(2))]
    rows += [record([A, B], name="y.png", picture=image(2)), record([A, B, C], name="y.png", picture=image(2))]
    rows += [record([], name="z.png", picture=image(3))]
    folder = foreign(tmp_path / "old", train=rows, test=rows[:1])
    records = open_records(folder)
    split = records.splits["train"]
    assert [row.filename for row in split.summaries] == ["x.png", "y.png", "z.png"]
    assert [split[i].boxes.tolist() for i in range(3)] == [[A], [A, B, C], []]
    assert split[1].encoded == image(2)
    assert split.repeats == 2
    assert kinds(records) == [("warning", "repeated_image")]
    stored = open_records(folder, as_stored=True)
    assert [len(row.boxes) for row in stored.splits["train"].summaries] == [1, 1, 2, 3, 0]
    assert (stored.problems, stored.splits["train"].repeats) == ([], 0)


@given(st.lists(st.lists(st.sampled_from([A, B, C]), max_size=4), min_size=1, max_size=4))
def test_the_union_holds_every_box_as_often_as_one_record_has_it(tmp_path_factory, lists):
    folder = tmp_path_factory.mktemp("union")
    summaries = open_records(foreign(folder, train=[record(boxes) for boxes in lists])).splits["train"].summaries
    if all(sorted(boxes) == sorted(lists[0]) for boxes in lists):  # written again, but not by the old workflow
        assert [row.boxes.tolist() for row in summaries] == lists
    else:
        expected = [box for box in (A, B, C) for _ in range(max(boxes.count(box) for boxes in lists))]
        assert [sorted(row.boxes.tolist()) for row in summaries] == [sorted(expected)]


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ({"name": "a"}, {"name": "a", "source": "other"}, 1),
        ({"name": "a", "source": "7"}, {"name": "b", "source": "7"}, 1),
        ({"name": "a", "source": "7"}, {"name": "b", "source": "8"}, 2),
        ({"name": "a"}, {"name": "a", "picture": image(9)}, 2),
    ],
)
def test_repeats_share_a_name_or_id_and_the_image(tmp_path, first, second, count):
    rows = [record([A], **first), record([A, B], **second)]
    assert len(open_records(foreign(tmp_path / "old", train=rows)).splits["train"]) == count


def test_classes_by_text_then_number_and_what_disagrees(tmp_path):
    rows = [
        record([A, A, A, B], ["stop", "", "tree", "tree"], [2, 3, 1, 1]),
        record([A, A], ["yield", "go"], [2, 0], name="b.png"),
        record([A, A], ["", ""], [9, 1], name="c.png"),
    ]
    records = open_records(foreign(tmp_path / "theirs", train=rows))
    split = records.splits["train"]
    assert [split.labels(row).tolist() for row in split.summaries] == [[1, 2, -1, -1], [0, 2], [-1, 0]]
    assert split.box_labels.tolist() == [1, 2, -1, -1, 0, 2, -1, 0]
    assert split.box_records.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    said = {problem.message.split(", unknown")[0].split(" and the")[0]: problem for problem in records.problems}
    assert {text: problem.kind for text, problem in said.items()} == {
        "2 boxes of train with the class text 'tree'": "unknown_class",
        "1 box of train with the class number 9": "unknown_class",
        "1 box of train with the class text 'yield'": "class_disagrees",
    }
    assert "number 1 is 'yield'" in said["2 boxes of train with the class text 'tree'"].message


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damage_is_named_whole_or_left_out_and_counted(tmp_path):
    folder = foreign(tmp_path / "theirs", train=[record([A], name=f"{i}.png", picture=image(i)) for i in range(5)])
    path = folder / "train.record"
    offsets = [offset for offset, _ in read_tfrecord(path)]
    flip(path, offsets[1] + 100)
    flip(path, offsets[3] + 100)
    with pytest.raises(ResightError, match="damaged") as caught:
        open_records(folder)
    assert caught.value.where == f"{path}, byte {offsets[1]}"
    assert f"{path}, byte {offsets[3]}" in caught.value.message
    records = open_records(folder, on_bad_record="skip")
    assert [row.filename for row in records.splits["train"].summaries] == ["0.png", "2.png", "4.png"]
    assert [problem.where for problem in records.problems] == [f"{path}, byte {offsets[i]}" for i in (1, 3)]
    split = records.splits["train"]
    flip(path, offsets[4] + 100)  # after it was opened
    with pytest.raises(ResightError, match="CRC") as caught:
        split[2]
    assert caught.value.where == split.where(2) == f"{path}, byte {offsets[4]}"


def test_pixels_in_place_of_shares_and_compressed_files_are_named(tmp_path):
    size = (64, 48)
    far = record([tuple(side * size[at % 2] for at, side in enumerate(A))], picture=image(size=size))
    problems = open_records(foreign(tmp_path / "pixels", train=[far])).problems
    (problem,) = [problem for problem in problems if problem.kind == "pixel_box"]
    assert problem.level == "error" and problem.where.endswith("train.record") and "look like pixel" in problem.message
    folder = foreign(tmp_path / "packed", train=[record([A])])
    path = folder / "train.record"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ResightError, match="gunzip it first") as caught:
        open_records(folder)
    assert str(path) in caught.value.where and "skip" not in caught.value.fix
    assert "gunzip it first" in open_records(folder, on_bad_record="skip").problems[0].message


def test_a_record_without_an_image_is_damage_too(tmp_path):
    folder = foreign(tmp_path / "theirs", train=[record([A])])
    with TFRecordWriter(folder / "test.record") as writer:
        writer.write(b"")
    with pytest.raises(ResightError, match="no image"):
        open_records(folder)


def test_an_empty_split_is_an_error(tmp_path):
    assert kinds(open_records(foreign(tmp_path / "theirs", train=[record([])], test=[]))) == [("error", "empty_split")]


def test_a_damaged_dataset_json_is_a_problem_and_the_records_are_read(tmp_path):
    write_records_folder({"train": annotations(1)}, tmp_path / "out", LABELS)
    path = tmp_path / "out" / "dataset.json"
    for text in ("{", "[1]", '{"a": "\xff"}'):
        path.write_bytes(text.encode("latin-1"))
        records = open_records(tmp_path / "out")
        assert [(p.level, p.kind, p.where) for p in records.problems] == [("error", "damaged_info", str(path))]
        assert len(records.splits["train"]) == 1
    for value in (3, [3, None]):
        path.write_text(json.dumps({"files": value}))
        assert open_records(tmp_path / "out").problems == []


def test_shards_that_dataset_json_names_and_that_are_missing_are_all_listed(tmp_path):
    out = tmp_path / "out"
    write_records_folder({"train": annotations(4), "val": annotations(3, 4)}, out, LABELS, shards=3)
    gone = ["train-00001-of-00003.tfrecord", *(f"val-0000{n}-of-00003.tfrecord" for n in range(3))]
    for name in gone:
        (out / name).unlink()
    with pytest.raises(ResightError, match=", ".join(gone)) as caught:
        open_records(out)
    assert caught.value.where == str(out / "dataset.json")
    records = open_records(out, on_bad_record="skip")
    assert [(p.level, p.kind) for p in records.problems] == [("error", "missing_records")]
    assert {name: len(split) for name, split in records.splits.items()} == {"train": 3}
    # Whoever names the files to read wants no others.
    assert len(open_records(out, train="train-*").splits["train"]) == 3
    assert len(open_records(out / "train-00000-of-00003.tfrecord").splits["train"]) == 2
    (out / "dataset.json").unlink()
    with pytest.raises(ResightError, match="of 3 shards 1 are missing: number 1"):
        open_records(out)


def test_a_payload_on_its_own_says_the_same_as_the_index(tmp_path):
    write_records_folder({"train": annotations(4)}, tmp_path / "out", LABELS)
    split = open_records(tmp_path / "out").splits["train"]
    for i, (_, payload) in enumerate(read_tfrecord(split.shards[0])):
        alone, found = decode_example(payload), split[i]
        for name in Record.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(alone, name), getattr(found, name))


@given(st.data())
def test_damaged_shards_give_records_or_our_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged-shards"
    picture = image(size=(2, 2))
    foreign(folder, train=[record([A], picture=picture), record([B, C], name="b.png", picture=picture)])
    content = bytearray((folder / "train.record").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    (folder / "train.record").write_bytes(content)
    for on_bad in ("skip", "stop"):
        try:
            split = open_records(folder, on_bad_record=on_bad).splits["train"]
        except ResightError as error:
            assert on_bad == "stop"
            assert "train.record, byte" in error.where
        else:
            assert [len(split[i].boxes) for i in range(len(split))] in ([1, 2], [1], [2], [])
