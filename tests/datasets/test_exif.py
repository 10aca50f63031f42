"""In which frame boxes are, from what a source shows of it: against PIL's own turning, and case by case."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from resight import Annotation, Box, ResightError, build_data, check_data, show_data, write_records
from resight.datasets.exif import Habit, decide, shown_boxes
from resight.io.images import ImageInfo
from resight.records.example import Record, encode_example
from resight.records.reader import open_records
from resight.records.tfrecord import TFRecordWriter

WIDE, TALL = (640, 480), (480, 640)
BOTH = (50, 60, 100, 120)  # a box within either frame
SHOWN_ONLY, STORED_ONLY = (100, 500, 200, 600), (500, 100, 600, 200)


def jpeg(orientation, size=(80, 60)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.new("RGB", size, "gray").save(out, "JPEG", exif=exif)
    return out.getvalue()


def rotated(*corners, name="a.jpg", said=(None, None), orientation=6, size=WIDE):
    boxes = [Box("stop", *map(float, box)) for box in corners]
    return Annotation("none", boxes, *said, filename=name), ImageInfo(*size, "jpeg", "RGB", orientation)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_turn_as_their_image(orientation):
    drawn = np.zeros((120, 300), np.uint8)
    drawn[10:40, 200:290] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(drawn).save(out, "PNG", exif=exif)
    seen = ImageOps.exif_transpose(Image.open(out)).getbbox()
    annotation, image = rotated((200, 10, 290, 40), orientation=orientation, size=(300, 120))
    assert [box.xyxy for box in shown_boxes(annotation, image, "stored")] == [seen]
    assert shown_boxes(annotation, image, "upright") == annotation.boxes
    # As shares of the sides, which a reader has multiplied by the size of the image as shown.
    width, height = image.upright_size
    as_shares = Box("stop", 200 / 300 * width, 10 / 120 * height, 290 / 300 * width, 40 / 120 * height)
    annotation = Annotation("none", [as_shares], width, height, filename="a.jpg")
    (box,) = shown_boxes(annotation, image, "stored", Habit(shares=True))
    assert box.xyxy == pytest.approx(seen)


SIZED = Habit("upright", "its own habit", sized=True)
SHOWN, STORED = Habit("upright", "its own habit"), Habit("stored", "its own habit")


@pytest.mark.parametrize(
    ("images", "habit", "frame"),
    [
        ([rotated(SHOWN_ONLY)], None, "upright"),
        ([rotated(STORED_ONLY)], None, "stored"),
        ([rotated(SHOWN_ONLY, said=WIDE)], None, "upright"),  # the size was read from the file, the boxes were drawn
        ([rotated((1, 1, 489, 470))], None, "stored"),
        ([rotated(BOTH, said=TALL)], None, "upright"),
        ([rotated(BOTH, said=WIDE)], None, None),  # a stated size of the stored pixels tells nothing by itself
        ([rotated(BOTH, said=WIDE)], SIZED, "stored"),
        ([rotated(BOTH, said=TALL)], SIZED, "upright"),
        ([rotated(BOTH)], SHOWN, "upright"),
        ([rotated(BOTH)], STORED, "stored"),
        ([rotated(BOTH, said=WIDE)], SHOWN, "upright"),
        ([rotated(SHOWN_ONLY)], STORED, None),
        ([rotated(BOTH, orientation=3)], None, None),
        ([rotated(BOTH, orientation=3)], SIZED, "upright"),
        ([rotated(BOTH, size=(640, 640))], None, None),
        # What one image tells counts for the others of the source.
        ([rotated(BOTH, orientation=3), rotated(SHOWN_ONLY, name="b.jpg")], None, "upright"),
        ([rotated(BOTH, size=(640, 640)), rotated(BOTH), rotated(STORED_ONLY)], None, "stored"),
        ([rotated(SHOWN_ONLY), rotated(STORED_ONLY, name="b.jpg")], None, None),
        ([rotated(STORED_ONLY, said=TALL)], None, None),
        ([rotated(SHOWN_ONLY, STORED_ONLY)], None, None),
        # Outside of both, by little, without area, no numbers: nothing is told.
        ([rotated((700, 700, 800, 800), (1, 1, 481, 470), (500, 9, 500, 99), (500, 9, float("nan"), 99))], None, None),
        ([rotated(STORED_ONLY)], Habit(shares=True), None),  # shares of the sides fit both
    ],
)
def test_the_evidence_decides_for_the_whole_source(images, habit, frame):
    decision = decide(images, "auto", habit)
    assert decision.frame == frame and decision.asks == (frame is None)
    assert (decision.images, decision.boxes) == (len(images), sum(len(a.boxes) for a, _ in images))
    for choice in ("stored", "upright"):
        assert decide(images, choice, habit).frame == choice


def test_what_was_done_is_said_with_the_evidence():
    images = [rotated(BOTH, BOTH), rotated(STORED_ONLY, name="b.jpg")]
    said = decide(images).text()
    assert said.startswith("3 boxes in 2 images with an EXIF rotation were rotated with their images: ")
    assert "b.jpg (500, 100, 600, 200) fits only the pixels as stored" in said
    assert decide([rotated(SHOWN_ONLY)]).text().startswith("1 box in 1 image with an EXIF rotation was drawn on the ")
    assert decide([]).text() == "" and not decide([]).asks


def test_the_question_names_examples_and_how_to_look():
    error = decide([rotated(BOTH, name=f"{n}.jpg") for n in range(5)]).question("my photos")
    assert "5 images with 5 boxes" in error.message and "0.jpg (orientation 6)" in error.message
    assert "and 2 more" in error.message
    for frame in ("stored", "upright"):
        assert f"resight data show 'my photos' --exif {frame} -o look-{frame}" in error.fix
    both = decide([rotated(SHOWN_ONLY), rotated(STORED_ONLY, name="b.jpg")]).question("d").message
    assert "is contradictory" in both and "a.jpg" in both and "b.jpg" in both


def source(folder, *corners, orientation=6):
    """A table of images of 80 x 60 as stored."""
    rows = []
    for number, box in enumerate(corners):
        (folder / f"{number}.jpg").write_bytes(jpeg(orientation))
        rows.append(f"{number}.jpg,80,60,stop,{box}")
    (folder / "labels.csv").write_text("\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *rows]))
    return folder


def stored(path):
    (split,) = open_records(path).splits.values()
    return {record.filename: np.round(record.boxes.astype(float), 2).tolist() for record in split.summaries}


def test_check_build_and_show_follow_one_decision(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    source(folder, "10,20,30,40", "10,62,30,75")
    (warning,) = [p for p in check_data(folder).warnings if p.kind == "exif_frame"]
    report = build_data(folder, tmp_path / "out", test_fraction=0, val_fraction=0)
    assert "drawn on the images as shown" in warning.message and warning.message in report.notes
    assert stored(tmp_path / "out") == {"0.jpg": [[10, 20, 30, 40]], "1.jpg": [[10, 62, 30, 75]]}
    assert report.mended == {"rotated_images": 2}
    assert len(show_data(folder, tmp_path / "look")) == 2


def test_where_nothing_tells_all_three_ask_whatever_on_bad_says(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    source(folder, "10,20,30,40", orientation=3)
    (error,) = check_data(folder).errors
    assert error.kind == "exif_rotation" and "--exif stored" in error.message
    for ask in (
        lambda: build_data(folder, tmp_path / "out", on_bad="skip"),
        lambda: show_data(folder, tmp_path / "look"),
    ):
        with pytest.raises(ResightError, match="orientation 3") as caught:
            ask()
        assert "--exif upright" in caught.value.fix
    assert not (tmp_path / "out").exists()
    one_split = {"test_fraction": 0, "val_fraction": 0}
    report = build_data(folder, tmp_path / "turned", exif="stored", **one_split)
    assert stored(tmp_path / "turned") == {"0.jpg": [[50, 20, 70, 40]]}
    assert report.mended == {"turned_boxes": 1, "rotated_images": 1}
    build_data(folder, tmp_path / "kept", exif="upright", **one_split)
    assert stored(tmp_path / "kept") == {"0.jpg": [[10, 20, 30, 40]]}
    assert not check_data(folder, exif="upright").errors


def test_rotated_images_without_boxes_need_no_decision(tmp_path):
    items = [
        Annotation(jpeg(3), filename="empty.jpg"),
        Annotation(jpeg(1), [Box("stop", 10, 20, 30, 40)], filename="plain.jpg"),
    ]
    report = write_records(items, tmp_path / "out", test_fraction=0, val_fraction=0)
    assert report.images == {"train": 2} and report.mended == {"rotated_images": 1}


def test_from_python_the_question_names_the_argument(tmp_path):
    items = [Annotation(jpeg(6), [Box("stop", 10, 20, 30, 40)], filename="a.jpg")]
    with pytest.raises(ResightError, match="1 image with 1 box") as caught:
        write_records(items, tmp_path / "out")
    assert 'exif="stored"' in caught.value.fix and caught.value.where == "write_records"
    write_records(items, tmp_path / "out", exif="stored", test_fraction=0, val_fraction=0)
    assert stored(tmp_path / "out") == {"a.jpg": [[20, 10, 40, 30]]}


def test_show_with_a_frame_draws_the_rotated_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    source(folder, *["10,20,30,40"] * 8)
    for number in (0, 1, 2, 4, 5, 6, 7):
        (folder / f"{number}.jpg").write_bytes(jpeg(1))
    drawn = show_data(folder, tmp_path / "look", exif="stored", limit=4)
    assert [path.rpartition("-")[2] for path in drawn] == ["3.jpg"]


@pytest.mark.parametrize("verb", [check_data, build_data, show_data])
def test_another_frame_is_refused(tmp_path, verb):
    with pytest.raises(ResightError, match="Did you mean 'upright'"):
        verb(*[source(tmp_path, "1,2,3,4"), tmp_path / "out"][: 1 if verb is check_data else 2], exif="uprigth")


def test_boxes_of_records_are_on_the_pixels_as_stored_as_tfod_decodes_them(tmp_path):
    (tmp_path / "theirs").mkdir()
    none = np.zeros(1, bool)
    found = Record(
        jpeg(6), "jpeg", "a.jpg", "a", 80, 60, np.array([[10, 20, 30, 40]]), ("stop",), np.array([1]),
        none, none, none, np.full(1, np.nan),
    )  # fmt: skip
    with TFRecordWriter(tmp_path / "theirs/train.record") as writer:
        writer.write(encode_example(found))
    (tmp_path / "theirs/map.pbtxt").write_text("item { id: 1 name: 'stop' }")
    one_split = {"test_fraction": 0, "val_fraction": 0}
    report = build_data(tmp_path / "theirs", tmp_path / "out", **one_split)
    assert stored(tmp_path / "out") == {"a.jpg": [[20, 10, 40, 30]]} and report.mended["turned_boxes"] == 1
    assert any("without their rotation" in note for note in report.notes)
    # Records hold shares of the sides, which fit the image as shown in its own size.
    build_data(tmp_path / "theirs", tmp_path / "shown", exif="upright", **one_split)
    assert stored(tmp_path / "shown") == {"a.jpg": [[7.5, 26.67, 22.5, 53.33]]}
    assert not check_data(tmp_path / "theirs").errors
