"""What an earlier version wrote is read, resumed and scored as it did; that version ran ``artefacts/make.py``.

Weights and scores are compared to the rounding that another processor may bring, everything else exactly.
"""

import importlib.util
import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from resight.dialect import load_config
from resight.models.checkpoints import LAST, load_checkpoint
from resight.records.reader import open_records

ARTEFACTS = Path(__file__).parent / "artefacts"
EXPECTED = json.loads((ARTEFACTS / "expected.json").read_text())
DIALECTS = ("fpn", "tfod")


def unpack(archive, folder):
    with lzma.open(ARTEFACTS / archive) as file, tarfile.open(fileobj=file) as tar:
        tar.extractall(folder, filter="data")
    return folder


def decompress(name, folder):
    path = folder / name.removesuffix(".xz")
    path.write_bytes(lzma.decompress((ARTEFACTS / name).read_bytes()))
    return path


@pytest.fixture
def records(tmp_path):
    return unpack("records.tar.xz", tmp_path) / "records"


def test_images(records):
    spec = importlib.util.spec_from_file_location("make", ARTEFACTS / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    stored = open_records(records).splits["test"]
    assert [stored[number].encoded for number in range(4)] == [make.picture(number).image for number in range(12, 16)]


def detections_of(model, records):
    detector, test = resight.load(model, device="cpu"), open_records(records).splits["test"]
    return [list(detector(np.array(Image.open(io.BytesIO(test[i].encoded))), score=0.01)) for i in range(len(test))]


def assert_detections(found, expected):
    assert [len(one) for one in found] == [len(one) for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for (name, score, box), (known, known_score, known_box) in zip(ours, theirs, strict=True):
            assert (name, score) == (known, pytest.approx(known_score, abs=1e-5))
            assert box == pytest.approx(known_box, abs=2e-2)


def assert_numbers(found, expected):
    """Two trees of JSON, equal but for rounding."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys()
        for key, value in expected.items():
            assert_numbers(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_numbers(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-4) if isinstance(expected, float) else expected)


def test_the_index_is_used_as_it_is(records):
    before = (records / "records.index").read_bytes()
    opened = open_records(records)
    assert (records / "records.index").read_bytes() == before
    assert opened.digest == json.loads((records / "dataset.json").read_text())["digest"]
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 8, "val": 4, "test": 4}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_detections_and_metrics(dialect, records, tmp_path):
    best = decompress(f"{dialect}-best.safetensors.xz", tmp_path)
    assert_detections(detections_of(best, records), EXPECTED[dialect]["detections"])
    metrics = resight.evaluate(best, records, out=tmp_path / "evaluation", device="cpu").metrics
    expected = {k: v for k, v in EXPECTED[dialect]["metrics"].items() if k not in ("model", "data", "seconds")}
    assert_numbers(metrics, expected)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_resumed(dialect, records, tmp_path):
    run = unpack(f"{dialect}-run.tar.xz", tmp_path) / "run"
    assert load_checkpoint(run / LAST, tensors=False).state["step"] == EXPECTED[dialect]["interrupted_at"]
    result = resight.train(load_config(run / "config.toml", {"data.path": str(records)}), run, resume=True)
    assert (result.exit_code, result.steps) == (0, EXPECTED["steps"])
    weights = {k: v for k, v in load_checkpoint(run / LAST).weights().items() if v.is_floating_point() and v.norm() > 0}
    found = {key: [float(value.double().sum()), float(value.double().norm())] for key, value in weights.items()}
    assert found.keys() == EXPECTED[dialect]["weights"].keys()
    assert_numbers(found, EXPECTED[dialect]["weights"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "memory_gb", "images_per_second", "waited")
    expected = [{k: v for k, v in row.items() if k not in timed} for row in EXPECTED[dialect]["metrics_jsonl"]]
    assert_numbers(rows, expected)


def test_onnx(records, tmp_path):
    model = decompress("model.onnx.xz", tmp_path)
    assert_detections(detections_of(model, records), EXPECTED["fpn"]["exported"])


def test_saved_model(records, tmp_path):
    model = unpack("tfod-exported.tar.xz", tmp_path) / "exported" / "saved_model"
    assert_detections(detections_of(model, records), EXPECTED["tfod"]["exported"])
