"""Recognising formats by looking, and explaining when that fails."""

import os

import pytest

from resight.datasets.formats import FORMATS, read_source
from resight.errors import ResightError

CSV = "filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2,3,4\n"
XML = "<annotation><filename>a.jpg</filename></annotation>"


def test_nothing_known_lists_what_every_format_looks_for(tmp_path, put):
    put("readme.md", "hello")
    with pytest.raises(ResightError) as caught:
        read_source(tmp_path)
    for module in FORMATS:
        assert f"{module.NAME}: {module.LOOKS_FOR}" in caught.value.fix
    assert caught.value.where == str(tmp_path) and "its 1 file, 0 of them images" in caught.value.message


def test_several_formats_list_what_was_found_and_how_to_choose(tmp_path, put, images):
    images("a.jpg")
    put("a.xml", XML)
    put("labels.csv", CSV)
    with pytest.raises(ResightError) as caught:
        read_source(tmp_path)
    assert (
        "a.xml" in str(caught.value) and "labels.csv" in str(caught.value) and "--format voc|csv" in str(caught.value)
    )
    assert read_source(tmp_path, "voc").format == "voc"
    assert read_source(tmp_path / "labels.csv").format == "csv"


def test_a_wrong_format_says_what_it_looks_like(tmp_path, put):
    put("a.xml", XML)
    with pytest.raises(ResightError, match=r"(?s)'coco'.*voc: found 1 XML"):
        read_source(tmp_path, "coco")
    with pytest.raises(ResightError, match="Did you mean 'coco'"):
        read_source(tmp_path, "cocoo")


def test_an_empty_folder_and_none_at_all(tmp_path):
    with pytest.raises(ResightError, match="empty"):
        read_source(tmp_path)
    for path in (tmp_path / "none", "a\0b"):
        with pytest.raises(ResightError, match="no such file or folder"):
            read_source(path)


def test_a_folder_is_listed_once_whatever_the_formats(tmp_path, put, images, monkeypatch):
    images("images/a.jpg")
    put("labels.csv", CSV)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    read_source(tmp_path)
    assert len(listed) == len(set(listed)) == 2


COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}]}  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SHARES = (0.15, 0.25, 0.37, 0.67)


def test_what_is_packed_is_to_be_unpacked(tmp_path, put, images):
    images("a.jpg")
    put("train.record.gz", b"\x1f\x8b")
    with pytest.raises(ResightError, match="no annotations") as caught:
        read_source(tmp_path)
    assert caught.value.fix == "Unpack train.record.gz"
