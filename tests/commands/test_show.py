import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resight import Annotation, Box, ResightError, show_data, write_records
from resight.commands import show
from resight.dialect import load_config
from resight.drawing import colour_of

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def jpeg(width: int = 320, height: int = 240, grey: int = 127, orientation: int = 1) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (grey, grey, grey)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def table(folder: Path, rows: list[str], images: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / name).write_bytes(data)
    (folder / "annotations.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


@pytest.fixture
def source(tmp_path) -> Path:
    """Twelve images, ever brighter."""
    names = [f"{n:02}.jpg" for n in range(12)]
    rows = [f"{name},320,240,stop,50,60,120,130" for name in names]
    return table(tmp_path / "source", rows, {name: jpeg(grey=20 * n) for n, name in enumerate(names)})


@pytest.fixture
def records(tmp_path) -> Path:
    images = [
        Annotation(jpeg(grey=20 * n), (Box("stop", 50, 60, 120, 130),), filename=f"{n}.jpg", split=split)
        for n, split in enumerate(["train"] * 5 + ["test"] * 2)
    ]
    write_records(images, tmp_path / "records")
    return tmp_path / "records"


def box_in(path: str, name: str = "stop") -> list[int]:
    """Corners of the largest hollow of the class's colour: where the box was drawn."""
    pixels = np.asarray(Image.open(path)).astype(int)
    near = (abs(pixels - np.array(colour_of(name))).max(axis=2)) < 40
    columns = np.flatnonzero(near.sum(axis=0) > 0.5 * near.sum(axis=0).max())
    rows = np.flatnonzero(near.sum(axis=1) > 0.5 * near.sum(axis=1).max())
    return [columns[0], rows[0], columns[-1], rows[-1]]


def test_pictures_are_spread_over_the_whole_source(source, tmp_path):
    written = show_data(source, tmp_path / "look", limit=4)
    assert [Path(path).name for path in written] == ["0001-00.jpg", "0002-03.jpg", "0003-06.jpg", "0004-09.jpg"]
    assert sorted(map(str, (tmp_path / "look").iterdir())) == written
    assert all(Image.open(path).size == (320, 240) for path in written)


def test_boxes_are_drawn_where_they_are(source, records, tmp_path):
    for data, out in ((source, "a"), (records, "b")):
        for path in show_data(data, tmp_path / out, limit=2):
            x1, _, x2, y2 = box_in(path)  # the label lies above the box
            assert np.allclose([x1, x2, y2], [50, 120, 130], atol=4)


def test_a_turned_photograph_is_drawn_upright_with_its_boxes(tmp_path):
    # The boxes were drawn on the image as stored (240 x 320); upright, (x, y) is at (320 - y, x).
    rows = ["1.jpg,240,320,stop,100,20,180,60"]
    source = table(tmp_path / "s", rows, {"1.jpg": jpeg(240, 320, orientation=6)})
    (path,) = show_data(source, tmp_path / "look", exif="stored")
    assert Image.open(path).size == (320, 240)
    x1, _, x2, y2 = box_in(path)
    assert np.allclose([x1, x2, y2], [260, 300, 180], atol=4)


def test_the_question_which_frame_it_is_names_the_whole_path(tmp_path, monkeypatch):
    source = table(tmp_path / "s", ["1.jpg,240,320,stop,100,20,180,60"], {"1.jpg": jpeg(240, 320, orientation=6)})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResightError, match="has an EXIF rotation") as caught:
        show_data("s", "look")
    assert caught.value.where == str(source) and f"show {source} --exif stored" in caught.value.fix


def test_a_split_is_chosen_by_its_name(records, tmp_path):
    assert len(show_data(records, tmp_path / "train")) == 5
    assert len(show_data(records, tmp_path / "test", split="test")) == 2
    with pytest.raises(ResightError, match="train, test"):
        show_data(records, tmp_path / "none", split="val")


def test_as_training_sees_them(records, tmp_path):
    config = load_config(overrides={"model.min_size": 160, "model.max_size": 200})
    written = show_data(records, tmp_path / "look", augment=True, limit=3, config=config)
    assert len(written) == 3
    assert all(max(Image.open(path).size) <= 200 * 1.6 for path in written)
    again = show_data(records, tmp_path / "again", augment=True, limit=3, config=config)
    assert [Path(a).read_bytes() for a in written] == [Path(b).read_bytes() for b in again]


def test_training_sees_records_only(source, tmp_path):
    with pytest.raises(ResightError, match="resight data build"):
        show_data(source, tmp_path / "look", augment=True)


def test_damaged_images_are_named_and_the_others_drawn(source, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("resight"), "propagate", True)  # the command line turns it off
    (source / "03.jpg").write_bytes(jpeg()[:500])
    (source / "06.jpg").unlink()
    assert len(show_data(source, tmp_path / "look")) == 10
    assert "03.jpg" in caplog.text and "06.jpg" in caplog.text


def test_where_nothing_can_be_drawn_the_way_to_the_reasons_is_told(tmp_path):
    path = table(tmp_path / "s", ["1.jpg,320,240,stop,10,10,90,50"], {"1.jpg": jpeg()[:500]})
    with pytest.raises(ResightError, match="no image to draw") as caught:
        show_data(path, tmp_path / "look")
    assert f"resight data check {path}" in caught.value.fix


def test_bad_boxes_are_drawn_as_they_are(tmp_path):
    rows = [f"1.jpg,320,240,stop,{corners}" for corners in ("300,10,900,50", "80,80,20,20", "nan,1,2,3")]
    assert len(show_data(table(tmp_path / "s", rows, {"1.jpg": jpeg()}), tmp_path / "look")) == 1


def test_only_pictures_of_its_own_are_replaced(source, tmp_path):
    out = tmp_path / "look"
    show_data(source, out, limit=8)
    with pytest.raises(ResightError, match="--force"):
        show_data(source, out, limit=2)
    assert len(show_data(source, out, limit=2, force=True)) == len(list(out.iterdir())) == 2
    (out / "holiday.jpg").write_bytes(jpeg())
    with pytest.raises(ResightError, match=r"holiday\.jpg"):
        show_data(source, out, limit=2, force=True)
    assert len(list(out.iterdir())) == 3


def test_an_output_that_is_a_file_is_refused(source, tmp_path):
    (tmp_path / "look").write_text("")
    with pytest.raises(ResightError):
        show_data(source, tmp_path / "look", force=True)
    with pytest.raises(ResightError):
        show_data(source, tmp_path / "look" / "deeper")


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing_behind(source, tmp_path, monkeypatch, end):
    show_data(source, tmp_path / "look", limit=3)
    drawn: list[int] = []

    def stop_at_third(image, boxes, names, **_):
        drawn.append(1)
        if len(drawn) == 3:
            raise end
        return image

    monkeypatch.setattr(show, "draw", stop_at_third)
    with pytest.raises((KeyboardInterrupt, ResightError)):
        show_data(source, tmp_path / "look", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["look", "source"]
    assert len(list((tmp_path / "look").iterdir())) == 3


def test_the_format_can_be_named(source, tmp_path):
    (source / "more.xml").write_text("<annotation><filename>00.jpg</filename></annotation>")
    with pytest.raises(ResightError, match="2 formats"):
        show_data(source, tmp_path / "look")
    assert len(show_data(source, tmp_path / "look", format="csv")) == 12


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"path": 3}, "path is 3"),
        ({"out": ""}, "out is empty"),
        ({"limit": "3"}, "limit is '3'"),
        ({"limit": 0}, "is 0"),
        ({"split": ""}, "split is empty"),
        ({"config": "a.toml"}, "config is 'a.toml'"),
    ],
)
def test_wrong_arguments_are_named(source, tmp_path, given, named):
    with pytest.raises(ResightError, match=named):
        show_data(**{"path": source, "out": tmp_path / "look"} | given)


def test_a_wrong_limit_is_told_before_the_data_is_read(tmp_path):
    with pytest.raises(ResightError, match="at least 1"):
        show_data(tmp_path / "nowhere", tmp_path / "look", limit=0)


def test_one_picture_of_them_all(source, tmp_path):
    (written,) = show_data(source, tmp_path / "look", limit=5, sheet=True)
    assert written == str(tmp_path / "look" / "sheet.jpg")
    sheet = Image.open(written)
    # Three columns and two rows of pictures of 320 x 240, each above its name.
    assert sheet.size == (3 * (320 + 6) + 6, 2 * (240 + 16 + 6) + 6)
    # The third is 04.jpg, with its box.
    place = sheet.crop((6 + 2 * 326, 6, 6 + 2 * 326 + 320, 6 + 240))
    assert abs(np.asarray(place)[200, 300].astype(int) - 80).max() < 4
    place.save(tmp_path / "third.png")
    x1, _, x2, y2 = box_in(str(tmp_path / "third.png"))
    assert np.allclose([x1, x2, y2], [50, 120, 130], atol=4)
    assert len(show_data(source, tmp_path / "look", limit=5, force=True)) == 5  # it is known as its own


def test_boxes_of_a_small_picture_are_where_they_are(tmp_path):
    rows = ["1.jpg,1600,1200,stop,400,300,800,600"]
    source = table(tmp_path / "s", rows, {"1.jpg": jpeg(1600, 1200)})
    (written,) = show_data(source, tmp_path / "look", sheet=True, no_labels=True)
    sheet = Image.open(written)
    assert sheet.size == (360 + 12, 270 + 16 + 12)
    sheet.crop((6, 6, 366, 276)).save(tmp_path / "first.png")
    x1, y1, x2, y2 = box_in(str(tmp_path / "first.png"))
    assert np.allclose([x1, y1, x2, y2], [90, 67, 180, 135], atol=4)
