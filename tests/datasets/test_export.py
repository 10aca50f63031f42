import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resight import Annotation, Detections, build_data, check_data
from resight.datasets.export import Crops, DetectionDataset, check_classes, plain_name
from resight.datasets.formats import read_source
from resight.errors import ResightError
from resight.io.images import probe_file
from resight.records.reader import open_records

FORMATS = ("coco", "voc", "yolo", "csv")
WIDTH, HEIGHT = 90, 61


def encoded(width=WIDTH, height=HEIGHT, format="PNG", **more):
    file = io.BytesIO()
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(file, format, **more)
    return file.getvalue()


PNGS = [encoded(WIDTH + number) for number in range(5)]  # told apart by their width


def detections(boxes, labels, classes, width=WIDTH, height=HEIGHT):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.linspace(1, 0.5, len(boxes), dtype=np.float32)
    return Detections(boxes, scores, np.array(labels, int), classes, width, height)


def written(folder, format, classes, images):
    """A data set in ``folder`` of ``images``: files, and what was found in each."""
    dataset = DetectionDataset(folder, format, classes)
    for path, found in images.items():
        dataset.add(path, np.zeros((found.height, found.width, 3), np.uint8), found)
    dataset.finish()
    return folder


def assert_equal(annotation: Annotation, found: Detections, format):
    """Names, and boxes to the last bit of a float32; none reaches out of the image."""
    boxes = np.array([box.xyxy for box in annotation.boxes]).reshape(-1, 4)
    assert [box.label for box in annotation.boxes] == found.names
    if format == "yolo":
        np.testing.assert_allclose(boxes, found.boxes, rtol=0, atol=1e-6)
    else:
        np.testing.assert_array_equal(boxes.astype(np.float32), found.boxes)
    assert (boxes >= 0).all() and (boxes <= [found.width, found.height] * 2).all()


# What a file system takes for a name, and what a model may call its classes.
_bytes = st.binary(max_size=60).map(lambda name: os.fsdecode(name.translate(None, b"/\0")))
_texts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=40)
_known = st.sampled_from(["classes", "data", "A", "a", "é", "e\u0301", "train", "a.jpg", " a ", "a%20b", "a b", "a-2"])
_suffixes = st.sampled_from([".png", ".PNG", ".jpg", ".png.txt", ".", ""])
file_names = st.builds(str.__add__, _bytes | _texts | _known, _suffixes).filter(lambda name: name.strip(".") != "")
class_names = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["no", "1", "1.5", "#", "a: b", '"', "'", "a,b;c", "<b>&amp;", "- a", "None", "\u202e", "=1", "\ufeff", "a\u2028b"]
)


def is_taken(name):
    try:
        check_classes([name])
    except ResightError:
        return False
    return True


@st.composite
def found_in_an_image(draw, classes, width):
    side = st.tuples(st.floats(0, 0.9), st.floats(0.03, 1))  # from, and how long
    sides = draw(st.lists(st.tuples(side, side), max_size=3))
    boxes = [
        [x * width, y * HEIGHT, min(x + wide, 1) * width, min(y + high, 1) * HEIGHT] for (x, wide), (y, high) in sides
    ]
    labels = [draw(st.integers(0, len(classes) - 1)) for _ in boxes]
    return detections(boxes, labels, classes, width)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30)
@given(data=st.data())
def test_what_is_written_is_read(format, data):
    classes = tuple(data.draw(st.lists(class_names.filter(is_taken), min_size=1, max_size=4, unique=True)))
    names = data.draw(st.lists(file_names, min_size=1, max_size=len(PNGS)))
    with TemporaryDirectory() as folder:
        images = {}
        for number, name in enumerate(names):
            path = Path(folder, str(number), name)
            path.parent.mkdir()
            path.write_bytes(PNGS[number])
            images[path] = data.draw(found_in_an_image(classes, WIDTH + number))
        source = read_source(written(Path(folder, "out"), format, classes, images))
    assert (source.format, source.problems) == (format, []) and len(source.annotations) == len(images)
    assert set(source.classes) == (set(classes) if format in ("coco", "yolo") else set())
    read = {annotation.width: annotation for annotation in source.annotations}
    for found in images.values():
        assert_equal(read[found.width], found, format)


@pytest.mark.parametrize("format", FORMATS)
def test_it_is_checked_and_built_without_a_complaint(format, tmp_path):
    images = {}
    for number, corners in enumerate([[[0, 0, 90, 61], [10.3, 20.7, 30.1, 40.9]], [], [[50, 2, 92, 40.123]]]):
        path = tmp_path / str(number) / "1.png"
        path.parent.mkdir()
        path.write_bytes(PNGS[number])
        images[path] = detections(corners, [1, 0][: len(corners)], ("stop", "a, b"), WIDTH + number)
    folder = written(tmp_path / "out", format, ("stop", "a, b"), images)
    report = check_data(folder)
    assert (report.errors, report.warnings) == ((), ())
    assert report.counts["boxes"] == 3 and report.counts["images"] == 3
    build_data(folder, tmp_path / "records", val_fraction=0, test_fraction=0)
    read = {record.width: record for split in open_records(tmp_path / "records").splits.values() for record in split}
    for found in images.values():
        record = read[found.width]
        assert list(record.label_texts) == found.names
        np.testing.assert_allclose(record.boxes, found.boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_with_an_exif_rotation_is_stored_as_its_boxes_are(format, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "1.jpg"
    path.write_bytes(encoded(40, 90, "JPEG", exif=exif))
    found = detections([[70, 10, 90, 35]], [0], ("stop",), 90, 40)
    folder = written(tmp_path / "out", format, ("stop",), {path: found})
    (annotation,) = read_source(folder).annotations
    assert probe_file(annotation.image).upright_size == (annotation.width, annotation.height) == (90, 40)
    assert probe_file(annotation.image).orientation == 1
    assert_equal(annotation, found, format)


def test_where_a_format_is_not_written_the_upright_image_is_a_png(tmp_path, monkeypatch):
    def fail(data, where):
        raise ResightError("cannot store the image upright", where=where)

    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "1.jpg").write_bytes(encoded(40, 90, "JPEG", exif=exif))
    monkeypatch.setattr("resight.datasets.export.upright", fail)
    folder = written(tmp_path / "out", "coco", ("stop",), {tmp_path / "1.jpg": detections([], [], ("stop",), 40, 90)})
    assert probe_file(folder / "images" / "1.png").format == "png"
    assert [annotation.filename for annotation in read_source(folder).annotations] == ["1.png"]


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_without_an_area_are_left_out(format, tmp_path):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    found = detections([[5, 5, 5, 20], [30, 40, 50, 60], [90, 0, 90, 0]], [0, 0, 0], ("stop",))
    (annotation,) = read_source(written(tmp_path / "out", format, ("stop",), {tmp_path / "1.png": found})).annotations
    assert [box.xyxy for box in annotation.boxes] == [pytest.approx((30, 40, 50, 60))]


def test_cocos_own_tools_read_it(tmp_path):
    from pycocotools.coco import COCO

    (tmp_path / "1.png").write_bytes(PNGS[0])
    found = detections([[30, 40, 50, 60.5], [0, 0, 9.5, 4]], [1, 0], ("stop", "yield"))
    folder = written(tmp_path / "out", "coco", ("stop", "yield"), {tmp_path / "1.png": found})
    coco = COCO(folder / "annotations" / "instances_default.json")
    assert coco.loadImgs([1]) == [{"id": 1, "file_name": "1.png", "width": 90, "height": 61}]
    assert [category["name"] for category in coco.loadCats([1, 2])] == ["stop", "yield"]
    assert coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=[2])) == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [30, 40, 20, 20.5], "area": 410, "iscrowd": 0, "score": 1}
    ]


def test_names_keep_apart_what_would_be_taken_for_one():
    taken = {}
    names = ["a.png", "a.png", "A.PNG", "a.jpg", "a%20b.png", "a b.png", "a-2.png", ".a.png", "x" * 300 + ".png"]
    plain = [plain_name(*os.path.splitext(name), taken) for name in names]
    assert plain[:8] == ["a.png", "a-2.png", "A-3.PNG", "a-4.jpg", "a%20b.png", "a b-2.png", "a-2-2.png", "a-5.png"]
    assert len(plain[8]) == 204
    assert plain_name("../b\\c:\n", ".png", taken) == "_b_c__.png"
    assert plain_name("..", ".png", taken) == "image.png"


@pytest.mark.parametrize("name", ["", " stop", "stop\n", "st\x00op", "a\nb", "\ud800", "\x85"])
def test_a_class_that_cannot_be_read_again_is_refused(name):
    with pytest.raises(ResightError, match="the class"):
        check_classes(["yield", name])


def test_crops_are_all_pixels_that_a_box_touches(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    classes = ("stop", "../a/b", "STOP")
    boxes = [[10.5, 20, 29.2, 40], [0, 0, 90, 61], [89.9, 60.9, 90, 61], [50, 50, 50, 50]]
    crops = Crops(tmp_path / "crops", classes)
    crops.add(Path("a/1.jpg"), image, detections(boxes, [0, 1, 0, 2], classes))
    crops.add(Path("b/1.png"), image, detections(boxes[:1], [0], classes))
    sizes = {path.relative_to(tmp_path / "crops").as_posix(): Image.open(path).size for path in tmp_path.rglob("*.jpg")}
    assert sizes == {
        "stop/1-1.jpg": (20, 20), "_a_b/1-2.jpg": (90, 61), "stop/1-3.jpg": (1, 1), "STOP-2/1-4.jpg": (1, 1),
        "stop/1-2-1.jpg": (20, 20),
    }  # fmt: skip
    shown = np.asarray(Image.open(tmp_path / "crops" / "_a_b" / "1-2.jpg")).astype(float)
    assert abs(shown.mean() - image.mean()) < 3
