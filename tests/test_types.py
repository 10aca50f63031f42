from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from resight import Annotation, Box, Detections, ResightError
from resight.drawing import draw
from resight.types import named_split, pairwise_iou


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Box(3, 1, 2, 3, 4), "Box: label is 3"),
        (lambda: Box("stop", "1", 2, 3, 4), "Box: xmin is '1'"),
        (lambda: Box("stop", 1, 2, None, 4), "Box: xmax is None"),
        (lambda: Box("stop", 1, 2, 3, 4, area="9"), "Box: area is '9'"),
        (lambda: Box("stop", 1, 2, 3, 4, "no"), "Box: difficult is 'no'"),
        (lambda: Annotation(3), "Annotation: image is 3"),
        (lambda: Annotation(None), "Annotation: image is None"),
        (lambda: Annotation("a.jpg", 3), "Annotation: boxes is 3"),
        (lambda: Annotation("a.jpg", [(1, 2, 3, 4)]), r"Annotation: boxes holds \(1, 2, 3, 4\)"),
        (lambda: Annotation("a.jpg", width="640"), "Annotation: width is '640'"),
        (lambda: Annotation("a.jpg", group=3), "Annotation: group is 3"),
        (lambda: Annotation("a.jpg", split=1), "Annotation: split is 1"),
    ],
)
def test_fields_of_a_wrong_type_are_named(make, named):
    with pytest.raises(ResightError, match=named):
        make()


def test_numbers_of_numpy_and_any_iterable_of_boxes_will_do():
    corners = np.array([1, 2, 3, 4], np.float32)
    boxes = (Box("stop", *corners, difficult=np.bool_(True)) for _ in range(2))
    annotation = Annotation("a/b.jpg", boxes, width=np.int64(640), height=480)
    assert len(annotation.boxes) == 2 and annotation.filename == annotation.source_id == "b.jpg"


def test_overlaps_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (90, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    boxes[::9, 2] = boxes[::9, 0]  # without area
    found, objects, crowd = boxes[:50], boxes[50:], rng.random(40) < 0.3
    as_xywh = [np.concatenate([part[:, :2], part[:, 2:] - part[:, :2]], 1) for part in (found, objects)]
    np.testing.assert_allclose(pairwise_iou(found, objects, crowd), mask.iou(*as_xywh, crowd), atol=1e-12)
    np.testing.assert_array_equal(pairwise_iou(found, objects), pairwise_iou(objects, found).T)


def test_a_split_has_the_names_that_people_use():
    named = {"val": "val", "valid": "val", "Validation": "val", "dev": "val", "training": "train", "mine": "mine"}
    assert {name: named_split(name) for name in named} == named


@pytest.fixture
def photo(tmp_path):
    """A file, its pixels, and detections in it."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    boxes = np.array([[10, 20, 40, 50], [50, 5, 70, 30]], np.float32)
    scores, labels = np.array([0.9, 0.8], np.float32), np.array([1, 0])
    return pixels, Detections(boxes, scores, labels, ("stop", "yield"), 90, 60, str(tmp_path / "1.png"))


def test_what_was_found_is_drawn_into_the_file_or_the_image_given(photo):
    pixels, found = photo
    expected = draw(pixels, found.boxes, found.names, found.scores)
    for image in (None, pixels, Image.fromarray(pixels), found.file):
        np.testing.assert_array_equal(np.asarray(found.plot(image)), expected)
    alone = replace(found, classes=("stop",), labels=np.zeros(2, int))
    np.testing.assert_array_equal(
        np.asarray(alone.plot()), draw(pixels, found.boxes, ["stop", "stop"], found.scores, labels=False)
    )


def test_another_image_or_none_is_refused(photo):
    pixels, found = photo
    with pytest.raises(ResightError, match="came from no file"):
        replace(found, file="").plot()
    with pytest.raises(ResightError, match="is 60 x 90 pixels; the detections are of an image of 90 x 60"):
        found.plot(pixels.transpose(1, 0, 2))


def test_the_drawn_picture_is_saved_and_replaces_none_unasked(photo, tmp_path):
    _, found = photo
    out = tmp_path / "new" / "drawn.png"
    found.save(out)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(found.plot()))
    with pytest.raises(ResightError, match=r"exists already(.|\n)*force=True"):
        found.save(out)
    found.save(out, force=True)
    found.save(str(tmp_path / "new" / "drawn.JPG"))
    assert Image.open(tmp_path / "new" / "drawn.JPG").format == "JPEG"
    for path, message in ((tmp_path / "a.gif", "as .jpg, .jpeg or .png"), (3, "path is 3"), ("s3://a/1.png", "local")):
        with pytest.raises(ResightError, match=message):
            found.save(path)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["drawn.JPG", "drawn.png"]
