from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.datasets.split import split_annotations
from resight.datasets.split_file import follow_split_file
from resight.errors import ResightError
from resight.types import Annotation, Box


def image(name: str, *labels: str) -> Annotation:
    return Annotation(f"/photos/{name}", tuple(Box(label, 0, 0, 10, 10) for label in labels), source_id=name)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


NAMED = [image(f"{folder}/{i}.jpg", "stop") for folder in ("day", "night") for i in range(3)]


@pytest.mark.parametrize(
    "text",
    [
        "filename,split\nday/0.jpg,train\nday/1.jpg,val\nnight/2.jpg,test\n",
        "\ufeffday/0.jpg, train\r\n\r\n# held out\r\nday/1,VALID\r\n/photos/night/2.jpg,testing\r\n",
        'day\\0.jpg train\n"day/1.jpg" eval_is_test\n'.replace("eval_is_test", "validation") + "./night/2.jpg\ttest",
    ],
)
def test_a_split_file_is_followed(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "split.csv", text)
    parted, notes = follow_split_file(path, NAMED)
    result = split_annotations(parted, "given")
    assert {item.source_id: item.split for item in result.annotations} == {
        "day/0.jpg": "train",
        "day/1.jpg": "val",
        "night/2.jpg": "test",
    }
    assert notes == []
    assert sorted(result.unsplit) == ["0.jpg", "1.jpg", "2.jpg"]


def test_names_in_a_split_file_may_be_written_otherwise(tmp_path: Path) -> None:
    images = [image("a/de\u0301.JPG", "stop"), image("b/x.jpg", "stop"), image("b/X.jpg", "stop")]
    parted, notes = follow_split_file(write(tmp_path / "a.csv", "A/d%C3%A9.jpg,train\nb/X.jpg,test\n"), images)
    assert [item.split for item in parted] == ["train", None, "test"] and not notes
    with pytest.raises(ResightError, match="names 2 images"):
        follow_split_file(write(tmp_path / "b.csv", "B/x.png,train\n"), images)


def test_names_in_a_split_file_that_match_no_image_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "split.txt", "day/0.jpg train\nday/9.jpg test\nnight/0.jpg test\n")
    _, (note,) = follow_split_file(path, NAMED)
    assert "1 file without an image here: day/9.jpg" in note


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("day/0.jpg,train\nday/1.jpg,trian\n", "line 2: .*trian"),
        ("day/0.jpg,train\nday/0.jpg,test\n", "line 2: 'day/0.jpg' is in train already"),
        ("0.jpg,train\n", "line 1: '0.jpg' names 2 images"),
        ("day/0.jpg\n", "line 1: 'day/0.jpg' is not"),
        ("x.jpg,train\ny.jpg,test\n", "names none of the images"),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ResightError, match=says):
        follow_split_file(write(tmp_path / "split.csv", text), NAMED)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_damaged_split_files_end_in_our_error_or_a_split(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.csv"
    path.write_bytes(data)
    try:
        follow_split_file(str(path), NAMED)
    except ResightError as error:
        assert str(path) in error.where


def test_a_rule_that_is_neither_known_nor_a_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ResightError, match="Did you mean 'random'"):
        follow_split_file("randon", NAMED)
    with pytest.raises(ResightError, match="neither a rule nor a split file"):
        follow_split_file(str(tmp_path), NAMED)
