"""Recognising formats by looking, and explaining when that fails."""

import os

import pytest

from resight.datasets.formats.dataset_dir import DatasetDir, split_of

CSV = "filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2,3,4\n"
XML = "<annotation><filename>a.jpg</filename></annotation>"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("train2017", "train"), ("images_train", "train"),
        ("valid", "val"), ("val", "val"), ("eval", "val"), ("validation-set", "val"), ("test_labels", "test"),
        ("testing", "test"), ("trains", None), ("latest", None), ("contest", None), ("trainval", None),
        ("train_val", None), ("", None), ("photos", None),
    ],
)  # fmt: skip
def test_names_that_tell_a_split(name, split):
    assert split_of(name) == split


def test_the_nearest_telling_name_counts():
    assert split_of("photos", "test", "train") == "test"


def test_links_in_a_circle_end(tmp_path, put):
    put("a/b.csv", CSV)
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    assert DatasetDir.of(tmp_path).files == ("a/b.csv",)


def test_linked_folders_are_followed(tmp_path, images):
    images("far/x.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tmp_path / "far", target_is_directory=True)
    assert DatasetDir.of(tmp_path / "set").images == ("images/x.jpg",)


def test_pipes_are_no_files(tmp_path, put, images):
    images("a.jpg")
    put("labels.csv", CSV)
    os.mkfifo(tmp_path / "more.csv")
    assert DatasetDir.of(tmp_path).files == ("a.jpg", "labels.csv")
