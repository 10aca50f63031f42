import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fixtures.photographs import columns, picture
from resight import Annotation, Box, ResightError, check_data, report_data, write_records
from resight.cli.app import app
from resight.dialect import load_config
from resight.reporting import data_report
from resight.reporting.data_report import describe
from resight.training.plan import make_plan

MODEL = load_config(overrides={"model.min_size": 64, "model.max_size": 128}).model


def numbers(images, classes=(), model=MODEL):
    return describe(columns(images, classes), "data", model, duplicates=False)


shares = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 30)] * 2)
boxes = st.builds(
    lambda label, shape, crowd: Box(label, shape[0], shape[1], shape[0] + shape[2], shape[1] + shape[3], crowd=crowd),
    st.sampled_from("abc"), shares, st.integers(0, 5).map(lambda n: n == 0),
)  # fmt: skip
image = st.builds(
    lambda boxes, split, group, size: Annotation(b"x", boxes, *size, "f.jpg", "i", group, split),
    st.lists(boxes, max_size=5),
    st.sampled_from(["train", "val", "test"]),
    st.sampled_from([None, "g", "h"]),
    st.sampled_from([(64, 64), (128, 64)]),
)


@given(st.lists(image, min_size=1, max_size=8))
def test_every_number_is_that_of_a_plain_count(images):
    found = numbers(images, ("a", "b", "c"))
    every = [(image, box) for image in images for box in image.boxes]
    ordinary = [(image, box) for image, box in every if not box.crowd]
    head = found["head"]
    assert (head["images"], head["boxes"], head["classes"]) == (len(images), len(every), 3)
    assert head["crowd"] == len(every) - len(ordinary)
    splits = [split for split in ("train", "val", "test") if any(image.split == split for image in images)]
    assert [row["name"] for row in found["splits"]] == splits
    for row in found["splits"]:
        own = [image for image in images if image.split == row["name"]]
        assert row == {
            "name": row["name"],
            "images": len(own),
            "boxes": sum(len(image.boxes) for image in own),
            "empty": sum(not image.boxes for image in own),
            "groups": len({image.group for image in own} - {None}),
        }
    for row in found["classes"]:
        label = row["name"]
        assert row["boxes"] == sum(box.label == label for _, box in every)
        assert row["images"] == sum(any(box.label == label for box in image.boxes) for image in images)
        for part in row["splits"]:
            own = [image for image in images if image.split == part["name"]]
            assert part["boxes"] == sum(box.label == label for image in own for box in image.boxes)
            assert part["images"] == sum(any(box.label == label for box in image.boxes) for image in own)
        # Both sizes are at the network as they are.
        sides = sorted(np.sqrt((b.xmax - b.xmin) * (b.ymax - b.ymin)) for _, b in ordinary if b.label == label)
        assert (row["sides"] is None) == (not sides)
        if sides:
            np.testing.assert_allclose(
                row["sides"], [sides[0], *np.percentile(sides, [25, 50, 75]), sides[-1]], atol=0.01
            )
    areas = [(box.xmax - box.xmin) * (box.ymax - box.ymin) for _, box in ordinary]
    assert sum(found["sizes"]["counts"]) == len(ordinary) == found["network"]["boxes"]
    assert found["sizes"]["coco"] == {
        "small": sum(area < 1024 for area in areas),
        "medium": sum(1024 <= area <= 9216 for area in areas),
        "large": sum(area > 9216 for area in areas),
    }
    assert found["network"]["small"] == sum(area < 256 for area in areas)
    cells = Counter(
        (int((b.ymin + b.ymax) / 2 / image.height * 16), int((b.xmin + b.xmax) / 2 / image.width * 16))
        for image, b in ordinary
    )
    assert found["positions"] == [[cells[y, x] for x in range(16)] for y in range(16)]
    assert found["boxes_per_image"]["counts"][:6] == [sum(len(i.boxes) == n for i in images) for n in range(6)]
    sizes = Counter((image.width, image.height) for image in images)
    assert {(row["width"], row["height"]): row["images"] for row in found["image_sizes"]} == sizes
    groups = Counter(image.group for image in images if image.group)
    assert {row["name"]: row["images"] for row in found["groups"]["rows"]} == groups
    assert found["groups"]["without"] == len(images) - groups.total()
    for row in found["groups"]["rows"]:
        own = [image for image in images if image.group == row["name"]]
        assert row["boxes"] == sum(len(image.boxes) for image in own)
        assert set(row["splits"]) == {image.split for image in own}


def test_ranges_are_closed_below_and_open_above():
    def sized(*sides):
        return Annotation(b"x", [Box("a", 0, 0, side, side) for side in sides], 64, 64, "f.jpg")

    found = numbers([sized(3.9, 4, 5.9, 63), sized(32, 47.9)])
    sizes = dict(zip(found["sizes"]["edges"], found["sizes"]["counts"], strict=True))
    assert {edge: count for edge, count in sizes.items() if count} == {0: 1, 4: 2, 32: 2, 48: 1}
    wide = [Box("a", 0, 0, width, 10) for width in (1.25, 2, 6.5, 9, 10, 11, 80)]
    aspects = numbers([Annotation(b"x", wide, 96, 64, "f.jpg")])["aspects"]
    shapes = dict(zip(aspects["edges"], aspects["counts"], strict=True))
    assert {edge: count for edge, count in shapes.items() if count} == {0.125: 1, 0.2: 1, 0.65: 1, 0.9: 2, 1.1: 1, 8: 1}


def test_balance_by_hand():
    counts = {"a": 60, "b": 25, "c": 5, "d": 0}
    boxes = [Box(name, n % 9, n // 9, n % 9 + 9, n // 9 + 9) for name, count in counts.items() for n in range(count)]
    found = numbers([Annotation(b"x", boxes, 64, 64, "f.jpg")], tuple(counts))["balance"]
    assert found == {"largest": 60, "smallest": 0, "ratio": 12.0, "half": 1, "least": 20, "rare": ["c", "d"]}


def test_anchors_reach_what_the_plan_of_a_training_says(shapes):
    folder = shapes(train=8, val=3)
    config = load_config(overrides={"data.path": str(folder), "model.min_size": 32, "model.max_size": 32})
    plan = make_plan(config)
    data = data_report.read_columns(folder, "auto", "auto", config)
    found = describe(data, str(folder), config.model, duplicates=False)["network"]
    assert [tuple(sizes) for sizes in found["anchors"]] == list(plan.anchors.sizes)
    training = [split == "train" for split in data.splits]
    assert found["boxes"] == len(data.image) and plan.train.index.records["count"].sum() == sum(
        np.array(training)[data.image]
    )
    alone = [
        Annotation(b"x", [Box("a", *box) for box in data.boxes[data.image == n]], *data.sizes[n].tolist(), "f")
        for n in np.flatnonzero(training)
    ]
    own = describe(columns(alone), "", config.model, duplicates=False)["network"]
    np.testing.assert_allclose((own["reached_50"], own["reached_70"]), plan.recall, atol=1e-6)


def test_leakage_is_what_data_check_finds(tmp_path):
    stop = Box("stop", 10, 10, 50, 50)
    images = [picture(0, stop, split="train", group="v"), picture(1, stop, split="train"),
              picture(2, stop, split="val", seed=1), picture(3, stop, split="test", group="v"),
              picture(4, stop, split="test", seed=1), picture(5, split="test")]  # fmt: skip
    write_records(images, tmp_path / "r", background="all")
    found = report_data(tmp_path / "r", tmp_path / "a.html").numbers
    pairs = [(row["kind"], row["file"], row["other_file"]) for row in found["leakage"]["pairs"]]
    near = [("near-duplicate", "2.jpg", "1.jpg"), ("near-duplicate", "4.jpg", "1.jpg")]
    assert pairs == [*near, ("group", "3.jpg", "0.jpg")] and found["leakage"]["images"] == 3
    assert found["duplicates"] == {"compared": 6, "sets": 1, "images": 3}
    kinds = check_data(tmp_path / "r").counts["problems"]
    assert (kinds["leakage_near_duplicate"], kinds["leakage_group"]) == (2, 1)


def test_many_images_are_compared_only_when_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(data_report, "MOST_COMPARED", 1)
    write_records([picture(n, Box("a", 1, 1, 99, 99), split="train", seed=0) for n in range(2)], tmp_path / "r")
    assert report_data(tmp_path / "r", tmp_path / "a.html").numbers["duplicates"] is None
    assert "--duplicates" in (tmp_path / "a.html").read_text()
    asked = report_data(tmp_path / "r", tmp_path / "b.html", duplicates=True).numbers
    assert asked["duplicates"] == {"compared": 2, "sets": 1, "images": 2}


@pytest.fixture
def records(tmp_path):
    twice = Box('="evil",\n"', 10, 10, 50, 50), Box('="evil",\n"', 10, 10, 50, 51)
    write_records([picture(0, *twice, split="train"), picture(1, Box("b", 1, 1, 90, 90), split="test")], tmp_path / "r")
    return tmp_path / "r"


def test_three_files_say_the_same(records, tmp_path):
    report = report_data(records, tmp_path / "new" / "page.html")
    page, beside, suspects = report.files
    assert [Path(path).name for path in report.files] == ["page.html", "page.json", "page-suspects.csv"]
    with open(beside, encoding="utf-8") as file:
        assert json.load(file) == json.loads(json.dumps(report.numbers))
    with open(suspects, encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["kind"], row["label"]) == ("two boxes on one object", '\'="evil",\n"')
    assert [float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax", "other_ymax")] == [10, 10, 50, 51, 50]
    assert report.text().splitlines()[0] == report.numbers["sentence"]
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_only_its_own_files_are_replaced(records, tmp_path):
    out = tmp_path / "page.html"
    report_data(records, out)
    with pytest.raises(ResightError, match="exists already"):
        report_data(records, out)
    report_data(records, out, force=True)
    for name in ("page.html", "page.json", "page-suspects.csv"):
        mine = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text("my own")
        with pytest.raises(ResightError, match="not written by Resight"):
            report_data(records, out, force=True)
        (tmp_path / name).write_bytes(mine)


def test_a_page_has_no_other_name_than_html(records, tmp_path):
    with pytest.raises(ResightError, match=r"\.html"):
        report_data(records, tmp_path / "page.json")


def test_data_without_any_image_is_refused(tmp_path):
    (tmp_path / "annotations.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\ngone.jpg,9,9,a,1,1,5,5\n"
    )
    with pytest.raises(ResightError, match="no image") as caught:
        report_data(tmp_path, tmp_path / "a.html")
    assert "data check" in caught.value.fix


def test_on_the_command_line(records, tmp_path):
    out, plots = str(tmp_path / "page.html"), str(tmp_path / "plots")
    result = CliRunner().invoke(app, ["data", "report", str(records), "-o", out, "--json", "--plots", plots])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["head"]["images"] == 2
    names = sorted(path.name for path in Path(plots).iterdir())
    assert names == ["aspects.svg", "boxes_per_image.svg", "positions.svg", "sizes.svg"]
    again = CliRunner().invoke(app, ["data", "report", str(records), "-o", out, "--force"])
    assert again.stdout.startswith("2 images with 3 boxes of 2 classes") and "two boxes on one object" in again.stdout
