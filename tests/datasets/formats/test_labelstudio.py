"""Label Studio's exports: regions, which annotation of a task counts, where its image is, and damage."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resight import build_data
from resight.datasets.formats import read_source
from resight.errors import ResightError
from resight.records.reader import open_records

SIZE = {"original_width": 100, "original_height": 80, "image_rotation": 0}
RECTANGLE = {"x": 10, "y": 25, "width": 30, "height": 50, "rotation": 0, "rectanglelabels": ["pen"]}
CORNERS = (10, 20, 40, 60)


def region(value, kind="rectanglelabels", **more):
    return {"id": "r1", "type": kind, "from_name": "bbox", "to_name": "image", "value": value} | SIZE | more


def task(*results, image="/data/upload/1/0a1b2c3d-a.jpg", number=1, **more):
    annotation = {"id": 1, "was_cancelled": False, "result": list(results)} | more
    return {"id": number, "data": {"image": image}, "annotations": [annotation], "predictions": []}


def boxes(annotation):
    return [(box.label, tuple(round(side, 3) for side in box.xyxy)) for box in annotation.boxes]


def write(put, *tasks, name="project.json"):
    return put(name, json.dumps(list(tasks)))


def test_json_and_json_min_are_one_source(tmp_path, put, images):
    images("0a1b2c3d-a.jpg")
    minimal = {"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 1, "bbox": [RECTANGLE | SIZE], "annotator": 1}
    single = {"id": 7, "result": [region(RECTANGLE)], "task": {"id": 1, "data": {"image": minimal["image"]}}}
    for document in ([task(region(RECTANGLE))], [minimal], single):
        file = put("project.json", json.dumps(document))
        for path in (tmp_path, file):
            source = read_source(path)
            assert source.format == "labelstudio" and not source.problems
            (annotation,) = source.annotations
            assert boxes(annotation) == [("pen", CORNERS)] and (annotation.width, annotation.height) == (100, 80)


@pytest.mark.parametrize(
    ("value", "box"),
    [
        ({"points": [[10, 25], [50, 50], [20, 75]], "polygonlabels": ["pen"]}, (10, 20, 50, 60)),
        ({"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 90, "ellipselabels": ["pen"]}, (42, 20, 58, 60)),
        (RECTANGLE | {"x": 60, "rotation": 90}, (20, 20, 60, 50)),
        ({"x": 10, "y": 25, "width": 30, "height": 50, "labels": ["pen"]}, CORNERS),
    ],
)
def test_regions_become_the_box_around_them(tmp_path, put, images, value, box):
    images("0a1b2c3d-a.jpg")
    write(put, task(region(value)))
    assert boxes(read_source(tmp_path).annotations[0]) == [("pen", box)]


def test_labels_apart_from_their_shape_and_what_is_no_region(tmp_path, put, images):
    images("0a1b2c3d-a.jpg")
    bare = {key: value for key, value in RECTANGLE.items() if key != "rectanglelabels"}
    results = [
        region(bare, "rectangle"), region(bare | {"labels": ["pen"]}, "labels"),
        region(bare | {"text": ["hello"]}, "textarea"), {"type": "choices", "value": {"choices": ["day"]}},
        {"type": "relation", "from_id": "r1", "to_id": "r2"},
        region({"format": "rle", "rle": [1], "brushlabels": ["pen"]}, "brushlabels"),
        region({"x": 1, "y": 2, "width": 0.5, "keypointlabels": ["pen"]}, "keypointlabels"),
    ]  # fmt: skip
    write(put, task(*results))
    source = read_source(tmp_path)
    assert boxes(source.annotations[0]) == [("pen", CORNERS)]
    (problem,) = source.problems
    assert "1 of kind 'brush'" in problem.message and "1 of kind 'keypoint'" in problem.message


@pytest.mark.parametrize("kind", ["rectangle", "rectanglelabels"])
def test_a_region_without_a_label_is_counted_and_no_background(tmp_path, put, images, kind):
    images("0a1b2c3d-a.jpg")
    write(put, task(region(RECTANGLE | {"rectanglelabels": []}, kind)))
    source = read_source(tmp_path)
    (problem,) = source.problems
    assert not source.annotations and problem.kind == "no_box_shape" and "without a label" in problem.message


def test_of_several_annotations_the_ground_truth_else_the_latest_counts(tmp_path, put, images):
    images(*(f"{n}.jpg" for n in range(6)))
    old, new = region(RECTANGLE | {"rectanglelabels": ["old"]}), region(RECTANGLE | {"rectanglelabels": ["new"]})

    def several(number, *annotations):
        return task(image=f"/data/upload/1/0a1b2c3d-{number}.jpg", number=number) | {"annotations": list(annotations)}

    write(
        put,
        several(0, {"result": [new], "updated_at": "2024-05-02"}, {"result": [old], "updated_at": "2024-05-01"}),
        several(1, {"result": [new], "ground_truth": True}, {"result": [old], "updated_at": "2024-05-01"}),
        several(2, {"result": [new]}, {"result": [old], "was_cancelled": True}),
        several(3, {"result": [old], "was_cancelled": True}),
        several(4) | {"predictions": [{"result": [old]}]},
        several(5, {"result": []}),
    )
    source = read_source(tmp_path)
    found = {a.filename: [box.label for box in a.boxes] for a in source.annotations}
    assert found == {"0.jpg": ["new"], "1.jpg": ["new"], "2.jpg": ["new"], "5.jpg": []}
    (problem,) = [problem for problem in source.problems if problem.kind == "left_out_tasks"]
    for words in ("2 second annotations", "1 skipped", "1 not annotated"):
        assert words in problem.message


@pytest.mark.parametrize(
    ("stated", "image"),
    [
        ("/data/upload/1/0a1b2c3d-a.jpg", "images/0a1b2c3d-a.jpg"),
        ("/data/upload/1/0a1b2c3d-a.jpg", "photos/a.jpg"),
        ("/data/local-files/?d=photos%2Fsub%20dir%2Fa.jpg", "photos/sub dir/a.jpg"),
        ("https://host.example/bucket/photos/a.jpg?X-Amz-Expires=60&d", "photos/a.jpg"),
        ("s3://bucket/photos/a.jpg", "a.jpg"),
    ],
)
def test_the_image_is_found_by_the_end_of_its_address(tmp_path, put, images, stated, image):
    images(image)
    write(put, task(region(RECTANGLE), image=stated))
    (annotation,) = read_source(tmp_path).annotations
    assert annotation.image == str(tmp_path / image)


def test_two_uploads_of_one_name_are_told_apart(tmp_path, put, images):
    images("a.jpg")
    write(put, task(region(RECTANGLE)), task(region(RECTANGLE), image="/data/upload/1/99999999-a.jpg", number=2))
    source = read_source(tmp_path)
    assert not source.annotations and "ambiguous_image" in [problem.kind for problem in source.problems]


def test_boxes_are_of_the_image_as_shown(tmp_path, put):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in (("a.jpg", (80, 100)), ("b.jpg", (80, 100))):
        Image.new("RGB", size).save(tmp_path / name, exif=exif)
    raw = {"original_width": 80, "original_height": 100}
    unsaid = {key: value for key, value in region(RECTANGLE).items() if not key.startswith("original")}
    write(put, task(region(RECTANGLE, **raw)), task(unsaid, image="b.jpg", number=2))
    out = tmp_path.parent / "records"
    report = build_data(tmp_path, out, test_fraction=0, val_fraction=0)
    assert any("Label Studio" in note for note in report.notes)
    for record in open_records(out).splits["train"].summaries:
        assert record.boxes.round(3).tolist() == [list(CORNERS)]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (region(RECTANGLE | {"x": "left"}), "x is 'left'"), (region(RECTANGLE, image_rotation=90), "90 degrees"),
        (region({"points": [[1]], "polygonlabels": ["pen"]}), "point"),
        (region(RECTANGLE, original_width="x"), "width"),
        (region(RECTANGLE | {"rectanglelabels": [{}]}), "label"),
    ],
)  # fmt: skip
def test_a_bad_region_is_named_and_its_image_left_out(tmp_path, put, images, result, says):
    images("0a1b2c3d-a.jpg")
    write(put, task(result), {"data": {"image": ""}, "annotations": []}, 5)
    source = read_source(tmp_path)
    assert not source.annotations
    by_place = {problem.where.rpartition(" ")[2]: problem.message for problem in source.problems}
    assert says in by_place["[0]"] and "no image" in by_place["[1]"] and "not a task" in by_place["[2]"]


def test_damaged_json_is_named(tmp_path, put):
    put("project.json", json.dumps([task(region(RECTANGLE))])[:-5])
    with pytest.raises(ResightError, match="not valid JSON"):
        read_source(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, damage, survives, data):
    whole = json.dumps([task(region(RECTANGLE)), task(region({"points": [[1, 2], [3, 4]], "polygonlabels": ["a"]}))])
    (tmp_path / "a.json").write_bytes(data.draw(damage)(whole.encode()))
    survives(tmp_path, "labelstudio")
