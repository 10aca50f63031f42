"""Recognising formats by looking, and explaining when that fails."""

import json
import os

import pytest
from PIL import Image

from resight.datasets.formats import read_source
from resight.errors import ResightError

CSV = "filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2,3,4\n"
XML = "<annotation><filename>a.jpg</filename></annotation>"


COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}]}  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SHARES = (0.15, 0.25, 0.37, 0.67)


def test_a_file_name_that_is_no_text_is_a_problem(tmp_path, put):
    with open(os.fsencode(tmp_path) + b"/\xff.xml", "wb") as file:
        file.write(XML.replace("a.jpg", "").encode())
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    source = read_source(tmp_path)
    assert not source.annotations and "UTF-8" in source.problems[0].message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("set.json", json.dumps(COCO)),
        ("x.csv", CSV.replace("1,2,3,4", ",".join(map(str, SHARES)))),
        ("a.xml", "<annotation><object><name>x</name><bndbox>{}</bndbox></object></annotation>".format(
            "".join(f"<{key}>{side}</{key}>" for key, side in zip(CORNERS, SHARES, strict=True)))),
        ("allAnnotations.csv", "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;"
                               "Lower right corner Y\na.jpg;x;" + ";".join(map(str, SHARES)) + "\n"),
    ],
)  # fmt: skip
def test_shares_of_the_image_are_no_pixels(tmp_path, put, images, name, text):
    images("a.jpg")
    put(name, text)
    with pytest.raises(ResightError, match="look normalised") as caught:
        read_source(tmp_path)
    assert name in caught.value.where and "pixels" in caught.value.fix


def test_a_box_may_fill_an_image_of_one_pixel(tmp_path, put):
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    corners = "".join(f"<{key}>{side}</{key}>" for key, side in zip(CORNERS, (0, 0, 1, 1), strict=True))
    size = "<size><width>1</width><height>1</height></size>"
    put("a.xml", f"<annotation>{size}<object><name>x</name><bndbox>{corners}</bndbox></object></annotation>")
    assert [box.xyxy for one in read_source(tmp_path).annotations for box in one.boxes] == [(0, 0, 1, 1)]


def test_one_file_of_shares_among_others_is_left_out(tmp_path, put, images):
    images("a.jpg", "b.jpg", "c.jpg")
    put("a.csv", CSV)
    put("b.csv", CSV.replace("1,2,3,4", "0,0,.5,1").replace("a.jpg", "b.jpg") + "c.jpg,x,0,0,1,1\n")
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["a.jpg"]
    assert [(p.level, p.kind, p.where) for p in source.problems] == [
        ("error", "normalised_box", str(tmp_path / "b.csv"))
    ] * 2  # one for each image


def test_two_names_of_one_image_are_told_and_left_out(tmp_path, put, images):
    images("a.jpg", "b.jpg")
    put("x.csv", CSV + "a.png,x,1,2,3,4\nb.jpg,x,1,2,3,4\n")
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["b.jpg"]
    (problem,) = [p for p in source.problems if p.level == "error"]
    assert problem.kind == "ambiguous_image" and problem.where.endswith("x.csv:3")
    assert "'a.jpg'" in problem.message and "'a.png'" in problem.message


def test_a_name_that_may_be_two_images_is_told_and_left_out(tmp_path, put, images):
    images("images/a.jpg", "images/a.png", "images/b.jpg")
    put("x.csv", CSV.replace("a.jpg", "a") + "b.jpg,x,1,2,3,4\n")
    for path in (tmp_path, tmp_path / "x.csv"):
        source = read_source(path)
        assert [a.filename for a in source.annotations] == ["b.jpg"]
        (problem,) = [p for p in source.problems if p.level == "error"]
        assert problem.kind == "ambiguous_image" and "images/a.jpg, images/a.png" in problem.message


def test_of_a_path_that_is_not_here_the_nearest_image_is_told(tmp_path, put, images):
    images("images/IMG_10.jpg", "images/other.jpg")
    put("x.csv", CSV.replace("a.jpg", "C:\\data\\IMG_1O.jpg"))
    (problem,) = read_source(tmp_path).problems
    assert (problem.kind, problem.level) == ("missing_image", "warning")
    assert "images/IMG_10.jpg. Did you mean" in problem.message


def test_images_elsewhere_on_this_machine_are_told(tmp_path, put, images):
    images("far/a.jpg", "set/b.jpg")
    put("set/x.csv", CSV.replace("a.jpg", f"{tmp_path}/far/a.jpg") + "../far/a.jpg,x,1,2,3,4\nb.jpg,x,1,2,3,4\n")
    source = read_source(tmp_path / "set")
    assert [os.path.relpath(a.image, tmp_path) for a in source.annotations] == ["far/a.jpg", "set/b.jpg"]
    (problem,) = source.problems
    assert (problem.kind, problem.level) == ("outside_image", "warning") and str(
        tmp_path / "far/a.jpg"
    ) in problem.message


def test_what_is_found_by_another_name_is_told_once_a_kind(tmp_path, put, images):
    names = [f"{at}.JPG" for at in range(9)]
    images(*names, "x.png")
    put("x.csv", CSV.partition("a.jpg")[0] + "".join(f"{name.lower()},x,1,2,3,4\n" for name in names) + "x,x,1,2,3,4\n")
    source = read_source(tmp_path)
    assert [(p.kind, p.level, p.message[:8]) for p in source.problems] == [
        ("inexact_name", "warning", "9 images"), ("inexact_name", "warning", "1 image ")
    ]  # fmt: skip


def test_what_lies_beside_the_images_and_is_not_read_is_counted(tmp_path, put, images):
    images("a.jpg")
    put("labels.csv", CSV)
    put("films/a.mp4", "x")
    put("raw/a.CR2", "x")
    (problem,) = read_source(tmp_path).problems
    assert (problem.level, problem.kind) == ("warning", "passed_over")
    assert "1 .mp4" in problem.message and "1 .cr2" in problem.message


def _coco(folder):
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    images, categories = [{"id": 1, "file_name": "1.jpg"}], [{"id": 1, "name": "sign"}]
    return f"{folder}/boxes.json", json.dumps({"images": images, "annotations": [box], "categories": categories})


def _voc(folder):
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    return f"{folder}/1.xml", f"<annotation><object><name>sign</name>{box}</object></annotation>"


def _csv(folder):
    return f"{folder}/boxes.csv", CSV.replace("a.jpg", "1.jpg")


def _labelme(folder):
    shape = {"label": "sign", "shape_type": "rectangle", "points": [[1, 2], [3, 4]]}
    return f"{folder}/1.json", json.dumps({"imagePath": "1.jpg", "shapes": [shape]})


@pytest.mark.parametrize("write", [_coco, _voc, _csv, _labelme])
def test_an_image_that_is_missing_is_not_taken_from_the_folder_of_another_split(tmp_path, put, images, write):
    images("test/photos/1.jpg")
    put(*write("train/boxes"))
    (item,) = read_source(tmp_path).annotations
    assert item.split == "train" and item.image.endswith("test/photos/1.jpg")  # no other folder is of a split
    images("train/photos/2.jpg")
    (item,) = read_source(tmp_path).annotations
    assert item.split == "train" and not os.path.exists(item.image)
