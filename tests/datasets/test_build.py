import csv
import dataclasses
import io
import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resight.datasets.build import build_data, write_records
from resight.datasets.formats import Source
from resight.errors import Problem, ResightError
from resight.label_map import LabelItem, LabelMap
from resight.records.reader import open_records
from resight.types import Annotation, Box

CLASSES = ("stop", "yield", "merge")


def jpeg(seed: int, size: tuple[int, int] = (80, 60), orientation: int = 1) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(buffer, "JPEG", exif=exif.tobytes() if orientation != 1 else b"")
    return buffer.getvalue()


def box(label: str, at: float = 10) -> Box:
    return Box(label, at, at, at + 20, at + 10)


@pytest.fixture
def photos(tmp_path: Path) -> list[Annotation]:
    """40 images in two folders: one box of a class each, every fourth with a second one, three without any."""
    items = []
    for i in range(40):
        path = tmp_path / "photos" / ("a" if i % 2 else "b") / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
        boxes = [box(CLASSES[i % 3])] + [box("stop", 30)] * (i % 4 == 0) if i < 37 else []
        items.append(Annotation(str(path), tuple(boxes), 80, 60, where=f"boxes.csv:{i}"))
    return items


def boxes_in(path: Path) -> dict[str, Counter[str]]:
    records = open_records(path)
    return {name: Counter(t for r in split.summaries for t in r.label_texts) for name, split in records.splits.items()}


def test_records_hold_what_the_report_says(photos: list[Annotation], tmp_path: Path) -> None:
    report = write_records(photos, tmp_path / "out")
    records = open_records(tmp_path / "out")
    assert report.classes == records.label_map.names == ("merge", "stop", "yield")
    assert [item.id for item in records.label_map.items] == [1, 2, 3]
    assert {name: len(split) for name, split in records.splits.items()} == report.images
    assert {name: +Counter(count) for name, count in report.counts.items()} == boxes_in(tmp_path / "out")
    by_name = {
        record.filename: record for split in records.splits.values() for record in (split[i] for i in range(len(split)))
    }
    assert len(by_name) == sum(report.images.values()) == 40
    for item in photos:
        record = by_name[item.filename]
        assert record.encoded == Path(str(item.image)).read_bytes()
        assert record.label_texts == tuple(b.label for b in item.boxes)
        np.testing.assert_allclose(record.boxes, np.array([b.xyxy for b in item.boxes]).reshape(-1, 4), atol=1e-3)
    assert report.leakage == 0 and report.problems == ()
    for word in ("train", "val", "test", "stop", "leakage: 0.0%"):
        assert word in report.text()


def test_dataset_json_tells_how_it_was_made(photos: list[Annotation], tmp_path: Path) -> None:
    report = write_records(photos, tmp_path / "out", split="random", seed=5, test_fraction=0.3)
    info = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert info["format"] == "annotations"
    rules = {"rule": "random", "group_by": None, "test_fraction": 0.3, "val_fraction": 0.1, "seed": 5}
    assert info["split"] == rules
    assert info["images"] == report.images and info["boxes"] == report.counts
    assert info["leakage"] == {"share": 0.0, "track": 0, "near_duplicate": 0}
    assert info["digest"] and info["resight"]


def test_the_order_of_the_input_does_not_change_the_records(photos: list[Annotation], tmp_path: Path) -> None:
    write_records(photos, tmp_path / "one")
    random.Random(0).shuffle(photos)
    write_records(photos, tmp_path / "two")
    digests = {open_records(tmp_path / name).digest for name in ("one", "two")}
    assert len(digests) == 1


def test_classes_are_selected_and_renamed_and_what_is_left_out_is_counted(
    photos: list[Annotation], tmp_path: Path
) -> None:
    total = Counter(b.label for item in photos for b in item.boxes)
    report = write_records(photos, tmp_path / "out", classes=("halt", "merge"), rename={"stop": "halt"})
    assert report.classes == ("halt", "merge")
    assert sum(boxes_in(tmp_path / "out").values(), Counter()) == {"halt": total["stop"], "merge": total["merge"]}
    assert report.left_out["boxes_of_other_classes"] == total["yield"]
    only_yield = sum({b.label for b in item.boxes} == {"yield"} for item in photos)
    assert report.left_out["images_with_only_other_classes"] == only_yield
    assert sum(report.images.values()) == 40 - only_yield


def test_two_classes_with_one_new_name_become_one(photos: list[Annotation], tmp_path: Path) -> None:
    report = write_records(photos, tmp_path / "out", rename={"stop": "sign", "yield": "sign"})
    assert report.classes == ("merge", "sign")


@pytest.mark.parametrize(("background", "images"), [("none", 12), ("empty", 15), ("all", 40)])
def test_background(photos: list[Annotation], tmp_path: Path, background: str, images: int) -> None:
    report = write_records(photos, tmp_path / "out", classes=("merge",), background=background)  # type: ignore[arg-type]
    assert sum(report.images.values()) == images
    left_out = report.left_out.get("background_images", 0) + report.left_out.get("images_with_only_other_classes", 0)
    assert left_out == 40 - images


def test_a_label_map_keeps_its_ids_and_order(photos: list[Annotation], tmp_path: Path) -> None:
    label_map = LabelMap(
        (LabelItem(7, "yield"), LabelItem(2, "bump"), LabelItem(4, "m", "merge"), LabelItem(9, "stop"))
    )
    report = write_records(photos, tmp_path / "out", labels=label_map)
    assert report.classes == ("yield", "bump", "m", "stop")
    assert open_records(tmp_path / "out").label_map.items == label_map.items
    split = open_records(tmp_path / "out").splits["train"]
    ids = {"yield": 7, "m": 4, "stop": 9}
    for record in split.summaries:
        assert record.label_ids.tolist() == [ids[text] for text in record.label_texts]


def test_a_label_map_that_lacks_a_class_is_a_problem_unless_it_is_not_selected(
    photos: list[Annotation], tmp_path: Path
) -> None:
    (tmp_path / "map.pbtxt").write_text("item { id: 3 name: 'stop' } item { id: 1 name: 'merge' }")
    with pytest.raises(ResightError, match="12 x unknown class"):
        write_records(photos, tmp_path / "out", labels=tmp_path / "map.pbtxt")
    report = write_records(photos, tmp_path / "out", labels=tmp_path / "map.pbtxt", classes=("merge", "stop"))
    assert report.classes == ("stop", "merge")
    with pytest.raises(ResightError, match="does not know yield"):
        write_records(photos, tmp_path / "more", labels=tmp_path / "map.pbtxt", classes=("yield",))


def test_classes_keep_the_order_of_their_source(photos: list[Annotation], tmp_path: Path) -> None:
    source = Source("coco", "a.json", photos, classes=("yield", "tram", "stop", "merge"))
    assert write_records(source, tmp_path / "out").classes == ("yield", "tram", "stop", "merge")
    assert write_records(source, tmp_path / "few", classes=("merge", "yield")).classes == ("yield", "merge")


def spoil(photos: list[Annotation]) -> list[Annotation]:
    """Four bad images and two bad boxes, one of them the only one of its image."""
    bad = [
        Annotation(photos[0].image + ".none", (box("stop"),), source_id="gone"),  # type: ignore[operator]
        Annotation(jpeg(100)[:-500], (box("stop"),), filename="cut.jpg"),
        Annotation(b"text", (box("stop"),), filename="text.jpg"),
        Annotation(jpeg(101), (box("stop"),), 70, 60, filename="size.jpg"),
        Annotation(jpeg(103), (box("stop"), Box("stop", 5, 5, 5, 9)), filename="half.jpg"),
        Annotation(jpeg(104), (box("stop", 200),), filename="outside.jpg"),
    ]
    return photos + bad


def test_bad_input_is_listed_by_kind_and_nothing_is_written(photos: list[Annotation], tmp_path: Path) -> None:
    with pytest.raises(ResightError) as caught:
        write_records(spoil(photos), tmp_path / "out")
    text = str(caught.value)
    for line in ("6 problems", "1 x missing image", "2 x unreadable image", "1 x size mismatch",
                 "1 x bad box", "1 x outside box", "text.jpg", "half.jpg", "--on-bad skip"):  # fmt: skip
        assert line in text
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_of_many_problems_of_a_kind_the_first_are_shown(tmp_path: Path) -> None:
    items = [Annotation(str(tmp_path / f"{i}.jpg"), (box("stop"),)) for i in range(1234)]
    with pytest.raises(ResightError, match=r"1,234 x missing image[^$]*and 1,231 more"):
        write_records(items, tmp_path / "out")


def test_bad_input_can_be_left_out_and_is_counted(photos: list[Annotation], tmp_path: Path) -> None:
    report = write_records(spoil(photos), tmp_path / "out", on_bad="skip")
    assert sum(report.images.values()) == 41  # of the bad ones only half.jpg stays, with its good box
    expected = {"missing_image": 1, "unreadable_image": 2, "size_mismatch": 1, "bad_box": 1}
    assert report.left_out == expected | {"outside_box": 1, "images_without_a_good_box": 1}
    names = {
        r.filename: len(r.boxes) for split in open_records(tmp_path / "out").splits.values() for r in split.summaries
    }
    assert names["half.jpg"] == 1 and "outside.jpg" not in names
    assert "1 missing image" in report.text()


def test_every_image_is_decoded_in_a_single_split_too(photos: list[Annotation], tmp_path: Path) -> None:
    cut = Annotation(jpeg(100)[:-500], (box("stop"),), filename="cut.jpg")
    with pytest.raises(ResightError, match="truncated"):
        write_records([*photos, cut], tmp_path / "out", test_fraction=0, val_fraction=0)


def test_what_tfod_does_not_read_is_copied_but_not_under_its_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), "gray").save(buffer, "AVIF")
    items = [Annotation(data, (box("stop"),), filename=f"{data[:2]!r}") for data in (buffer.getvalue(), jpeg(1))]
    one_split = {"test_fraction": 0, "val_fraction": 0}
    with pytest.raises(ResightError, match=r"1 x tfod format[^$]*AVIF"):
        write_records(items, tmp_path / "out", layout="tfod", **one_split)
    report = write_records(items, tmp_path / "out", layout="tfod", on_bad="skip", **one_split)
    assert report.images == {"train": 1} and report.left_out == {"tfod_format": 1}
    write_records(items, tmp_path / "ours", **one_split)
    (split,) = open_records(tmp_path / "ours").splits.values()
    assert buffer.getvalue() in [split[i].encoded for i in range(2)]


def test_problems_of_the_source_count_too(photos: list[Annotation], tmp_path: Path) -> None:
    from resight.errors import Problem

    source = Source("csv", "a.csv", photos, problems=[Problem("error", "malformed", "a.csv:3", "has 4 columns")])
    with pytest.raises(ResightError, match=r"1 x malformed\n.*a\.csv:3: has 4 columns"):
        write_records(source, tmp_path / "out")
    assert write_records(source, tmp_path / "out", on_bad="skip").left_out == {"malformed": 1}


def test_what_is_mended_is_counted(tmp_path: Path) -> None:
    turned = jpeg(1, orientation=6)
    items = [
        Annotation(turned, (Box("stop", 10, 0, 30, 20),), 80, 60, filename="turned.jpg"),
        Annotation(jpeg(2), (Box("stop", -1, 0, 30, 61), box("stop", 20), box("stop", 20)), filename="clip.jpg"),
    ]
    report = write_records(items, tmp_path / "out", test_fraction=0, val_fraction=0, exif="stored")
    assert report.mended == {"turned_boxes": 1, "clipped_boxes": 1, "duplicate_boxes": 1, "rotated_images": 1}
    assert [problem.kind for problem in report.problems] == ["duplicate_box"]
    records = {record.filename: record for record in open_records(tmp_path / "out").splits["train"].summaries}
    assert (records["turned.jpg"].width, records["turned.jpg"].height) == (60, 80)
    np.testing.assert_allclose(records["turned.jpg"].boxes, [[40, 10, 60, 30]], atol=1e-3)
    np.testing.assert_allclose(records["clip.jpg"].boxes, [[0, 0, 30, 60], [20, 20, 40, 30]], atol=1e-3)


def test_a_split_made_anew_settles_what_the_source_parts_twice(photos: list[Annotation], tmp_path: Path) -> None:
    conflict = Problem("error", "split_conflict", "data.yaml", "4 images of val are also in train")
    source = Source("yolo", "", photos, problems=[conflict])
    with pytest.raises(ResightError, match="4 images of val"):
        write_records(source, tmp_path / "out")
    report = write_records(source, tmp_path / "out", split="random")
    assert not report.left_out and [p.level for p in report.problems] == ["warning"]


def test_near_duplicates_and_tracks_stay_together_and_leak_when_shuffled(tmp_path: Path) -> None:
    items = []
    for scene in range(30):
        for quality in (95, 60):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(jpeg(scene))).save(buffer, "JPEG", quality=quality)
            items.append(Annotation(buffer.getvalue(), (box("stop"),), filename=f"{scene}-{quality}.jpg"))
    report = write_records(items, tmp_path / "grouped")
    parts = {r.filename: name for name, s in open_records(tmp_path / "grouped").splits.items() for r in s.summaries}
    assert all(parts[f"{scene}-95.jpg"] == parts[f"{scene}-60.jpg"] for scene in range(30))
    assert report.leakage == 0
    shuffled = write_records(items, tmp_path / "shuffled", split="random")
    parts = {r.filename: name for name, s in open_records(tmp_path / "shuffled").splits.items() for r in s.summaries}
    twin = {f"{scene}-{q}.jpg": f"{scene}-{155 - q}.jpg" for scene in range(30) for q in (95, 60)}
    test = [name for name, part in parts.items() if part == "test"]
    assert shuffled.leakage == pytest.approx(sum(parts[twin[name]] == "train" for name in test) / len(test))
    assert shuffled.leakage > 0.3
    (line,) = (line for line in shuffled.text().splitlines() if line.startswith("warning: leakage: "))
    assert "near-duplicate" in line and "--split group" in line


def test_files_of_one_name_in_several_folders_are_told_apart(photos: list[Annotation], tmp_path: Path) -> None:
    copies = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            (tmp_path / folder / f"{i}.jpg").write_bytes(jpeg(200 + i + 10 * (folder == "y")))
            copies.append(Annotation(str(tmp_path / folder / f"{i}.jpg"), (box("stop"),)))
    write_records(copies, tmp_path / "out")
    ids = {r.source_id for split in open_records(tmp_path / "out").splits.values() for r in split.summaries}
    assert ids == {f"{folder}/{i}.jpg" for folder in "xy" for i in range(3)}


def test_an_image_that_is_annotated_twice_is_a_problem(photos: list[Annotation], tmp_path: Path) -> None:
    twice = [*photos, Annotation(photos[0].image, (box("yield", 40),), where="boxes.csv:99")]
    with pytest.raises(ResightError, match=r"1 x duplicate id\n.*boxes\.csv:99: 00\.jpg is annotated more than once"):
        write_records(twice, tmp_path / "out")
    report = write_records(twice, tmp_path / "out", on_bad="skip")
    assert sum(report.images.values()) == 40 and report.left_out == {"duplicate_id": 1}


def test_bytes_without_a_name_are_named_by_their_content(tmp_path: Path) -> None:
    write_records([Annotation(jpeg(i), (box("stop"),)) for i in range(5)], tmp_path / "out", test_fraction=0.4)
    names = [r.filename for split in open_records(tmp_path / "out").splits.values() for r in split.summaries]
    assert len(set(names)) == 5 and all(names)


def test_an_output_that_holds_something_is_refused_before_the_work(photos: list[Annotation], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ResightError, match=r"already holds something|did not write"):
            write_records(spoil(photos), tmp_path / "out", force=force)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    write_records(photos, tmp_path / "new")
    with pytest.raises(ResightError, match="--force"):
        write_records(photos, tmp_path / "new")
    assert sum(write_records(photos[:30], tmp_path / "new", force=True).images.values()) == 30


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": ("stpo",)}, "no box is of class stpo.*Did you mean 'stop'"),
        ({"rename": {"yeild": "y"}}, "no box is of class yeild.*Did you mean 'yield'"),
        ({"background": "emtpy"}, "--background: unknown value 'emtpy'.*Did you mean 'empty'"),
        ({"on_bad": "ignore"}, "--on-bad: unknown value"),
        ({"layout": "coco"}, "--layout: unknown value"),
        ({"split": "groups"}, "Did you mean 'group'"),
        ({"test_fraction": 0.95}, "leave nothing to train on"),
        ({"labels": "/nowhere.pbtxt"}, "nowhere.pbtxt: cannot be read"),
    ],
)
def test_bad_options_are_refused(
    photos: list[Annotation], tmp_path: Path, options: dict[str, object], says: str
) -> None:
    with pytest.raises(ResightError, match=f"(?s){says}"):
        write_records(photos, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_nothing_to_write_is_refused(photos: list[Annotation], tmp_path: Path) -> None:
    with pytest.raises(ResightError, match="no box is left"):
        write_records([], tmp_path / "out")
    with pytest.raises(ResightError, match="no box is left to write; left out: 3 background images"):
        write_records(photos[37:], tmp_path / "out", background="none")
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(Path(str(photos[0].image)).read_bytes()[:300])
    with pytest.raises(ResightError, match=r"(?s)no box is left.*unreadable.*boxes\.csv:0: 00\.jpg: "):
        write_records([dataclasses.replace(photos[0], image=damaged)], tmp_path / "out", on_bad="skip")
    with pytest.raises(ResightError, match="item 1 is a dict, not an Annotation"):
        write_records([photos[0], {}], tmp_path / "out")  # type: ignore[list-item]


def test_a_table_with_a_split_file_becomes_records(photos: list[Annotation], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    with open(folder / "boxes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
        for item in photos:
            name = Path(str(item.image)).relative_to(folder)
            table.writerows([name, 80, 60, b.label, *b.xyxy] for b in item.boxes)
    split = tmp_path / "split.csv"
    parts = ["train"] * 20 + ["val"] * 5 + ["test"] * 10
    names = [f"{item.filename},{part}\n" for item, part in zip(photos, parts, strict=False)]
    split.write_text("filename,split\n" + "".join(names) + "stranger.jpg,train\n")
    report = build_data(folder, tmp_path / "out", split=str(split))
    assert report.images == {"train": 20, "val": 5, "test": 10}
    assert report.left_out == {"images_in_no_split": 2}
    assert "stranger.jpg" in report.text() and "35.jpg, 36.jpg" in report.text()
    # Images that are not selected are no strangers to the file.
    few = build_data(folder, tmp_path / "few", split=str(split), classes=("merge",))
    assert few.rule == str(split) and sum(few.images.values()) == 11
    assert "names 1 file without an image here: stranger.jpg" in few.text()
    again = build_data(tmp_path / "out", tmp_path / "again")
    assert again.rule == "given" and again.images == report.images and again.counts == report.counts


def test_damaged_and_missing_records_are_left_out_like_bad_images(photos: list[Annotation], tmp_path: Path) -> None:
    write_records(photos, tmp_path / "old", split="random", shards=2)
    (tmp_path / "old" / "test-00001-of-00002.tfrecord").unlink()
    shard = tmp_path / "old" / "train-00000-of-00002.tfrecord"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ResightError, match=r"(?s)damaged record.*missing records") as caught:
        build_data(tmp_path / "old", tmp_path / "new")
    assert "--on-bad skip" in caught.value.fix
    report = build_data(tmp_path / "old", tmp_path / "new", on_bad="skip")
    assert report.left_out["damaged_record"] == 1 and report.left_out["missing_records"] == 1


def a_source(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [f"{n}.jpg,80,60,stop,10,10,30,20" for n in range(4)]
    (folder / "boxes.csv").write_text("\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *rows]))
    for n in range(4):
        (folder / f"{n}.jpg").write_bytes(jpeg(n))
    return folder


def test_source_and_records_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = a_source(tmp_path / "all" / "photos")
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    for out in (source / "sub", source / "a" / "b", tmp_path / "link" / "sub"):
        with pytest.raises(ResightError, match="lies in the source") as caught:
            build_data(source, out)
        assert caught.value.fix.endswith(" all/records")
    with pytest.raises(ResightError, match="would hold its own source") as caught:
        build_data(source, tmp_path / "all", force=True)
    assert caught.value.fix.endswith(" all/records")
    build_data(source, tmp_path / "all" / "records")
    with pytest.raises(ResightError, match="lies in the source") as caught:
        build_data("all/records", "all/records", force=True)
    assert caught.value.fix.endswith(" all/new_records")
    # A folder beside one annotation file is where everybody writes.
    build_data(source / "boxes.csv", source / "records")
    assert sorted(path.name for path in tmp_path.rglob("*.pbtxt")) == ["label_map.pbtxt"] * 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"out": ""}, "out is empty"),
        ({"out": 5}, "out is 5, of the type int"),
        ({"classes": "stop"}, "classes is 'stop'"),
        ({"classes": 5}, "classes is 5"),
        ({"classes": ["stop", ""]}, "--classes: '' is not a name"),
        ({"classes": [3]}, "--classes: 3 is not a name"),
        ({"rename": {"stop": ""}}, "--rename: '' is not a name"),
        ({"rename": [("stop", "halt")]}, "rename is"),
        ({"labels": ""}, "labels is empty"),
        ({"labels": 3}, "labels is 3"),
        ({"split": ""}, "split is empty"),
        ({"split": None}, "split is None"),
        ({"group_by": ""}, "group_by is empty"),
        ({"test_fraction": "a"}, "test_fraction is 'a'"),
        ({"test_fraction": float("nan")}, "not fractions"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"shards": "two"}, "shards is 'two'"),
        ({"background": 3}, "background is 3"),
    ],
)
def test_wrong_options_are_named(photos: list[Annotation], tmp_path: Path, options, named: str) -> None:
    with pytest.raises(ResightError, match=named):
        write_records(photos, **{"out": tmp_path / "out"} | options)
    source = a_source(tmp_path / "source")
    with pytest.raises(ResightError, match=named) as caught:
        build_data(source, **{"out": tmp_path / "out"} | options)
    assert caught.value.where != "write_records"


def test_an_argument_that_there_is_not_is_named(tmp_path: Path) -> None:
    source = a_source(tmp_path / "source")
    for name in ("shard", "options"):  # the second is what the others are gathered in
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            build_data(source, tmp_path / "out", **{name: 5})


@pytest.mark.parametrize("given", [3, None, "", [3], ["photo.jpg"]])
def test_what_is_no_source_or_no_annotations(tmp_path: Path, given) -> None:
    for function in (build_data, write_records):
        with pytest.raises(ResightError):
            function(given, tmp_path / "out")


def test_of_two_builds_at_the_same_time_one_wins_and_nothing_is_mixed(photos: list[Annotation], tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def build(part: list[Annotation]) -> int:
        def items():
            both.wait(60)
            yield from part

        try:
            return sum(write_records(items(), tmp_path / "out").images.values())
        except ResightError:
            return 0

    with ThreadPoolExecutor(2) as pool:
        written = sorted(pool.map(build, (photos[:20], photos)))
    assert written[0] == 0 and written[1] in (20, 40)
    assert sum(len(split) for split in open_records(tmp_path / "out").splits.values()) == written[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
