"""CVAT's XML: every shape, splits, several files, and damage."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight import build_data
from resight.datasets.formats import read_source
from resight.errors import ResightError

BOX = '<box label="stop" occluded="1" xtl="10" ytl="20" xbr="40" ybr="60"></box>'


def document(*images, labels=("stop", "go")):
    names = "".join(f"<label><name>{name}</name></label>" for name in labels)
    meta = f"<version>1.1</version><meta><task><labels>{names}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(images)}</annotations>'


def image(name, *shapes, number=0, more=""):
    return f'<image id="{number}" name="{name}" width="100" height="80" {more}>{"".join(shapes)}</image>'


def boxes(annotation):
    return [(box.label, tuple(round(side, 3) for side in box.xyxy)) for box in annotation.boxes]


def test_boxes_are_read_and_voc_does_not_claim_them(tmp_path, put, images):
    images("images/a.jpg", "images/b.jpg")
    file = put("annotations.xml", document(image("a.jpg", BOX), image("b.jpg", number=1)))
    for path in (tmp_path, file):
        source = read_source(path)
        assert source.format == "cvat" and source.classes == ("stop", "go") and not source.problems
        first, second = source.annotations
        assert boxes(first) == [("stop", (10, 20, 40, 60))] and first.boxes[0].occluded and not second.boxes
        assert (first.width, first.height) == (100, 80) and "image 0" in first.where


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<polygon label="x" points="10.0,20.0;50,25;30,70"/>', (10, 20, 50, 70)),
        ('<polyline label="x" points="10,20;50,25"/>', (10, 20, 50, 25)),
        ('<box label="x" xtl="10" ytl="20" xbr="40" ybr="30" rotation="90"/>', (20, 10, 30, 40)),
        ('<box label="x" xtl="80" ytl="35" xbr="100" ybr="45" rotation="45"/>', (79.393, 29.393, 100, 50.607)),
        ('<ellipse label="x" cx="50" cy="40" rx="20" ry="10" rotation="90"/>', (40, 20, 60, 60)),
        ('<mask label="x" rle="1, 2" left="5" top="6" width="10" height="20"/>', (5, 6, 15, 26)),
        ('<cuboid label="x" xtl1="10" ytl1="12" xbl1="10" ybl1="40" xtr1="30" ytr1="12" xbr1="30" ybr1="40" '
         'xtl2="15" ytl2="8" xbl2="15" ybl2="35" xtr2="35" ytr2="8" xbr2="35" ybr2="35"/>', (10, 8, 35, 40)),
    ],
)  # fmt: skip
def test_shapes_become_the_box_around_them(tmp_path, put, images, shape, box):
    images("a.jpg")
    put("a.xml", document(image("a.jpg", shape)))
    assert boxes(read_source(tmp_path).annotations[0]) == [("x", box)]


def test_shapes_without_a_box_are_counted_and_their_image_is_no_background(tmp_path, put, images):
    images("a.jpg", "b.jpg", "c.jpg")
    points, tag = '<points label="x" points="1,2"/>', '<tag label="night"/>'
    put("a.xml", document(image("a.jpg", points, points), image("b.jpg", BOX, points), image("c.jpg", tag)))
    source = read_source(tmp_path)
    assert {a.filename: len(a.boxes) for a in source.annotations} == {"b.jpg": 1, "c.jpg": 0}
    (problem,) = source.problems
    assert problem.level == "warning" and "3 of kind 'points'" in problem.message and "1 image" in problem.message


def test_attributes_subsets_and_several_files(tmp_path, put, images):
    images("images/Train/a.jpg", "images/Validation/b.jpg", "images/Train/c.jpg")
    hard = BOX.replace("></box>", '><attribute name="difficult">true</attribute></box>').replace('occluded="1"', "")
    put("1.xml", document(image("a.jpg", hard, more='subset="Train"'), image("b.jpg", BOX, more='subset="Validation"')))
    put("2.xml", document(image("c.jpg", BOX, more='subset="Train"')))
    source = read_source(tmp_path)
    assert source.has_split and {a.filename: a.split for a in source.annotations} == {
        "a.jpg": "train", "b.jpg": "val", "c.jpg": "train",
    }  # fmt: skip
    assert (source.annotations[0].boxes[0].difficult, source.annotations[0].boxes[0].occluded) == (True, False)


def test_tracks_of_a_video_name_the_export_to_choose(tmp_path, put, images):
    track = '<track id="0" label="stop"><box frame="0" outside="0" xtl="1" ytl="2" xbr="3" ybr="4"/></track>'
    put("annotations.xml", document(track))
    with pytest.raises(ResightError, match="CVAT for images"):
        read_source(tmp_path)
    images("a.jpg")
    put("more.xml", document(image("a.jpg", BOX)))
    assert [problem.kind for problem in read_source(tmp_path).problems] == ["video_tracks"]


def test_a_size_of_the_pixels_as_stored_is_that_of_an_old_version(tmp_path, put):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(tmp_path / "a.jpg", exif=exif)
    put("a.xml", document(image("a.jpg", BOX)))
    report = build_data(tmp_path, tmp_path.parent / "stored", test_fraction=0, val_fraction=0)
    assert report.mended["turned_boxes"] == 1
    put("a.xml", document(image("a.jpg", BOX)).replace('width="100" height="80"', 'width="80" height="100"'))
    report = build_data(tmp_path, tmp_path.parent / "shown", test_fraction=0, val_fraction=0)
    assert "turned_boxes" not in report.mended


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ('<box label="x" xtl="a" ytl="2" xbr="3" ybr="4"/>', "xtl"), ('<box label="x" xtl="1"/>', "ytl"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "label"), ('<polygon label="x"/>', "point"),
        ('<polygon label="x" points="1,2;3"/>', "point"),
    ],
)  # fmt: skip
def test_a_bad_shape_is_named_and_its_image_left_out(tmp_path, put, images, shape, says):
    images("a.jpg", "b.jpg")
    put("a.xml", document(image("a.jpg", BOX, shape), image("b.jpg", BOX, number=1)))
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["b.jpg"]
    (problem,) = source.problems
    assert problem.kind == "malformed" and "a.xml: image 0" in problem.where and says in problem.message


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, damage, survives, data):
    shapes = [BOX, '<polygon label="x" points="1,2;3,4"/>', '<ellipse label="x" cx="5" cy="4" rx="2" ry="1"/>']
    (tmp_path / "a.xml").write_bytes(data.draw(damage)(document(image("a.jpg", *shapes)).encode()))
    survives(tmp_path, "cvat")
