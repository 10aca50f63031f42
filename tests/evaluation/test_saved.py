import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.scenes import CLASSES, NO_METRICS, saved, scenes
from resight.errors import ResightError
from resight.evaluation.coco import coco_metrics
from resight.evaluation.loop import ImageResult
from resight.evaluation.saved import DETECTIONS, METRICS, load_evaluation, save_evaluation, to_save
from resight.fpn.config import FpnModelConfig
from resight.inference.detector import Detector


def test_what_is_read_is_what_was_written(tmp_path):
    truths, detections = scenes(0)
    names = [f"<b>\u202e\n{number}" for number in range(len(truths))]
    wanted = saved(truths, detections, groups=["a", ""] * 15, names=names, mAP=0.5)
    save_evaluation(tmp_path / DETECTIONS, wanted)
    found = load_evaluation(tmp_path / DETECTIONS)
    assert (found.metrics, found.classes, found.names, found.groups) == (
        {"split": "test", "model": "run", "data": "records", **NO_METRICS, "mAP": 0.5},
        CLASSES,
        tuple(names),
        ("a", "") * 15,
    )
    for table in ("images", "objects", "detections"):
        for name, column in getattr(wanted, table).items():
            assert np.array_equal(getattr(found, table)[name], column, equal_nan=column.dtype.kind == "f")
    assert [path.name for path in tmp_path.iterdir()] == [DETECTIONS]


def test_image_by_image_it_gives_the_same_numbers(tmp_path):
    truths, detections = scenes(1)
    save_evaluation(tmp_path / DETECTIONS, saved(truths, detections))
    found = load_evaluation(tmp_path / DETECTIONS)
    assert len(found) == len(found.truths) == len(found.found) == 30
    assert coco_metrics(found.truths, found.found, CLASSES) == coco_metrics(truths, detections, CLASSES)
    assert (found.found[3].width, found.found[3].file) == (100, "3.jpg")


def test_no_image_and_images_of_nothing(tmp_path):
    nothing = saved(*scenes(0, images=0))
    save_evaluation(tmp_path / DETECTIONS, nothing)
    found = load_evaluation(tmp_path / DETECTIONS)
    assert len(found) == len(found.truths) == len(found.found) == 0


def test_an_evaluation_of_an_earlier_version_is_told_to_be_made_again(tmp_path):
    with pytest.raises(ResightError, match=r"detections.safetensors: is not there(.|\n)*resight evaluate"):
        load_evaluation(tmp_path / DETECTIONS)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update({"detection.labels": c["detection.labels"] + 3}),
        lambda c: c.update({"object.labels": c["object.labels"] - 1}),
        lambda c: c.update({"image.objects": c["image.objects"] * 2}),
        lambda c: c.update({"image.detections": -c["image.detections"]}),
        lambda c: c.update({"detection.scores": c["detection.scores"].astype(np.float64)}),
        lambda c: c.update({"object.boxes": c["object.boxes"][:, :3].copy()}),
        lambda c: c.pop("object.area"),
        lambda c: c["detection.boxes"].fill(np.nan),
        lambda c: c["object.boxes"].fill(np.inf),
        lambda c: c["detection.scores"].fill(-0.5),
        lambda c: c["detection.scores"].fill(np.nan),
        lambda c: c["image.width"].fill(0),
        lambda c: c["image.objects"].__setitem__(slice(2), [-1, c["image.objects"][:2].sum() + 1]),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change):
    path = tmp_path / DETECTIONS
    save_evaluation(path, saved(*scenes(2)))
    columns, about = load_file(path), metadata(path)
    change(columns)
    save_file(columns, path, about)
    with pytest.raises(ResightError, match="is damaged"):
        load_evaluation(path)


@pytest.mark.parametrize("about", [{"version": "1", "head": "{}"}, {"version": "1", "head": "[1"}, {"version": "1"}])
def test_a_damaged_head_is_refused(tmp_path, about):
    path = tmp_path / DETECTIONS
    save_evaluation(path, saved(*scenes(2)))
    save_file(load_file(path), path, about)
    with pytest.raises(ResightError, match=r"detections.safetensors.*(damaged|JSON)"):
        load_evaluation(path)


@pytest.mark.parametrize(
    "change",
    [
        {"mAP": "high"},
        {"AP50": 2.0},
        {"per_class": {}},
        {"per_class": None},
        {"operating_point": {}},
        {"split": []},
        {"data": "a\0b"},
        {"model": None},
        {"max_detections": 300},
    ],
)
def test_metrics_that_are_none_are_refused(tmp_path, change):
    save_evaluation(tmp_path / DETECTIONS, saved(*scenes(2), **change))
    with pytest.raises(ResightError, match="is damaged"):
        load_evaluation(tmp_path / DETECTIONS)


def test_the_metrics_beside_it_are_of_the_same_evaluation(tmp_path):
    wanted = saved(*scenes(2))
    save_evaluation(tmp_path / DETECTIONS, wanted)
    (tmp_path / METRICS).write_text(json.dumps(wanted.metrics))
    assert load_evaluation(tmp_path / DETECTIONS).metrics == wanted.metrics
    (tmp_path / METRICS).write_text(json.dumps(wanted.metrics | {"mAP": 0.5}))
    with pytest.raises(ResightError, match=r"another evaluation than the metrics.json"):
        load_evaluation(tmp_path / DETECTIONS)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, size):
    path = tmp_path / DETECTIONS
    save_evaluation(path, saved(*scenes(2)))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ResightError, match="damaged"):
        load_evaluation(path)


def test_another_version_is_named(tmp_path):
    path = tmp_path / DETECTIONS
    save_evaluation(path, saved(*scenes(2)))
    save_file(load_file(path), path, {**metadata(path), "version": "2"})
    with pytest.raises(ResightError, match="another version"):
        load_evaluation(path)


def test_columns_are_of_their_kinds(tmp_path):
    truths, detections = scenes(3)
    wide = [dataclasses.replace(one, scores=one.scores.astype(np.float64)) for one in detections]
    save_evaluation(tmp_path / DETECTIONS, saved(truths, wide))
    assert load_file(tmp_path / DETECTIONS)["detection.scores"].dtype == np.float32


def metadata(path):
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return file.metadata()


@pytest.mark.parametrize(("tile", "scale"), [(0, 0.25), (100, 0.5), (400, 0.25)])
def test_the_scale_is_that_at_the_network_of_tiles_where_there_are_any(tile, scale):
    detector = Detector(CLASSES, 0.5, config=FpnModelConfig(min_size=50, max_size=100, tile=tile))
    (truth,), (detections,) = scenes(0, images=1)
    detections = dataclasses.replace(detections, width=300, height=200)
    metrics = {"operating_point": {"score": 0.5}}
    kept = to_save(metrics, detector, [ImageResult(0, "a", "", truth, detections, {}, truth.labels, 0)])
    assert kept.images["scale"].tolist() == [scale]
