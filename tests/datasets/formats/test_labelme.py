"""LabelMe's JSON: every shape, where its image is, and damage."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight.datasets.formats import read_source

RECTANGLE = {"label": "pen", "points": [[40, 70], [10, 20]], "shape_type": "rectangle"}


def document(*shapes, image="a.jpg", **more):
    stated = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    return json.dumps(stated | {"imageHeight": 80, "imageWidth": 100} | more)


def boxes(annotation):
    return [(box.label, tuple(round(side, 3) for side in box.xyxy)) for box in annotation.boxes]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (RECTANGLE, (10, 20, 40, 70)),  # corners in any order
        ({"points": [[10, 20], [40, 20], [40, 70], [10, 70]], "shape_type": "rectangle"}, (10, 20, 40, 70)),
        ({"points": [[10, 20], [50, 25], [30, 60]], "shape_type": "polygon"}, (10, 20, 50, 60)),
        ({"points": [[10, 30], [30, 20], [40, 40], [20, 50]], "shape_type": "oriented_rectangle"}, (10, 20, 40, 50)),
        ({"points": [[10, 20], [50, 25], [30, 60]]}, (10, 20, 50, 60)),  # an old version's
        ({"points": [[50, 40], [53, 44]], "shape_type": "circle"}, (45, 35, 55, 45)),
        ({"points": [[2, 40], [5, 44]], "shape_type": "circle"}, (0, 35, 7, 45)),
        ({"points": [[10, 20], [30, 40]], "shape_type": "mask", "mask": "aGk="}, (10, 20, 30, 40)),
    ],
)
def test_shapes_become_the_box_around_them(tmp_path, put, images, shape, box):
    images("a.jpg")
    put("a.json", document({"label": "pen"} | shape))
    source = read_source(tmp_path)
    assert source.format == "labelme" and not source.problems
    (annotation,) = source.annotations
    assert boxes(annotation) == [("pen", box)] and (annotation.width, annotation.height) == (100, 80)


def test_shapes_without_a_box_are_counted(tmp_path, put, images):
    images("a.jpg", "b.jpg", "c.jpg")
    point = {"label": "pen", "points": [[1, 2]], "shape_type": "point"}
    line = {"label": "pen", "points": [[1, 2], [3, 4]], "shape_type": "line"}
    put("a.json", document(RECTANGLE, point, line))
    put("b.json", document(point, image="b.jpg"))
    put("c.json", document(image="c.jpg"))
    source = read_source(tmp_path)
    assert {a.filename: len(a.boxes) for a in source.annotations} == {"a.jpg": 1, "c.jpg": 0}
    (problem,) = source.problems
    assert "2 of kind 'point'" in problem.message and "1 of kind 'line'" in problem.message


@pytest.mark.parametrize(
    ("json_name", "stated", "image"),
    [
        ("a.json", "a.jpg", "a.jpg"),
        ("labels/a.json", "..\\images\\a.jpg", "images/a.jpg"),
        ("labels/a.json", "C:\\Users\\me\\images\\a.jpg", "images/a.jpg"),
        ("renamed.json", "IMG_1.jpg", "renamed.jpg"),
    ],
)
def test_the_image_is_found(tmp_path, put, images, json_name, stated, image):
    images(image)
    put(json_name, document(RECTANGLE, image=stated))
    (annotation,) = read_source(tmp_path).annotations
    assert annotation.image == str(tmp_path / image)


def test_an_image_that_is_only_embedded_is_named(tmp_path, put, images):
    images("b.jpg")
    put("a.json", document(RECTANGLE, imageData="aGVsbG8="))
    put("b.json", document(RECTANGLE, image="b.jpg", imageData="aGVsbG8="))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["b.jpg"]
    (problem,) = source.problems
    assert problem.kind == "missing_image" and "a.jpg" in problem.message and "imageData" in problem.message


def test_keys_in_another_order_a_named_file_and_folders_of_splits(tmp_path, put, images):
    images("train/a.jpg", "val/b.jpg")
    late = json.dumps(dict(sorted(json.loads(document(RECTANGLE, imageData="A" * 100_000)).items())))
    put("train/a.json", late)
    put("val/b.json", document(RECTANGLE | {"flags": {"difficult": True}}, image="b.jpg"))
    source = read_source(tmp_path)
    assert {a.filename: a.split for a in source.annotations} == {"a.jpg": "train", "b.jpg": "val"}
    assert source.annotations[1].boxes[0].difficult
    for name in ("train/a.json", "val/b.json"):
        assert read_source(tmp_path / name).format == "labelme"


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (RECTANGLE | {"points": [[1, "x"]]}, "y"), (RECTANGLE | {"points": None}, "points"), ([], "shape"),
        (RECTANGLE | {"label": ""}, "label"), (RECTANGLE | {"points": []}, "points"),
        (RECTANGLE | {"points": [[1, 2]], "shape_type": "circle"}, "circle"), (RECTANGLE | {"points": [5]}, "point"),
    ],
)  # fmt: skip
def test_a_bad_shape_is_named_and_its_image_left_out(tmp_path, put, images, shape, says):
    images("a.jpg", "b.jpg")
    put("a.json", document(RECTANGLE, shape))
    put("b.json", document(RECTANGLE, image="b.jpg"))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["b.jpg"]
    (problem,) = source.problems
    assert problem.kind == "malformed" and "shapes[1]" in problem.where and says in problem.message


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, damage, survives, data):
    (tmp_path / "a.json").write_bytes(data.draw(damage)(document(RECTANGLE, RECTANGLE).encode()))
    survives(tmp_path, "labelme")
