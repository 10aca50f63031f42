import os

import numpy as np
import pytest
from PIL import Image

from resight.errors import ResightError
from resight.inference import inputs as module
from resight.inference.inputs import Inputs
from resight.io import object_store as storage


def files(*named, out=None):
    found = Inputs([*named], out)
    found.survey()
    return [source.file for source in found]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a/1.png", "b/1.JPG", "b/deep/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / name)
    (folder / "b" / "notes.txt").write_text("no picture")
    return folder


def test_folders_give_their_images_and_each_once(photos):
    a, b, deep = (str(photos / name) for name in ("a/1.png", "b/1.JPG", "b/deep/2.png"))
    assert files(photos) == [a, b, deep]
    assert files(b, str(photos), photos / "b") == [b, a, deep]
    assert files(photos, deep, photos / "a", photos) == [a, b, deep]
    assert files(photos / "b", photos) == [b, deep, a]
    assert files(photos / "b/notes.txt") == [str(photos / "b/notes.txt")]  # asked for by name: it will be read
    assert files(photos, photos / "b/notes.txt")[3:] == [str(photos / "b/notes.txt")]


def test_the_order_is_that_of_the_names_on_the_paths(tmp_path, monkeypatch):
    """Also of a folder so large that it is read in several windows."""
    names = ["10.jpg", "9.jpg", "a-1/x.jpg", "a/x.jpg", "a.jpg", "a/B/1.jpg", "Z.jpg", "é.jpg", "b/.hidden.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = [str(path) for path in sorted(tmp_path / name for name in names)]
    assert files(tmp_path) == wanted
    for window in (1, 2, 3, 7):
        monkeypatch.setattr(module, "WINDOW", window)
        assert files(tmp_path) == wanted
    monkeypatch.chdir(tmp_path)
    assert files(".") == [os.path.relpath(path) for path in wanted]


def test_links_to_folders_are_followed_where_they_are_named_only(tmp_path):
    for name in ("other/1.jpg", "photos/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    link = tmp_path / "photos" / "link"
    link.symlink_to(tmp_path / "other")
    assert files(tmp_path / "photos") == [str(tmp_path / "photos/2.jpg")]
    assert files(tmp_path / "photos", link) == [str(tmp_path / "photos/2.jpg"), str(link / "1.jpg")]
    assert files(tmp_path / "photos", link / "1.jpg") == [str(tmp_path / "photos/2.jpg"), str(link / "1.jpg")]


def test_links_that_lead_nowhere_are_inputs_that_cannot_be_read(tmp_path):
    for name, target in (("a.jpg", "a.jpg"), ("b.jpg", "c"), ("c", "b.jpg"), ("d.jpg", "none"), ("e.jpg", "f")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "f").touch()
    (tmp_path / "up").symlink_to("..")
    named = ["a.jpg", "b.jpg", "d.jpg", "e.jpg"]
    assert files(tmp_path) == [str(tmp_path / name) for name in named]
    for source in list(Inputs([tmp_path]))[:3]:
        with pytest.raises(ResightError, match="cannot be read"):
            source.encoded()


def test_a_part_is_what_has_its_numbers(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.jpg").touch()
    found = Inputs([tmp_path])
    survey = found.survey()
    assert survey.count == 7 and survey == Inputs([tmp_path]).survey()
    assert [os.path.basename(source.file) for source in found.within(survey, range(2, 4))] == ["2.jpg", "3.jpg"]
    (tmp_path / "0.jpg").rename(tmp_path / "8.jpg")
    assert found.survey() != survey
    with pytest.raises(ResightError, match="came or went"):
        list(found.within(survey, range(2, 4)))


def test_what_cannot_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", os.devnull):
        with pytest.raises(ResightError, match="is neither a file nor a folder"):
            files(path)


def test_a_folder_that_cannot_be_read_is_not_left_out(photos, monkeypatch):
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(ResightError, match="deep: cannot be read: Permission denied"):
        files(photos)


def test_inputs_that_are_not_there_are_all_named(photos, tmp_path):
    with pytest.raises(ResightError) as caught:
        files(photos, tmp_path / "x", tmp_path / "y.jpg", "drive.mp4")
    assert all(name in str(caught.value) for name in (str(tmp_path / "x"), str(tmp_path / "y.jpg"), "drive.mp4"))
    with pytest.raises(ResightError, match="holds no image"):
        files(tmp_path)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("0", "resight.load"),
        ("/dev/video0", "resight.load"),
        ("https://example.com/1.jpg", "Download"),
        ("rtsp://camera/1", "Download"),
        ("photos/*.jpg", "matches"),
    ],
)
def test_what_is_no_image_is_refused_with_the_way_to_images(given, remedy):
    with pytest.raises(ResightError) as caught:
        files(given)
    assert caught.value.where == given and remedy in caught.value.fix


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    for names, message, remedy in (([], "is empty", ".jpg"), (["a.mp4"], "holds no image", "name them")):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(ResightError, match=message) as caught:
            files(tmp_path)
        assert remedy in caught.value.fix


def test_what_a_folder_holds_beside_images_is_counted(tmp_path, caplog):
    for name in ("a.jpg", "b.jfif", "c.mp4", "deep/d.MP4", "e.dng", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files(tmp_path) == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jfif")]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "2 .mp4" in said and "1 .dng" in said and ".txt" not in said and "name videos" in said


def test_a_store_is_listed_a_page_at_a_time(s3, tmp_path, monkeypatch, caplog):
    for name in ("a/1.jpg", "a/2.PNG", "a-1/3.jpg", "a/notes.txt", "b.jpg"):
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(name.encode())
    address = s3.put(tmp_path / "there", "photos")
    wanted = [f"{address}/{name}" for name in ("a-1/3.jpg", "a/1.jpg", "a/2.PNG", "b.jpg")]
    monkeypatch.setattr(storage, "_PAGE", 2)
    assert files(f"{address}/") == wanted
    assert files(f"{address}/a", address) == [*wanted[1:3], wanted[0], wanted[3]]
    assert files(f"{address}/b.jpg", address, f"{address}/a") == [wanted[3], *wanted[:3]]
    survey = Inputs([address]).survey()
    assert [source.encoded() for source in Inputs([f"{address}/a"])] == [b"a/1.jpg", b"a/2.PNG"]
    storage.write(wanted[0], b"another")
    assert Inputs([address]).survey().digest != survey.digest
    with pytest.raises(ResightError, match="no such object, nor any below it"):
        files(f"{address}/none")
    monkeypatch.setenv("RESIGHT_MAX_IMAGE_MB", "1e-6")
    with pytest.raises(ResightError, match="too large for an image"):
        next(iter(Inputs([address]))).encoded()
