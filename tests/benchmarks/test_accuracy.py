"""The benchmark of accuracy: its numbers on hand-made rows, its folds, and that it goes on where it was."""

import importlib
import io
import itertools
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from resight.records.reader import open_records
from resight.training.state import TrainResult
from resight.training.trainer import Diverged
from resight.types import Annotation, Box, Detections

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
accuracy = importlib.import_module("accuracy")
numbers = importlib.import_module("average_precision")

SIDE = 400  # of every image, which the network sees at .96 of it


def rows_of(truths, found, groups=None, classes=("car", "light")):
    """``truths`` ``(image, class, box)``, ``found`` ``(image, class, score, box)``; boxes in pixels."""
    images = 1 + max(row[0] for row in [*truths, *found])
    found = sorted(found, key=lambda row: (row[0], -row[2]))
    column = [
        np.array([row[i] for row in found]).reshape(len(found), *shape)
        for i, shape in ((0, ()), (1, ()), (2, ()), (3, (4,)))
    ]
    return numbers.Rows(
        np.array(classes),
        np.array([f"{i}.jpg" for i in range(images)]),
        np.array(groups or [f"{i}" for i in range(images)]),
        np.full((images, 2), SIDE),
        np.array([row[0] for row in truths]),
        np.array([row[1] for row in truths]),
        np.array([row[2] for row in truths], np.float32),
        column[0].astype(int),
        column[1].astype(int),
        column[2].astype(np.float32),
        column[3].astype(np.float32),
    )


def plain(numbers, part):
    return [None if np.isnan(value) else round(float(value), 3) for value in numbers[part][:, 0]]


def drawn_rows(seed, images=40):
    """Objects of many sizes and shapes, most of them found, some twice, some badly, and false alarms."""
    draw = np.random.default_rng(seed)
    truths, found = [], []
    for image in range(images):
        for _ in range(draw.integers(0, 5)):
            x, y, width, height = *draw.uniform(0, 200, 2), *np.exp(draw.uniform(2, 5.2, 2))
            label = int(draw.integers(2))
            truths.append((image, label, (x, y, x + width, y + height)))
            for _ in range(draw.integers(0, 4)):
                moved = np.array(truths[-1][2]) + draw.normal(0, 0.08, 4) * np.array([width, height, width, height])
                found.append((image, label, draw.random(), moved.clip(0, SIDE)))
        for _ in range(draw.integers(0, 4)):
            x, y, width, height = *draw.uniform(0, 200, 2), *np.exp(draw.uniform(2, 5.2, 2))
            found.append((image, int(draw.integers(2)), draw.random(), (x, y, x + width, y + height)))
    return rows_of(truths, found)


def pycocotools_of(rows):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(boxes):
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(float).tolist()

    coco = COCO()
    boxes = xywh(rows.truth_box.astype(float))
    coco.dataset = {
        "images": [{"id": i + 1} for i in range(len(rows.names))],
        "categories": [{"id": i} for i in range(len(rows.classes))],
        "annotations": [
            {"id": i + 1, "image_id": int(image) + 1, "category_id": int(label)}
            | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, label, box) in enumerate(zip(rows.truth_image, rows.truth_label, boxes, strict=True))
        ],
    }  # fmt: skip
    results = [
        {"image_id": int(image) + 1, "category_id": int(label), "bbox": box, "score": float(score)}
        for image, label, box, score in zip(
            rows.image, rows.label, xywh(rows.box.astype(float)), rows.score, strict=True
        )
    ]
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
        counting = COCOeval(coco, coco.loadRes(results), "bbox")
        counting.evaluate()
        counting.accumulate()
        counting.summarize()
    return counting.stats[:6]


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_pycocotools(seed, tmp_path):
    rows = drawn_rows(seed)
    numbers.match_all(rows).save(tmp_path / "matches.npz")
    ours = numbers.numbers_of(numbers.Matches.load(tmp_path / "matches.npz"))
    by_size = [ours[size][0, 0] for size in ("small", "medium", "large")]
    np.testing.assert_allclose([*ours["all"][:, 0], *by_size], pycocotools_of(rows), atol=1e-9)


def test_slices_by_size_aspect_and_class():
    tall, wide, tiny = (100, 100, 120, 180), (10, 10, 90, 40), (300, 300, 310, 310)
    rows = rows_of(
        [(0, 0, wide), (0, 1, tall), (1, 1, tiny)],
        [(0, 0, 0.9, wide), (0, 1, 0.8, (100, 100, 120, 150)), (1, 0, 0.7, tall)],
    )
    matches = numbers.match_all(rows)
    counts = {"wide": 1, "tall": 1, "square": 1, "small": 1, "medium": 2, "large": 0, "car": 1, "light": 2, "all": 3}
    assert counts.items() <= matches.counts.items()
    ours = numbers.numbers_of(matches)
    assert plain(ours, "wide") == [1, 1, 1]
    assert plain(ours, "tall") == [0.3, 1, 0]  # IoU .625: three of ten; the false alarm is of another class
    assert plain(ours, "square") == plain(ours, "network < 16") == [0, 0, 0]
    assert plain(ours, "car") == [1, 1, 1]
    assert plain(ours, "light") == [0.151, 0.505, 0]  # half of the recall: 51 of 101 points
    assert plain(ours, "large") == [None, None, None]


def test_a_drawn_set_counts_each_group_as_often_as_it_was_drawn():
    rows = drawn_rows(7, images=8)
    once, groups = numbers.match_all(rows), 8
    times = np.array([2, 0, 1, 1, 3, 0, 1, 2])
    truths, found = [], []
    for new, old in enumerate(np.repeat(np.arange(groups), times)):
        truths += [(new, rows.truth_label[i], rows.truth_box[i]) for i in np.flatnonzero(rows.truth_image == old)]
        found += [(new, rows.label[i], rows.score[i], rows.box[i]) for i in np.flatnonzero(rows.image == old)]
    again = numbers.match_all(rows_of(truths, found, groups=[f"{i:02}" for i in range(times.sum())]))
    for label, part in itertools.product(range(2), range(len(once.parts))):
        np.testing.assert_allclose(
            numbers.average_precision(once, label, part, times[None]),
            numbers.average_precision(again, label, part, np.ones((1, times.sum()))),
            atol=0.01,  # copies have equal scores, and stand in some order
        )


def test_interval_of_a_difference():
    boxes = [(i, 0, (50, 50, 150, 150)) for i in range(40)]
    good = rows_of(boxes, [(i, 0, 0.9, (50, 50, 150, 150)) for i in range(40)], classes=("car",))
    half = rows_of(boxes, [(i, 0, 0.9, (50, 50, 150, 150)) for i in range(20)], classes=("car",))
    first, second = (numbers.numbers_of(numbers.match_all(rows), draws=200, seed=1) for rows in (good, half))
    same = accuracy.difference([first, second], [first, second], "all", 0)
    assert same == (0, 0, 0)
    mean, low, high = accuracy.difference([first], [second], "all", 0)
    assert mean == pytest.approx(0.495, abs=0.01)
    assert 0.25 < low < 0.42 < 0.55 < high < 0.75  # about two standard deviations of 40 draws, .079 each


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """A Pascal VOC folder of 12 numbered images."""
    folder = tmp_path_factory.mktemp("voc")
    draw = np.random.default_rng(0)
    for number in range(12):
        image = draw.integers(90, 130, (48, 64, 3), dtype=np.uint8)
        x, y = draw.integers(0, 30), draw.integers(0, 20)
        image[y : y + 24, x : x + 24] = (220, 30, 30)
        Image.fromarray(image).save(folder / f"road{number}.png")
        box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 24}</xmax><ymax>{y + 24}</ymax>"
        (folder / f"road{number}.xml").write_text(
            f"<annotation><filename>road{number}.png</filename><size><width>64</width><height>48</height></size>"
            f"<object><name>red</name><bndbox>{box}</bndbox></object></annotation>"
        )
    return folder


def test_folds_keep_groups_whole_and_share_the_classes():
    def item(number, label):
        return Annotation(f"{number}.png", (Box(label, 0, 0, 9, 9),), group=f"{number // 15}")

    items = [item(number, "common") for number in range(180)] + [item(number, "rare") for number in range(0, 90, 15)]
    folds = accuracy.folds_of(items)
    rare = [sum(folds[i.group] == fold for i in items if i.boxes[0].label == "rare") for fold in range(3)]
    assert rare == [2, 2, 2]
    assert sorted(folds.values()) == [0] * 4 + [1] * 4 + [2] * 4
    assert accuracy.folds_of(items[::-1]) == folds


def test_a_training_is_measured_as_evaluate_does(voc, tmp_path, monkeypatch):
    small = {
        "model.min_size": 64,
        "model.max_size": 96,
        "model.start": "none",
        "model.freeze": 5,
        "train.batch_size": 2,
    }
    monkeypatch.setattr(accuracy, "SETTINGS", {"default": small})
    monkeypatch.setattr(accuracy, "FOLDS", 2)
    monkeypatch.setattr(accuracy, "BLOCK", 3)
    folder = accuracy.build_folds(accuracy.signs(voc), (), tmp_path)[1]
    assert accuracy.measure(accuracy.Job("default", 2, 1), folder, tmp_path, tmp_path / "results", "data")
    facts = json.loads((tmp_path / "results" / "default-2-1.json").read_text())
    metrics = resight.evaluate(tmp_path / "default-2-1", folder, out=tmp_path / "evaluation").metrics
    assert facts["numbers"]["all"]["mAP"] == pytest.approx(metrics["mAP"], abs=1e-4)
    assert facts["training_cpu_seconds"] > 0 and facts["prediction_cpu_seconds"] > 0
    tested = open_records(folder).splits["test"].summaries
    with np.load(tmp_path / "default-2-1.npz") as rows:
        assert [record.source_id for record in tested] == list(rows["names"])
        assert {record.group for record in tested} == set(rows["groups"]) and len(set(rows["groups"])) == 2
        np.testing.assert_array_equal(np.concatenate([record.boxes for record in tested]), rows["truth_box"])


def test_measures_once_and_goes_on(voc, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accuracy, "SETTINGS", {"default": {}, "fast": {"train.learning_rate": 1e-3}, "odd": {}})
    monkeypatch.setattr(accuracy, "RUNGS", {2: (0,), 3: (0,)})
    monkeypatch.setattr(accuracy, "BEST", {3: (2, 1)})
    monkeypatch.setattr(accuracy, "DRAWS", 10)
    monkeypatch.setattr(accuracy, "BLOCK", 3)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: None)  # of the tests' own process
    trained = []

    def train(config, run, *, resume):
        assert resume
        trained.append(run.name)
        if run.name == "odd-2-0":
            raise Diverged("the loss is nan")
        return TrainResult(str(run), 75 if len(trained) == 1 else 0, "")

    class Finder:
        def detect(self, image):
            return Detections(
                np.array([[0, 0, 24, 24]], np.float32), np.ones(1, np.float32), np.zeros(1, int), ("red",)
            )

    monkeypatch.setattr(resight, "train", train)
    monkeypatch.setattr(resight, "load", lambda run, device: Finder())
    results = tmp_path / "results"
    command = ["signs", str(tmp_path / "runs"), "--voc", str(voc), "--results", str(results), "--steps", "2", "3"]
    assert accuracy.main(command) == 75
    assert trained == ["default-2-0"] and not list(results.rglob("*.json"))
    assert accuracy.main(command) == 0
    names = ["default-2-0", "default-2-1", "default-2-2", "fast-2-0", "odd-2-0", "default-3-0", "fast-3-0"]
    assert trained[1:] == names
    assert "| fast | 0 |" in capsys.readouterr().out

    assert accuracy.main(command) == 0
    assert trained[1:] == names  # nothing is measured twice
    monkeypatch.setitem(accuracy.SETTINGS, "fast", {"train.learning_rate": 2e-3})
    assert accuracy.main(command) == 0
    assert trained[1 + len(names) :] == ["fast-2-0", "fast-3-0"]  # another setting of this name
