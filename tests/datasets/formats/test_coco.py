"""COCO files, against pycocotools as the oracle and with odd values everywhere."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from resight.datasets.formats import read_source
from resight.errors import ResightError


def document(*files, first=1):
    """Two boxes on each image but the last; category ids with gaps, not in the order of the names."""
    images = [{"id": first + at, "file_name": name, "width": 100, "height": 80} for at, name in enumerate(files)]
    annotations = [
        {"id": 10 * image["id"] + k, "image_id": image["id"], "category_id": category, "bbox": [k, 2.5, 30, 40.25],
         "area": 600.5, "iscrowd": k, "segmentation": []}
        for image in images[:-1] for k, category in enumerate((44, 7))
    ]  # fmt: skip
    categories = [
        {"id": 44, "name": "apple", "supercategory": "fruit"},
        {"id": 0, "name": "fruit", "supercategory": "none"},
        {"id": 7, "name": "zebra", "supercategory": "fruit"},
        {"id": 50, "name": "unseen", "supercategory": "unseen"},
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def test_agrees_with_pycocotools(tmp_path, put, images, capsys):
    images("a.png", "b.png", "empty.png")
    path = put("set.json", json.dumps(document("a.png", "b.png", "empty.png")))
    source = read_source(tmp_path)
    assert source.format == "coco" and "set.json" in source.note
    assert not source.problems and not source.has_split
    oracle = COCO(str(path))
    assert len(source.annotations) == len(oracle.imgs) == 3
    for annotation, image in zip(source.annotations, oracle.imgs.values(), strict=True):
        assert annotation.filename == image["file_name"]
        assert (annotation.width, annotation.height) == (image["width"], image["height"])
        expected = oracle.loadAnns(oracle.getAnnIds(imgIds=[image["id"]]))
        assert len(annotation.boxes) == len(expected)
        for box, other in zip(annotation.boxes, expected, strict=True):
            assert [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin] == pytest.approx(other["bbox"])
            assert box.label == oracle.cats[other["category_id"]]["name"]
            assert (box.crowd, box.area) == (bool(other["iscrowd"]), other["area"])


def test_classes_follow_the_ids_without_gaps_and_without_the_unused_super_category(tmp_path, put):
    put("set.json", json.dumps(document("a.png", "b.png")))
    assert read_source(tmp_path).classes == ("zebra", "apple", "unseen")


@pytest.mark.parametrize(
    "layout",
    [
        {f"{split}/_annotations.coco.json": split for split in ("train", "valid", "test")},
        {"annotations/instances_train2017.json": "train2017", "annotations/instances_val2017.json": "val2017"},
        {"annotations/train.json": "images/train", "annotations/val.json": "images/val"},
        {"train.json": "images", "test.json": "images"},
    ],
)  # fmt: skip
def test_one_file_for_each_split(tmp_path, put, images, layout):
    for at, (file, folder) in enumerate(layout.items()):
        names = (f"{at}.jpg", f"{at}{at}.jpg")
        images(*(f"{folder}/{name}" for name in names))
        put(file, json.dumps(document(*names)))  # ids restart in each file
    put("annotations/captions_train2017.json", '{"images": [{"file_name": "x"}], "annotations": [{"image_id": 1}]}')
    if "annotations/instances_train2017.json" not in layout:
        (tmp_path / "annotations/captions_train2017.json").unlink()
    source = read_source(tmp_path)
    assert source.has_split and not source.problems
    assert len(source.annotations) == 2 * len(layout)
    assert len({a.split for a in source.annotations}) == len(layout)
    assert len({a.source_id for a in source.annotations}) == 2 * len(layout)
    for annotation in source.annotations:
        assert annotation.split[:2] in annotation.where.removeprefix(str(tmp_path))


def test_a_file_nobody_annotated_is_left_out_and_said(tmp_path, put, images):
    images("train2017/a.jpg", "test2017/b.jpg")
    put("annotations/instances_train2017.json", json.dumps(document("a.jpg")))
    put("annotations/instances_test2017.json", json.dumps({"images": document("b.jpg")["images"]}))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["a.jpg"]
    assert [p.kind for p in source.problems] == ["no_annotations"]


def test_a_single_file_in_annotations_finds_its_images(tmp_path, put, images):
    images("val2017/a.jpg", "val2017/b.jpg")
    path = put("annotations/instances_val2017.json", json.dumps(document("a.jpg", "b.jpg")))
    source = read_source(path)
    assert not source.problems and source.annotations[0].source_id == "val2017/a.jpg"


def test_paths_of_another_machine(tmp_path, put, images):
    images("photos/a.jpg", "photos/b.jpg")
    put("set.json", json.dumps(document("/home/somebody/photos/a.jpg", "C:\\data\\photos\\b.jpg")))
    source = read_source(tmp_path)
    assert [a.source_id for a in source.annotations] == ["photos/a.jpg", "photos/b.jpg"]
    (problem,) = source.problems
    assert (problem.kind, problem.level) == ("inexact_name", "warning") and problem.message.startswith("2 images")


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (lambda d: d["annotations"][0].update(image_id=99), "malformed", "image_id 99"),
        (lambda d: d["annotations"][0].update(category_id=3), "malformed", "category_id 3"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "malformed", "bbox"),
        (lambda d: d["annotations"][0].update(bbox=["a", 2, 3, 4]), "malformed", "'a'"),
        (lambda d: d["annotations"][0].pop("bbox"), "malformed", "bbox"),
        (lambda d: d["annotations"][0].update(iscrowd=7), "malformed", "iscrowd is 7"),
        (lambda d: d["annotations"][0].update(iscrowd="yes"), "malformed", "iscrowd is 'yes'"),
        (lambda d: d["annotations"][0].update(iscrowd=[1]), "malformed", "iscrowd is [1]"),
        (lambda d: d["annotations"][1].update(id=d["annotations"][0]["id"]), "duplicate_id", "annotation id"),
        (lambda d: d["images"][1].update(id=1), "duplicate_id", "image id 1"),
        (lambda d: d["images"][1].update(file_name="a.png"), "duplicate_image", "a.png"),
        (lambda d: d["images"][1].pop("file_name"), "malformed", "file_name"),
        (lambda d: d["images"][1].update(width="wide"), "malformed", "width"),
        (lambda d: d["categories"][0].update(id=7), "malformed", "'apple'"),
        (lambda d: d["categories"][0].update(name="zebra"), "duplicate_class", "zebra"),
        (lambda d: d["categories"][0].update(name="\ud800"), "malformed", "name"),
        (lambda d: d["images"][0].update(file_name="\ud800"), "malformed", "file_name"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, put, images, change, kind, says):
    images("a.png", "b.png", "c.png")
    content = document("a.png", "b.png", "c.png")
    change(content)
    put("set.json", json.dumps(content))
    found = [p for p in read_source(tmp_path).problems if p.kind == kind]
    assert found and says in found[0].message and "[" in found[0].where


def test_two_images_of_one_id_are_both_left_out(tmp_path, put, images):
    images("a.png", "b.png", "c.png")
    content = document("a.png", "b.png", "c.png")
    content["images"][1]["id"] = 1
    put("set.json", json.dumps(content))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["c.png"]
    first, second = [p for p in source.problems if p.kind == "duplicate_id"]
    assert all("a.png" in p.message and "b.png" in p.message for p in (first, second))


def test_an_id_of_two_classes_gives_no_box_either(tmp_path, put, images):
    images("a.png", "b.png")
    given = document("a.png", "b.png", "c.png")
    given["annotations"] = given["annotations"][1:3]  # one of 7 on a.png, one of 44 on b.png
    given["categories"].append({"id": 7, "name": "horse"})
    put("set.json", json.dumps(given))
    source = read_source(tmp_path)
    assert [box.label for item in source.annotations for box in item.boxes] == ["apple"]
    assert "id 7 is also the id of 'zebra'" in str(source.problems)
    assert "a.png" not in [item.filename for item in source.annotations]


@pytest.mark.parametrize(("ids", "references"), [(str, int), (int, str)])
def test_ids_match_whether_text_or_number(tmp_path, put, images, ids, references):
    images("a.png", "b.png")
    content = document("a.png", "b.png")
    for item in content["images"] + content["categories"]:
        item["id"] = ids(item["id"])
    for item in content["annotations"]:
        item |= {key: references(item[key]) for key in ("image_id", "category_id")}
    put("set.json", json.dumps(content))
    source = read_source(tmp_path)
    assert [(p.kind, p.level) for p in source.problems] == [("id_types", "warning")]
    assert [box.label for box in source.annotations[0].boxes] == ["apple", "zebra"]
    content["annotations"][0]["image_id"] = "01"
    put("set.json", json.dumps(content))
    (problem,) = [p for p in read_source(tmp_path).problems if p.kind == "malformed"]
    assert "'01'" in problem.message and repr(content["images"][0]["id"]) in problem.message


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([[50, 60, 121, 60, 121, 161]], (50, 60, 121, 161)),
        ([[5, 6, 7, 6, 7, 9], [1, 8, 2, 8, 2.5, 20]], (1, 6, 7, 20)),
        ([5, 6, 7, 6, 7, 9], (5, 6, 7, 9)),
        ({"size": [80, 100], "counts": "abc"}, "RLE"),
        ([[1, 2, 3]], "segmentation"),
        ([["x", 2, 3, 4, 5, 6]], "segmentation is 'x'"),
    ],
)
def test_polygons_without_a_bbox_and_addresses_without_a_name(tmp_path, put, images, segmentation, box):
    images("val2017/a.png", "val2017/b.png")
    content = document("a.png", "b.png")
    for image in content["images"]:
        image["coco_url"] = f"http://host/val2017/{image.pop('file_name')}"
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 7, "segmentation": segmentation}]
    put("lvis_v1_val.json", json.dumps(content))
    source = read_source(tmp_path)
    if isinstance(box, tuple):
        assert [a.filename for a in source.annotations] == ["a.png", "b.png"]
        assert [b.xyxy for b in source.annotations[0].boxes] == [box]
        assert [(p.kind, p.level) for p in source.problems] == [("inexact_name", "warning")]
    else:
        assert [p.kind for p in source.problems] == ["malformed", "inexact_name"] and box in source.problems[0].message


def test_whole_numbers_written_as_floats_are_ids(tmp_path, put, images):
    images("a.png", "b.png")
    content = document("a.png", "b.png")
    for item in content["images"] + content["categories"]:
        item["id"] = float(item["id"])
    put("set.json", json.dumps(content))
    source = read_source(tmp_path)
    assert not source.problems
    assert source.annotations[0].boxes


def test_categories_may_be_missing_and_images_may_be_addresses(tmp_path, put, images):
    images("photos/a.png", "photos/b.png")
    content = document("https://host/photos/a.png", "s3://bucket/b.png")
    put("set.json", json.dumps(content))
    assert [a.source_id for a in read_source(tmp_path).annotations] == ["photos/a.png", "photos/b.png"]
    del content["categories"]
    put("set.json", json.dumps(content))
    assert "'categories', which is empty or missing" in read_source(tmp_path).problems[0].message


def test_an_area_of_zero_is_no_area(tmp_path, put):
    content = document("a.png", "b.png")
    content["annotations"][0]["area"] = 0
    put("set.json", json.dumps(content))
    assert read_source(tmp_path).annotations[0].boxes[0].area is None


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [{"file_name": ',
        "{}",
        "[]",
        "",
        '{"images": []}',
        '{"images": [{"file_name": 1}], "annotations": {}}',
        '{"images": ["file_name"' + ", [" * 100_000,
        '{"images": ["file_name", ' + "1" * 9999 + "]}",
    ],
)
def test_broken_json_is_refused_with_its_place(tmp_path, put, text):
    with pytest.raises(ResightError, match=r"set\.json"):
        read_source(put("set.json", text))


ODD = [
    None,
    True,
    -1,
    0,
    7,
    1e400,
    float("nan"),
    10**400,
    "",
    "7",
    "a/../../b",
    "\x00",
    "\ud800",
    [],
    [1],
    {},
    {"id": 1},
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_odd_values_anywhere(tmp_path, survives, data):
    content = copy.deepcopy(document("a.png", "b.png"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = content
        while isinstance(at, dict | list) and len(at):
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.integers(0, 4)) == 0:
                at[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
                break
            at = at[key]
    (tmp_path / "set.json").write_text(json.dumps(content))
    survives(tmp_path, "coco")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes(tmp_path, damage, survives, data):
    healthy = json.dumps(document("a.png", "b.png", "c.png")).encode()
    (tmp_path / "train.json").write_bytes(data.draw(damage)(healthy))
    survives(tmp_path, "coco")
    survives(tmp_path / "train.json", "auto")
