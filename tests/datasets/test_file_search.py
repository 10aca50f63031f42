"""What a name may mean: every rung, their order, and what no name can mean for certain."""

import os
import unicodedata

import pytest

from resight.datasets import file_search
from resight.datasets.file_search import FileSearch, did_you_mean


@pytest.fixture
def search(tmp_path):
    """``search("images/a.jpg", ...)``: a search among files made for it, by names relative to the test's folder."""

    def among(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        files = FileSearch(f"{tmp_path}/{name}" for name in names)

        def find(name, *folders, **options):
            match = files.find(name, [os.path.normpath(tmp_path / folder) for folder in folders or ("",)], **options)
            return (
                match.path.removeprefix(f"{tmp_path}/"),
                match.rung,
                sorted(path.removeprefix(f"{tmp_path}/") for path in match.candidates),
            )

        return find

    return among


E_COMPOSED = "é"
E_APART = unicodedata.normalize("NFD", E_COMPOSED)


@pytest.mark.parametrize(
    ("name", "file", "rung"),
    [
        ("a.jpg", "images/a.jpg", 0),
        ("./a.jpg", "images/a.jpg", 0),
        ("x/../a.jpg", "images/a.jpg", 0),
        ("sub/a b#c+d&e%.jpg", "images/sub/a b#c+d&e%.jpg", 0),
        ("sub\\a.jpg", "images/sub/a.jpg", 0),
        ("a", "images/a.jpg", file_search.STEM),
        ("a.v2", "images/a.v2.png", file_search.STEM),
        ("a.jpg", "images/a.JPG", file_search.SAME_SUFFIX),
        ("a.jpeg", "images/a.jpg", file_search.SAME_SUFFIX),
        ("a.jpg", "images/a.png", file_search.SUFFIX),
        ("a.heic", "images/a.jpg", file_search.SUFFIX),
        ("IMG.jpg", "images/img.jpg", file_search.CASE),
        ("Sub/a.jpg", "images/sub/a.jpg", file_search.CASE),
        (f"{E_COMPOSED}.jpg", f"images/{E_APART}.jpg", file_search.UNICODE),
        (f"{E_APART}.jpg", f"images/{E_COMPOSED}.jpg", file_search.UNICODE),
        ("d%C3%A9cran%201.png", "images/décran 1.png", file_search.PERCENT),
        ("décran.png", "images/d%C3%A9cran.png", file_search.PERCENT),
        (f"D%C3%A9cran{E_APART}", f"images/décran{E_COMPOSED}.JPG", file_search.SEVERAL),
        ("/home/me/set/images/a.jpg", "images/a.jpg", file_search.PATH),
        ("C:\\set\\images\\a.JPG", "images/a.jpg", file_search.PATH),
        ("http://host/val2017/a%20b.jpg?size=2", "images/a b.jpg", file_search.PATH),
        ("data/set/a.jpg", "images/a.jpg", file_search.PATH),
        ("a.jpg", "elsewhere/deep/a.jpg", 0),
        ("deep/a", "elsewhere/deep/a.jpg", file_search.STEM),
    ],
)
def test_every_rung(search, name, file, rung):
    assert search(file, "images/other.jpg", "other/a0.jpg")(name, "images") == (file, rung, [])


def test_the_least_difference_counts_and_the_folder_before_the_elsewhere(search):
    find = search("a.jpg", "a.png", "A.JPG", "b.JPG", "b.png", "c.png", "far/c.jpg", "far/d.jpg", "near/d.jpg")
    assert find("a.jpg") == ("a.jpg", 0, [])
    assert find("A.jpg") == ("A.JPG", file_search.SAME_SUFFIX, [])
    assert find("b.jpg") == ("b.JPG", file_search.SAME_SUFFIX, [])
    assert find("c.jpg") == ("c.png", file_search.SUFFIX, [])
    assert find("d.jpg", "near", "far") == ("near/d.jpg", 0, [])


def test_no_telling_which(search):
    find = search("a.jpg", "a.png", "x/b.jpg", "y/b.jpg", "train/z/c.jpg", "test/z/c.jpg")
    assert find("a") == find("a.gif") == ("", 0, ["a.jpg", "a.png"])
    assert find("b.jpg") == find("/home/b.jpg") == ("", 0, ["x/b.jpg", "y/b.jpg"])
    assert find("c.jpg") == ("", 0, ["test/z/c.jpg", "train/z/c.jpg"])
    assert find("c.jpg", near=["train"])[0] == find("C:/train/c.jpg")[0] == "train/z/c.jpg"


def test_what_is_missing_is_not_replaced_by_a_namesake(search):
    find = search("val/1.jpg", "train/2.jpg", "masks/3.png", "images/train/4.jpg")
    assert find("train/1.jpg") == find("/data/train/1.jpg") == ("", 0, [])  # the folder is here, without the image
    assert find("3.jpg", "images") == find("3.jpg") == ("", 0, [])  # a mask
    assert find("3.jpg", "masks")[0] == "masks/3.png"
    assert find("/data/images/4.jpg")[0] == "images/train/4.jpg"
    assert find("images/4.jpg", elsewhere=False) == find("none.jpg") == find("", "images") == find("..") == ("", 0, [])


def test_names_and_folders_without_end(search, tmp_path):
    find = search("b.jpg", *(f"{at:03}/img.jpg" for at in range(200)))
    long = "a/" * 50_000
    assert find(f"/{long}b.jpg")[:2] == find(f"{long}b.jpg")[:2] == ("b.jpg", file_search.PATH)
    assert find("../" * 50_000 + "b.jpg")[0] == "b.jpg" and find("x" * 100_000)[0] == ""
    assert did_you_mean(f"{tmp_path}/{long}b.jpg") == ""
    assert find("IMG.jpg", "007")[0] == "007/img.jpg" and len(find("IMG.jpg")[2]) == 64


def test_the_nearest_name_is_suggested(search, tmp_path):
    search("images/IMG_10.jpg", *(f"images/{at}.jpg" for at in range(100)))
    assert f"Did you mean {tmp_path}/images/IMG_10.jpg?" == did_you_mean(f"{tmp_path}/images/IMG_1O.jpg")
    assert f"Did you mean {tmp_path}/images?" == did_you_mean(f"{tmp_path}/image/IMG_10.jpg")
    assert did_you_mean(f"{tmp_path}/images/other.jpg") == did_you_mean("a\0/b") == ""


def test_frames_of_one_name_in_more_folders_than_are_told_apart_one_by_one(search):
    videos = [f"v{number}" for number in range(file_search._MAX_COMPARED + 6)]
    find = search(*(f"frames/{video}/0.JPG" for video in videos))
    for video in (videos[0], videos[-1]):
        assert find("0", f"frames/{video}")[0] == f"frames/{video}/0.JPG"  # the folder it should be in
        assert find("0", "boxes", near=[video, "boxes"])[0] == f"frames/{video}/0.JPG"  # another, of a like name
    assert len(find("0", "boxes", near=["boxes"])[2]) == file_search._MAX_COMPARED


def test_what_counts_elsewhere_can_be_told(search):
    find = search("val/a.jpg", "train/a.jpg", "val/b.jpg")
    in_train = {"elsewhere": lambda path: "/train/" in path}
    assert find("a", "boxes", **in_train)[0] == "train/a.jpg"
    assert find("b", "boxes", **in_train)[0] == "" and find("b", "val", **in_train)[0] == "val/b.jpg"
