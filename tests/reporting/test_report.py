import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from fixtures.runs import TINY
from resight.dialect import load_config
from resight.errors import ResightError
from resight.evaluation.saved import DETECTIONS
from resight.label_map import LabelMap
from resight.records.reader import open_records
from resight.records.writer import write_records_folder
from resight.reporting.report import report
from resight.training.train import train
from resight.types import Annotation, Box


@pytest.fixture(scope="module")
def data(shapes):
    return shapes(train=4, val=2, test=3)


SHORT = TINY | {"train.steps": 3, "train.warmup_steps": 2}


@pytest.fixture(scope="module")
def runs(data, once):
    """Two runs of a few steps, evaluated on test and val."""

    def make(folder):
        for name, seed in (("a", 1), ("b", 2)):
            train(load_config(None, SHORT | {"data.path": str(data), "train.seed": seed}), folder / name)
            resight.evaluate(folder / name, device="cpu")

    return once("reported", make)


@pytest.fixture
def run(runs, tmp_path):
    return Path(shutil.copytree(runs / "a", tmp_path / "a"))


def test_a_report_holds_the_numbers_of_its_evaluation_and_pictures_of_its_errors(run):
    result = report(run)
    page = run / "evaluation" / "report.html"
    assert result.path == str(page) and result.notes == []
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert json.loads(page.with_suffix(".json").read_text()) == result.numbers
    assert result.numbers["numbers"]["mAP"]["value"] == metrics["mAP"]
    assert result.numbers["head"]["run"] == str(run) and "[train]" in result.numbers["configuration"]
    assert {name.split(" on ")[0] for name in result.numbers["training"]["series"]} >= {"loss", "mAP"}
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == len(result.numbers["errors"]) > 0
    images = {"train": 4, "val": 2, "test": 3}
    assert result.numbers["dataset"]["images"] == images and "digest" in result.numbers["dataset"]
    assert "report-suspects.csv beside this page" in text or not result.numbers["suspects"]
    rows = list(csv.DictReader((run / "evaluation" / "report-suspects.csv").read_text().splitlines()))
    assert len(rows) == len(result.numbers["suspects"])
    assert f"Wrote {page}" in result.text()


def test_the_same_image_labelled_differently_is_a_suspect(runs, tmp_path):
    picture = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((96, 72)).save(picture, "PNG")
    annotations = [
        Annotation(picture.getvalue(), (Box(label, 10, 10, 40, 40),), filename=f"{label}.png")
        for label in ("red", "blue")
    ]
    data = tmp_path / "records"
    write_records_folder({"test": annotations}, data, LabelMap.from_names(["red", "blue"]))
    resight.evaluate(runs / "a" / "checkpoints" / "best.safetensors", data, out=tmp_path / "out", device="cpu")
    result = report(tmp_path / "out")
    (one,) = [row for row in result.numbers["suspects"] if row["kind"] == "labelled differently"]
    names = {one["file"]: one["label"], one["other_file"]: one["other"]}
    assert names == {"red.png": 0, "blue.png": 1} and (one["score"], one["iou"]) == (None, pytest.approx(1))
    rows = list(csv.DictReader((tmp_path / "out" / "report-suspects.csv").read_text().splitlines()))
    told = [row for row in rows if row["kind"] == "labelled differently"]
    assert [(row["label"], row["other"], row["score"]) for row in told] in (
        [("red", "blue", "")],
        [("blue", "red", "")],
    )
    assert "labelled differently in <bdi" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("here", "run_is"), [(".", "."), ("evaluation", "."), ("checkpoints", "..")])
def test_a_run_may_be_where_one_is(run, monkeypatch, here, run_is):
    monkeypatch.chdir(run / here)
    result = report(run_is)
    assert result.numbers["head"]["run"] == str(run) and result.numbers["training"]


def test_a_run_is_called_as_it_was_named(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert report("a").numbers["head"]["run"] == "a"


def test_a_split_that_is_none_is_not_evaluated(run):
    with pytest.raises(ResightError, match=r"no split 'foo'(.|\n)*train, val, test"):
        report(run, split="foo")


def test_a_training_alone_is_reported_on_what_it_watched(run):
    result = report(run, split="val")
    assert result.path == str(run / "evaluation" / "val" / "report.html")
    assert result.numbers["head"]["split"] == "val"


def test_two_runs_are_compared(runs, tmp_path):
    result = report(runs / "a", runs / "b", out=tmp_path / "both.html")
    (other,) = result.numbers["comparison"]["others"]
    assert other["model"].startswith(str(runs / "b")) and (tmp_path / "both.json").exists()


def test_an_evaluation_beside_no_run_has_a_report_too(runs, data, tmp_path):
    resight.evaluate(runs / "a" / "checkpoints" / "best.safetensors", data, out=tmp_path / "out", device="cpu")
    result = report(tmp_path / "out")
    assert result.path == str(tmp_path / "out" / "report.html") and result.notes == []
    assert result.numbers["training"] is None and result.numbers["configuration"] == ""


def test_without_the_records_the_numbers_are_there_and_the_pictures_are_not(runs, data, tmp_path):
    moved, run = Path(shutil.copytree(data, tmp_path / "records")), shutil.copytree(runs / "a", tmp_path / "a")
    resight.evaluate(run, moved, device="cpu", force=True)
    before = report(run).numbers
    moved.rename(tmp_path / "elsewhere")
    result = report(run)
    # The run's own records are the same, by their digest.
    assert result.numbers == before
    (run / "config.toml").write_text((run / "config.toml").read_text().replace(str(data), str(moved)))
    result = report(run)
    assert len(result.notes) == 1 and result.notes[0].startswith("The page has no pictures: ")
    assert "data:image" not in (run / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_the_records_may_not_be_others_now(run, shapes, monkeypatch):
    others = open_records(shapes(train=4, val=2))
    monkeypatch.setattr("resight.reporting.report.open_configured", lambda _: others)
    assert "is not what was evaluated any more" in report(run).notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: (run / "evaluation" / DETECTIONS).unlink(), "earlier version"),
        (lambda run: (run / "evaluation" / "metrics.json").unlink(), "has not been evaluated on 'test'"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_run(run, change, says):
    change(run)
    with pytest.raises(ResightError, match=rf"{says}(.|\n)*resight evaluate"):
        report(run)


def test_a_file_of_somebody_elses_is_not_replaced(run, tmp_path):
    (tmp_path / "mine.html").write_text("<html>")
    with pytest.raises(ResightError, match="exists already"):
        report(run, out=tmp_path / "mine.html")
    with pytest.raises(ResightError, match="was not written by Resight"):
        report(run, out=tmp_path / "mine.html", force=True)
    (run / "evaluation" / "report.html").write_text("<html>")
    with pytest.raises(ResightError, match="was not written by Resight"):
        report(run)
    report(run, out=tmp_path / "new.html")
    report(run, out=tmp_path / "new.html", force=True)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResightError, match=r"other.json: exists already"):
        report(run, out=tmp_path / "other.html")
    with pytest.raises(ResightError, match=r"other.json: was not written by Resight"):
        report(run, out=tmp_path / "other.html", force=True)
    with pytest.raises(ResightError, match=r"metrics.json: was not written"):
        report(run, out=run / "evaluation" / "metrics.html", force=True)
    with pytest.raises(ResightError, match=r"new.json: is no name of an HTML page"):
        report(run, out=tmp_path / "new.json", force=True)


def test_the_charts_are_files_for_a_paper(run, tmp_path):
    report(run, plots=tmp_path / "plots")
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"thresholds.svg", "tide.svg", "calibration.svg"} < files and all(name.endswith(".svg") for name in files)
    with pytest.raises(ResightError, match="plots"):
        report(run, plots=tmp_path / "plots")
    (tmp_path / "plots" / "thresholds.svg").rename(tmp_path / "plots" / "of_an_earlier_model.svg")
    report(run, plots=tmp_path / "plots", force=True)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == files
    (tmp_path / "plots" / "mine.svg").write_text("<svg/>")
    with pytest.raises(ResightError, match=r"what Resight did not write.*mine.svg"):
        report(run, plots=tmp_path / "plots", force=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [("nothing", "there is no such run"), ("empty", "holds no evaluation"), ("s3://bucket/run", "on this machine")],
)
def test_what_is_no_run_is_refused(tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResightError, match=says):
        report(name if "://" in name else tmp_path / name)
    with pytest.raises(ResightError, match="no run is named"):
        report()
