import pytest

from resight.errors import ResightError
from resight.records.discover import find_label_map, find_records


def found(root, names, problems=None, **globs):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    splits = find_records(str(root), globs, [] if problems is None else problems)
    return {split: [file.removeprefix(f"{root}/") for file in files] for split, files in splits.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord", "test-00000-of-00001.tfrecord"],
            {
                "train": ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"],
                "test": ["test-00000-of-00001.tfrecord"],
            },
        ),
        (["training.record", "testing.record"], {"train": ["training.record"], "test": ["testing.record"]}),
        (
            ["coco_val.record-00001-of-00002", "coco_val.record-00000-of-00002", "coco_train.record"],
            {
                "train": ["coco_train.record"],
                "val": ["coco_val.record-00000-of-00002", "coco_val.record-00001-of-00002"],
            },
        ),
        (["Eval.TFRecord", "LisaTrain.tfrecords"], {"train": ["LisaTrain.tfrecords"], "val": ["Eval.TFRecord"]}),
        (
            ["validation.records", "latest_train.record"],
            {"train": ["latest_train.record"], "val": ["validation.records"]},
        ),
        (
            ["train/Signs.tfrecord", "valid/Signs.tfrecord", "test/Signs.tfrecord", "train/Signs_label_map.pbtxt"],
            {"train": ["train/Signs.tfrecord"], "val": ["valid/Signs.tfrecord"], "test": ["test/Signs.tfrecord"]},
        ),
        (["train/b.record", "train/a.record"], {"train": ["train/a.record", "train/b.record"]}),
        (["train_0.record", "train_1.record"], {"train": ["train_0.record", "train_1.record"]}),
        (["data/train.record", ".hidden/train.record"], {"train": ["data/train.record"]}),
    ],
)
def test_names_tell_the_splits(tmp_path, names, expected):
    assert found(tmp_path, names) == expected


def test_files_without_a_split_are_reported_beside_others(tmp_path):
    problems = []
    assert found(tmp_path, ["train.record", "interval.record"], problems) == {"train": ["train.record"]}
    assert [(problem.level, problem.kind) for problem in problems] == [("warning", "unassigned_records")]
    assert "interval.record" in problems[0].message


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["a.record", "b.record"], "a.record, b.record"),
        (["train_test.record"], "train_test.record"),
        (["train.record", "train_old.record"], "train.record, train_old.record"),
        (["train2014.record", "train2017.record"], "train2014.record"),
        (["val.record", "eval.record"], "val.record"),
        (["train-00000-of-00002.record", "train-00001-of-00002.record", "train-00000-of-00001.record"], "of-00001"),
        (["train.record", "train/x.record"], "train, train.record"),
    ],
)
def test_ambiguity_lists_what_was_found_and_the_keys(tmp_path, names, listed):
    with pytest.raises(ResightError, match=listed.replace(".", r"\.")) as caught:
        found(tmp_path, names)
    assert "--set data.train=GLOB" in caught.value.fix


def test_globs_settle_it(tmp_path):
    names = ["a.record", "b.record", "c.record", "train.record", "train_old.record", "test.record"]
    assert found(tmp_path, names, train="tr*n.record", val="[ab].record") == {
        "train": ["train.record"],
        "val": ["a.record", "b.record"],
        "test": ["test.record"],
    }
    absolute = find_records("", {"test": f"{tmp_path}/test.*"}, [])
    assert absolute == {"test": [f"{tmp_path}/test.record"]}
    with pytest.raises(ResightError, match="no file matches") as caught:
        found(tmp_path, names, val="nothing*")
    assert caught.value.where == "data.val"


def test_missing_shards_are_named(tmp_path):
    problems = []
    there = ["train-00000-of-00004.tfrecord", "train-00002-of-00004.tfrecord"]
    assert found(tmp_path, there, problems) == {"train": there}
    assert [(problem.level, problem.kind) for problem in problems] == [("error", "missing_records")]
    assert problems[0].message == "of 4 shards 2 are missing: number 1, 3"


@pytest.mark.parametrize(
    "names", [["labels.csv", "1.jpg"], ["VOC/Annotations.xml"], ["data.yaml"], ["_annotations.coco.json"]]
)
def test_annotations_get_the_line_that_makes_records_of_them(tmp_path, monkeypatch, names):
    folder = tmp_path / "my photos"
    (tmp_path / "far" / "away").mkdir(parents=True)  # from nearer the line names the place as seen from there
    monkeypatch.chdir(tmp_path / "far" / "away")
    with pytest.raises(ResightError, match="annotations") as caught:
        found(folder, names)
    assert f"resight data build '{folder}' -o {tmp_path / 'records'}" in caught.value.fix


def test_a_single_file(tmp_path):
    for name, split in (("eval.record", "val"), ("mine.record", "train")):
        (tmp_path / name).touch()
        assert find_records(str(tmp_path / name), {}, []) == {split: [str(tmp_path / name)]}
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ResightError, match="is a file, not a records folder"):
        find_records(str(tmp_path / "model.onnx"), {}, [])
    (tmp_path / "labels.csv").touch()
    with pytest.raises(ResightError, match="annotations"):
        find_records(str(tmp_path / "labels.csv"), {}, [])


def test_nothing_there(tmp_path):
    (tmp_path / "records").mkdir()
    with pytest.raises(ResightError, match="empty"):
        find_records(str(tmp_path / "records"), {}, [])
    with pytest.raises(ResightError, match="no such file or folder") as caught:
        find_records(str(tmp_path / "record"), {}, [])
    assert "records" in caught.value.fix
    (tmp_path / "records" / "notes.md").touch()
    with pytest.raises(ResightError, match=r"no records .*notes\.md"):
        find_records(str(tmp_path / "records"), {}, [])
    with pytest.raises(ResightError, match="no records are named"):
        find_records("", {}, [])


def test_the_label_map(tmp_path):
    with pytest.raises(ResightError, match="there is none") as caught:
        find_label_map(str(tmp_path))
    assert "--set data.label_map=FILE" in caught.value.fix
    for folder in ("train", "valid"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Signs_label_map.pbtxt").write_text("item { id: 1 name: 'stop' }")
    path, labels = find_label_map(str(tmp_path))
    assert (path, labels.names) == (str(tmp_path / "train" / "Signs_label_map.pbtxt"), ("stop",))
    (tmp_path / "other.pbtxt").write_text("item { id: 1 name: 'go' }")
    with pytest.raises(ResightError, match=r"different label maps: .*other\.pbtxt"):
        find_label_map(str(tmp_path))
    for given in ("other.pbtxt", str(tmp_path / "other.pbtxt")):
        assert find_label_map(str(tmp_path), given)[1].names == ("go",)
