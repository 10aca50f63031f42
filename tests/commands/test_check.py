import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resight import Annotation, Box, ResightError, build_data, write_records
from resight.commands import check
from resight.commands.check import check_data, reachable
from resight.datasets.summary import amounts
from resight.detection.anchors import AnchorSettings, reachable_iou
from resight.dialect import load_config
from resight.records.example import Record, encode_example
from resight.records.tfrecord import TFRecordWriter
from resight.training.plan import make_plan

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"
WIDTH, HEIGHT = 320, 240


def within_reach(model, sizes, boxes):
    return np.ones(len(boxes))


@pytest.fixture(autouse=True)
def anchors_reach_all_boxes(request, monkeypatch):
    if "shapes" not in request.fixturenames:
        monkeypatch.setattr(check, "reachable", within_reach)


def photo(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture that resembles that of no other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(seed: int, **options) -> bytes:
    out = io.BytesIO()
    photo(seed).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(1, exif=exif)


def thin() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4000, 1)).save(out, "PNG")
    return out.getvalue()


def huge_png() -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def table(folder: Path, rows: list[str], images: dict[str, bytes]) -> Path:
    """A source: four good images of two classes, and what ``rows`` and ``images`` add or replace."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [f"{n}.jpg,{WIDTH},{HEIGHT},{'stop' if n % 2 else 'yield'},50,60,120,130" for n in (1, 2, 3, 4)]
    for name, data in ({f"{n}.jpg": encoded(n) for n in (1, 2, 3, 4)} | images).items():
        (folder / name).write_bytes(data)
    rows = [row for row in good if row.split(",")[0] not in {r.split(",")[0] for r in rows}] + rows
    (folder / "annotations.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


# What is put into the source, and what must be said about it.
CASES: dict[str, tuple[list[str], dict[str, bytes], set[str], set[str]]] = {
    "all is well": ([], {}, set(), set()),
    "missing image": (["gone.jpg,320,240,stop,50,60,120,130"], {}, {"missing_image"}, set()),
    "cut-off image": ([], {"1.jpg": encoded(1)[:3000]}, {"unreadable_image"}, set()),
    "text as image": ([], {"1.jpg": b"<html>404</html>"}, {"unreadable_image"}, set()),
    "empty image": ([], {"1.jpg": b""}, {"unreadable_image"}, set()),
    "huge header": ([], {"1.jpg": huge_png()}, {"unreadable_image"}, set()),
    "other size": (["1.jpg,640,480,stop,50,60,120,130"], {}, {"size_mismatch"}, set()),
    "upside down": ([], {"1.jpg": turned(3)}, {"exif_rotation"}, set()),
    "quarter turn": ([], {"1.jpg": turned(6)}, {"exif_rotation"}, set()),
    "turned": (["1.jpg,320,240,stop,250,60,300,130"], {"1.jpg": turned(6)}, set(), {"exif_rotation", "exif_frame"}),
    "zero box": (["1.jpg,320,240,stop,50,60,50,130"], {}, {"bad_box"}, set()),
    "negative box": (["1.jpg,320,240,stop,120,60,50,130"], {}, {"bad_box"}, set()),
    "not a number": (["1.jpg,320,240,stop,nan,60,50,130"], {}, {"bad_box"}, set()),
    "far outside": (["1.jpg,320,240,stop,50,60,420,130"], {}, {"outside_box"}, set()),
    "a little outside": (["1.jpg,320,240,stop,50,60,321,130"], {}, set(), {"clipped_box"}),
    "twice": (["1.jpg,320,240,stop,50,60,120,130"] * 2, {}, set(), {"duplicate_box"}),
    "one pixel high": ([], {"1.jpg": thin()}, {"size_mismatch"}, set()),
    "short line": (["1.jpg,320,240,stop,50"], {}, {"malformed"}, set()),
}


@pytest.mark.parametrize("case", CASES)
def test_every_fault_is_named_and_errors_are_what_build_refuses(tmp_path, case):
    rows, images, errors, warnings = CASES[case]
    source = table(tmp_path / "source", rows, images)
    report = check_data(source)
    assert {problem.kind for problem in report.errors} == errors
    assert {problem.kind for problem in report.warnings} == warnings
    for problem in (*report.errors, *report.warnings):
        assert problem.where and problem.message
    if errors:
        with pytest.raises(ResightError):
            build_data(source, tmp_path / "records")
    else:
        build_data(source, tmp_path / "records")


def test_the_forms_of_the_report_agree(tmp_path):
    bad = [f"gone{n}.jpg,320,240,stop,1,2,30,40" for n in range(5)] + ["1.jpg,320,240,stop,50,60,321,130"]
    report = check_data(table(tmp_path, bad, {}))
    document = json.loads(json.dumps(report.json()))
    assert set(document) == {"errors", "warnings", "counts"}
    assert [set(found) for found in document["errors"]] == [{"kind", "where", "message"}] * 5
    assert document["counts"]["problems"] == {"missing_image": 5, "clipped_box": 1}
    assert document["counts"]["images"] == 9 and document["counts"]["boxes"] == 9
    assert document["counts"]["classes"] == {"stop": 7, "yield": 2}
    lines = [" ".join(line.split()) for line in report.text().splitlines()]
    assert "error 5 x missing image" in lines and "and 2 more" in lines
    assert lines[-1] == "5 errors, 1 warning"
    assert check_data(table(tmp_path / "good", [], {})).text().endswith("nothing is wrong")


def test_training_boxes_beyond_the_reach_of_anchors_are_counted_by_class(tmp_path, monkeypatch):
    rows = [f"5.jpg,320,240,{label},{x},60,{x + side},100" for x, side, label in [(5, 4, "stop"), (50, 9, "go")]]
    source = table(tmp_path, rows, {"5.jpg": encoded(5)})
    asked = []

    def reach(model, sizes, boxes):
        asked.append((model.min_size, sizes.tolist()))
        return (boxes[:, 2] - boxes[:, 0]) / 20

    monkeypatch.setattr(check, "reachable", reach)
    config = load_config(overrides={"model.min_size": 200})
    report = check_data(source, config=config)
    assert asked == [(200, [[320, 240]] * 6)]
    assert warned(report) == [
        (
            "box_beyond_anchors",
            "2 of 6 training boxes (33.3%) have no anchor with IoU >= .5 at training size (200-640 px): stop 1 of 3, "
            "go 1 of 1; the worst is a stop of 4 x 40 in 5.jpg",
        )
    ]
    assert report.warnings[0].where.endswith("annotations.csv:6")
    monkeypatch.setattr(check, "reachable", within_reach)
    assert not check_data(source).warnings


def test_classes_and_aspects_that_anchors_reach_badly_are_named(tmp_path, monkeypatch):
    rows = [
        f"5.jpg,320,240,{'light' if x < 12 else 'sign'},{9 * x},60,{9 * x + 8},{80 if x < 12 else 68}"
        for x in range(30)
    ]
    source = table(tmp_path, rows, {"5.jpg": encoded(5)})
    monkeypatch.setattr(
        check,
        "reachable",
        lambda model, sizes, boxes: np.where((np.diff(boxes[:, 1::2])[:, 0] < 15) | (boxes[:, 0] < 30), 0.9, 0.6),
    )
    report = check_data(source)
    assert warned(report) == [
        (
            "poor_anchor_reach",
            "anchors reach 33% of the tall boxes (h/w > 1.5, mostly light) at IoU .7 at training size (384-640 px)",
        )
    ]
    assert "Kinds of boxes that anchors reach badly" in report.text()


def test_boxes_outside_training_and_crowds_ask_for_no_anchor(tmp_path, monkeypatch):
    images = annotations(("train", 1, "a"), ("test", 2, "a"))
    crowd = replace(images[0].boxes[0], crowd=True)
    write_records([replace(images[0], boxes=(*images[0].boxes, crowd)), images[1]], tmp_path / "r")
    asked = []
    monkeypatch.setattr(check, "reachable", lambda model, sizes, boxes: asked.append(len(boxes)) or np.ones(len(boxes)))
    check_data(tmp_path / "r")
    assert asked == [1]


def annotations(*parts: tuple[str, int, str]) -> list[Annotation]:
    """One image a part: split, seed of the picture, class."""
    return [
        Annotation(encoded(seed), (Box(label, 50, 60, 120, 130),), filename=f"{n}.jpg", split=split)
        for n, (split, seed, label) in enumerate(parts)
    ]


def warned(report) -> list[tuple[str, str]]:
    return [(problem.kind, problem.message) for problem in report.warnings]


def test_leakage_by_picture(tmp_path):
    write_records(annotations(("train", 1, "a"), ("train", 2, "a"), ("val", 3, "a"), ("test", 2, "a")), tmp_path / "r")
    message = "test image 3.jpg looks the same as train image 1.jpg"
    assert warned(check_data(tmp_path / "r")) == [("leakage_near_duplicate", message)]


def test_leakage_by_group(tmp_path):
    images = annotations(("train", 1, "a"), ("val", 2, "a"), ("test", 3, "a"))
    groups = ("g", "g", None)
    write_records([replace(image, group=g) for image, g in zip(images, groups, strict=True)], tmp_path / "r")
    message = "val image 1.jpg is of the same group as train image 0.jpg"
    report = check_data(tmp_path / "r")
    assert warned(report) == [("leakage_group", message)]
    assert report.text().endswith("data build --split group.")


def test_classes_that_a_split_lacks(tmp_path):
    parts = [("train", 1, "a"), ("test", 2, "a"), ("test", 3, "b"), ("val", 4, "c"), ("test", 5, "c")]
    write_records(annotations(*parts), tmp_path / "r")
    assert warned(check_data(tmp_path / "r")) == [
        ("class_in_one_split", "'b' has 1 box in test and none elsewhere"),
        ("class_not_in_train", "'c' has 1 box in val, 1 box in test and none in train"),
    ]


def record(seed: int, name: str, text: str, number: int) -> Record:
    flags = np.zeros(1, bool)
    boxes = np.array([[50, 60, 120, 130]], np.float32)
    area = np.full(1, np.nan, np.float32)
    ids = np.array([number])
    return Record(encoded(seed), "jpeg", name, name, WIDTH, HEIGHT, boxes, (text,), ids, flags, flags, flags, area)


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Writes records as another program would, whatever they say."""
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))

    def write(*records: Record) -> Path:
        folder = tmp_path / "foreign"
        folder.mkdir()
        (folder / "classes.pbtxt").write_text("item { id: 1 name: 'stop' }\nitem { id: 2 name: 'yield' }\n")
        with TFRecordWriter(folder / "training.record") as file:
            for one in records:
                file.write(encode_example(one))
        return folder

    return write


def test_numbers_and_texts_that_the_label_map_contradicts(foreign):
    report = check_data(foreign(record(1, "1", "stop", 2), record(2, "2", "merge", 1), record(3, "3", "yield", 2)))
    assert [problem.kind for problem in report.errors] == ["unknown_class"]
    assert "'merge'" in report.errors[0].message
    assert [problem.kind for problem in report.warnings] == ["class_disagrees"]
    assert report.counts["classes"] == {"stop": 1, "yield": 1, "merge": 1}


def test_one_id_for_two_pictures(foreign):
    report = check_data(foreign(record(1, "same.jpg", "stop", 1), record(2, "same.jpg", "yield", 2)))
    assert [problem.kind for problem in (*report.errors, *report.warnings)] == ["duplicate_id"]


def test_classes_without_a_box(foreign):
    assert warned(check_data(foreign(record(1, "1", "stop", 1)))) == [
        ("class_without_boxes", "'yield' has no box at all")
    ]


@pytest.mark.parametrize("indexed", [False, True])
def test_damaged_records_are_named_by_file_and_offset_and_the_rest_is_checked(foreign, indexed):
    folder = foreign(record(1, "1", "stop", 1), record(2, "2", "yield", 2))
    shard = folder / "training.record"
    before = shard.stat()
    if indexed:  # the damage comes after the index was made, and the file looks untouched
        check_data(folder)
    data = bytearray(shard.read_bytes())
    data[2000] ^= 8
    shard.write_bytes(data)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = check_data(folder)
    assert len(report.errors) == 1
    assert "training.record" in report.errors[0].where and "byte 0" in report.errors[0].where
    assert report.counts["images"] == 1 + indexed


def test_what_a_records_folder_lacks_or_says_wrongly_does_not_hide_the_rest(tmp_path):
    folder = tmp_path / "r"
    parts = [("train", 1, "a"), ("train", 2, "a"), ("test", 3, "a"), ("test", 2, "a")]
    write_records(annotations(*parts), folder, shards=2)
    (folder / "train-00000-of-00002.tfrecord").unlink()
    report = check_data(folder)
    assert [problem.kind for problem in report.errors] == ["missing_records"]
    assert report.format == "records"  # by which the command line knows the next step
    assert "train-00000-of-00002.tfrecord" in report.errors[0].message
    assert report.counts["images"] == 3 and {p.kind for p in report.warnings} == {"leakage_near_duplicate"}
    (folder / "dataset.json").write_text("{")
    report = check_data(folder)
    assert {problem.kind for problem in report.errors} == {"damaged_info", "missing_records"}
    assert report.counts["images"] == 3


def test_a_source_that_is_none_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ResightError):
            check_data(path)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"path": None}, "path is None"),
        ({"path": ""}, "path is empty"),
        ({"format": 3}, "format is 3"),
        ({"config": {"model": 1}}, "config is"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, given, named):
    with pytest.raises(ResightError, match=named) as caught:
        check_data(**{"path": tmp_path} | given)
    assert caught.value.where == "check_data"


def test_data_without_a_box_are_an_error_as_build_has_it(tmp_path):
    rows = [f"{n}.jpg,320,240,,,,," for n in (1, 2, 3, 4)]
    source = table(tmp_path / "source", rows, {})
    assert [problem.kind for problem in check_data(source).errors] == ["no_box"]
    with pytest.raises(ResightError, match="no box is left"):
        build_data(source, tmp_path / "records")


def test_a_yolo_label_without_an_image_is_named_by_check_and_build(tmp_path):
    for name in ("images/a.jpg", "labels/a.txt", "labels/gone.txt"):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0 .5 .5 .2 .2\n" if name.endswith("txt") else encoded(1))
    (problem,) = check_data(tmp_path / "source").errors
    assert problem.kind == "missing_image" and problem.where.endswith("labels/gone.txt")
    with pytest.raises(ResightError, match=r"gone\.txt"):
        build_data(tmp_path / "source", tmp_path / "records")
    left_out = build_data(tmp_path / "source", tmp_path / "records", on_bad="skip").text()
    assert "left out: 1 missing image\n" in left_out


def test_amounts_are_worded_by_number():
    counts = {"boxes_of_other_classes": 1, "missing_image": 2, "bad_box": 1, "rotated_images": 1, "malformed": 0}
    assert amounts(counts) == "1 box of other classes, 2 missing images, 1 bad box, 1 rotated image"
    assert (
        amounts({"images_without_a_good_box": 3, "missing_records": 1})
        == "3 images without a good box, 1 missing record"
    )


@pytest.mark.parametrize("anchors", ["fit", "default"])
def test_what_check_says_of_anchors_is_what_the_plan_says(shapes, anchors):
    config = load_config(overrides={"data.path": str(shapes(train=8, val=3)), "model.anchors": anchors,
                                    "model.min_size": 32, "model.max_size": 32})  # fmt: skip
    share = make_plan(config).recall[0]
    found = [problem for problem in check_data(config.data.path, config=config).warnings if "beyond" in problem.kind]
    boxes = 12
    beyond = round(boxes * (1 - share))
    assert beyond  # squares of 8 px
    assert [problem.message.split(" training")[0] for problem in found] == [f"{beyond} of {boxes}"]


def test_boxes_are_compared_at_the_size_of_the_network():
    model = load_config(overrides={"model.anchors": "default"}).model  # 384-640
    images, boxes = np.array([[1280.0, 768.0], [640.0, 384.0]]), np.array([[100.0, 100, 132, 164], [50, 50, 66, 82]])
    iou = reachable(model, images, boxes)
    own = AnchorSettings(((16, 23), (32, 45), (64, 91), (128, 181)))
    expected = reachable_iou(np.array([[16.0, 32.0]]), np.array([[58.0, 66.0]]), own, [8, 16, 32, 64])
    np.testing.assert_allclose(iou, np.repeat(expected, 2))


def test_images_with_more_objects_than_detections_are_told(shapes):
    config = load_config(overrides={"model.detections": 1})
    (found,) = (p for p in check_data(shapes(train=9, val=3), config=config).warnings if p.kind == "too_many_objects")
    # Pictures 1, 3, ... show two squares.
    assert "5 images have more objects" in found.message and "train-1.png" in found.where + found.message
    assert "--set model.detections=100" in found.message
    assert not any(p.kind == "too_many_objects" for p in check_data(shapes(train=9, val=3)).warnings)
