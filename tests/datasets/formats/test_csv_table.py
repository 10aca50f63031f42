"""TFOD-style tables in the layouts that people and Roboflow use."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight.datasets.formats import read_source
from resight.errors import ResightError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def test_boxes_sizes_and_images_without_objects(tmp_path, put, images):
    images("images/a.png", "images/b.png")
    put(
        "labels.csv", HEADER + 'a.png,100,80,"stop, all way",1,2,3.5,4\nb.png,100,80,,,,,\na.png,100,80,yield,5,6,7,8\n'
    )
    source = read_source(tmp_path)
    assert source.format == "csv" and "labels.csv" in source.note and not source.problems and not source.has_split
    first, second = source.annotations
    assert [(box.label, box.xyxy) for box in first.boxes] == [
        ("stop, all way", (1, 2, 3.5, 4)),
        ("yield", (5, 6, 7, 8)),
    ]
    assert (first.width, first.height, first.image) == (100, 80, str(tmp_path / "images/a.png"))
    assert second.boxes == () and second.where == f"{tmp_path}/labels.csv:3"


def test_roboflow_has_a_table_in_each_folder(tmp_path, put, images):
    for folder, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        images(f"{folder}/1.jpg")
        put(f"{folder}/_annotations.csv", HEADER + f"1.jpg,100,80,{split},1,2,3,4\n")
    source = read_source(tmp_path)
    assert source.has_split and not source.problems
    assert {(a.split, a.boxes[0].label, a.source_id) for a in source.annotations} == {
        ("train", "train", "train/1.jpg"), ("val", "val", "valid/1.jpg"), ("test", "test", "test/1.jpg")
    }  # fmt: skip


@pytest.mark.parametrize("place", ["images", "images/{split}", "images/images_{split}_x"])
def test_a_pair_of_tables_beside_images(tmp_path, put, images, place):
    for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
        images(f"{place.format(split=split)}/{name}")
        put(f"data/{split}_labels.csv", HEADER + f"{name},100,80,x,1,2,3,4\n")
    put("data/all_labels.csv", HEADER + "a.jpg,100,80,x,1,2,3,4\nb.jpg,100,80,x,1,2,3,4\n")
    source = read_source(tmp_path)
    assert source.has_split and not source.problems
    assert {(a.split, a.filename, len(a.boxes)) for a in source.annotations} == {
        ("train", "a.jpg", 1),
        ("test", "b.jpg", 1),
    }


def test_an_image_in_two_splits_and_one_in_none(tmp_path, put, images):
    images("a.jpg", "b.jpg", "c.jpg")
    put("train.csv", HEADER + "a.jpg,,,x,1,2,3,4\nb.jpg,,,x,1,2,3,4\n")
    put("test.csv", HEADER + "a.jpg,,,x,1,2,3,4\n")
    put("more.csv", HEADER + "c.jpg,,,x,1,2,3,4\n")
    source = read_source(tmp_path)
    assert {(p.kind, p.level) for p in source.problems} == {("split_conflict", "error"), ("no_split", "warning")}
    assert [a.filename for a in source.annotations] == ["a.jpg", "b.jpg"]


def test_other_delimiters_column_orders_and_encodings(tmp_path, put, images):
    images("a.jpg")
    path = put("x.csv", "class;XMIN;ymin;xmax;ymax; filename\nstöp;1;2;3;4;a.jpg\n", "utf-16")
    (annotation,) = read_source(path).annotations
    assert annotation.boxes[0].label == "stöp" and annotation.width is None


def test_bad_lines(tmp_path, put, images):
    images("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    put(
        "x.csv",
        HEADER + "a.jpg,1e999,80,x,1,2,3,4\nb.jpg,100,80,x,1,,3,4\nc.jpg,100,80,,1,2,3,4\nd.jpg,100,80,x,nan,2,3,4,5\n",
    )
    source = read_source(tmp_path)
    assert source.annotations == []
    assert [p.where[-2:] for p in source.problems if p.kind == "malformed"] == [":2", ":3", ":4", ":5"]


def test_a_header_that_quotes_run_together(tmp_path, put):
    put("x.csv", HEADER.replace("class", '"class') + "a.jpg,1,2,x,1,2,3,4\n")
    with pytest.raises(ResightError, match=r"x\.csv:.*the header lacks class"):
        read_source(tmp_path)
    put("x.csv", "filename,class,class,xmin,ymin,xmax,ymax\na.jpg,x,y,1,2,3,4\n")
    with pytest.raises(ResightError, match="the header has class more than once"):
        read_source(tmp_path)


def test_bad_boxes_are_kept_as_written(tmp_path, put, images):
    images("a.jpg")
    put("x.csv", HEADER + "a.jpg,100,80,x,9,9,1,1\na.jpg,100,80,x,nan,-5,inf,1e9\n")
    boxes = read_source(tmp_path).annotations[0].boxes
    assert boxes[0].xyxy == (9, 9, 1, 1) and boxes[1].xyxy[1:] == (-5, float("inf"), 1e9)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_tables(tmp_path, damage, survives, data):
    healthy = (HEADER + 'a.png,100,80,"stop",1,2,3.5,4\nb.png,100,80,,,,,\na.png,100,80,yield,5,6,7,8\n').encode()
    (tmp_path / "train.csv").write_bytes(data.draw(damage)(healthy))
    (tmp_path / "test.csv").write_bytes(healthy)
    survives(tmp_path, "csv")
    survives(tmp_path / "train.csv", "auto")
