import io

import numpy as np
import pytest
from PIL import Image

from fixtures.photographs import photograph, picture
from resight import Annotation, Box, ResightError, write_records
from resight.dialect import load_config
from resight.io.images import decode
from resight.records.example import Record, encode_example
from resight.records.tfrecord import TFRecordWriter
from resight.reporting.data_columns import read_columns

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"
STOP, GO = Box("stop", 10, 20, 50, 60, difficult=True), Box("go", 100, 10, 150.5, 40, occluded=True, crowd=True)


def read(path, exif="auto"):
    return read_columns(path, "auto", exif, load_config())


def table(folder, rows, images):
    folder.mkdir()
    for name, data in images.items():
        (folder / name).write_bytes(data)
    (folder / "annotations.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def test_of_records(tmp_path):
    images = [picture(0, STOP, GO, split="train", group="v"), picture(1, split="train"), picture(2, GO, split="test")]
    write_records(images, tmp_path / "records")
    data = read(tmp_path / "records")
    assert (data.format, data.classes, data.parts) == ("records", ("go", "stop"), ["train", "test"])
    assert (data.files, data.splits) == (["0.jpg", "1.jpg", "2.jpg"], ["train", "train", "test"])
    assert data.groups == ["v", None, None] and data.sizes.tolist() == [[160, 120]] * 3
    assert data.image.tolist() == [0, 0, 2] and data.label.tolist() == [1, 0, 0]
    np.testing.assert_allclose(data.boxes, [box.xyxy for box in (STOP, GO, GO)], atol=1e-4)
    assert {name: flag.tolist() for name, flag in data.flags.items()} == {
        "crowd": [False, True, True],
        "difficult": [True, False, False],
        "occluded": [False, True, True],
    }
    for at, image in enumerate(images):
        np.testing.assert_array_equal(data.pixels(at), decode(image.image))
    assert not +data.left_out


def test_of_a_source(tmp_path):
    rows = ["a.jpg,160,120,stop,10,20,50,60", "b.jpg,160,120,go,100,10,150,40", "a.jpg,160,120,go,1,2,3,4"]
    data = read(table(tmp_path / "s", rows, {"a.jpg": photograph(1), "b.jpg": photograph(2)}))
    assert (data.format, data.classes, data.parts) == ("csv", ("go", "stop"), [None])
    assert data.files == ["a.jpg", "b.jpg"] and data.image.tolist() == [0, 0, 1] and data.label.tolist() == [1, 0, 0]
    assert data.boxes.tolist() == [[10, 20, 50, 60], [1, 2, 3, 4], [100, 10, 150, 40]]
    np.testing.assert_array_equal(data.pixels(1), decode(photograph(2)))


def test_what_cannot_be_trained_on_is_left_out_and_counted(tmp_path):
    boxes = ("10,20,50,60", "50,60,10,20", "1,1,900,50")
    rows = [f"a.jpg,160,120,stop,{corners}" for corners in boxes] + ["gone.jpg,160,120,stop,1,1,9,9"]
    data = read(table(tmp_path / "s", rows, {"a.jpg": photograph(1)}))
    assert data.files == ["a.jpg"] and len(data.boxes) == 1
    assert data.left_out == {"bad_box": 1, "outside_box": 1, "missing_image": 1}


def test_bad_boxes_of_records_are_left_out_and_others_cut_off(tmp_path):
    corners = np.array([(10, 20, 50, 60), (50, 60, 10, 20), (np.nan, 1, 2, 3), (-1, 100, 30, 121), (1, 1, 9, 9)])
    flags, texts = np.zeros(5, bool), ("stop",) * 4 + ("unheard",)
    shape = ("a.jpg", "a", 160, 120, corners.astype(np.float32), texts, np.array([1, 1, 1, 1, 9]))
    record = Record(photograph(1), "jpeg", *shape, flags, flags, flags, np.full(5, np.nan, np.float32))
    with TFRecordWriter(tmp_path / "train.tfrecord") as file:
        file.write(encode_example(record))
    (tmp_path / "map.pbtxt").write_text("item { id: 1 name: 'stop' }")
    data = read(tmp_path)
    np.testing.assert_allclose(data.boxes, [(10, 20, 50, 60), (0, 100, 30, 120)], atol=1e-4)
    assert data.left_out == {"bad_box": 2, "unknown_class": 2}  # one says the box, one the label map


def test_a_turned_photograph_is_taken_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.open(io.BytesIO(photograph(1, 120, 160))).save(out, "JPEG", exif=exif)
    folder = table(tmp_path / "s", ["a.jpg,120,160,stop,10,20,50,60"], {"a.jpg": out.getvalue()})
    with pytest.raises(ResightError, match="has an EXIF rotation"):
        read(folder)
    data = read(folder, exif="stored")
    assert data.sizes.tolist() == [[160, 120]] and data.pixels(0).shape == (120, 160, 3)
    assert data.boxes.tolist() == [[100, 10, 140, 50]]  # (x, y) is at (160 - y, x)


def test_fingerprints_tell_images_that_look_the_same(tmp_path):
    images = [Annotation(photograph(seed, quality=q), filename=f"{n}.jpg") for n, (seed, q) in
              enumerate([(1, 90), (2, 90), (1, 40)])]  # fmt: skip
    rows = [f"{n}.jpg,160,120,stop,1,1,9,9" for n in range(4)]
    files = {image.filename: image.image for image in images} | {"3.jpg": photograph(4)[:900]}
    data = read(table(tmp_path / "s", rows, files))
    first, second, same, damaged = data.fingerprints()
    assert first is not None and second is not None and damaged is None
    assert (first ^ same).bit_count() <= 4 < (first ^ second).bit_count()
    assert data.left_out == {"unreadable_image": 1}
