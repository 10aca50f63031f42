"""A few hundred damaged inputs for every parser; `make fuzz` gives each many more."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def fuzz():
    path, modules = list(sys.path), set(sys.modules)
    spec = importlib.util.spec_from_file_location("fuzz_parsers", HERE / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in ("fuzz_parsers", "targets", "mutations"):
        if name not in modules:
            del sys.modules[name]


@pytest.fixture(scope="module")
def targets(fuzz, tmp_path_factory):
    return {target.name: target for target in fuzz.all_targets(tmp_path_factory.mktemp("seeds"))}


NAMES = (
    "coco json", "voc xml", "yolo yaml", "yolo txt", "csv csv", "lisa csv", "cvat xml", "labelme json", "labelstudio json",
    "label map", "pipeline.config", "config.toml", "--set", "train.tfrecord", "dataset.json", "Example", "records.index",
    "records.index columns", "checkpoint", "checkpoint's card", "TFOD's index", "TFOD's entries", "TFOD's object graph",
    "an export's card", "images", "metrics.jsonl", "a run's config.toml", "metrics.json", "detections.json", "head of a part",
    "etags", "run.json", "request to predict", "request to infer", "request to images", "split file",
)  # fmt: skip
SLOW = ("label map", "pipeline.config", "cvat xml", "checkpoint's card", "images")  # in Python, or with much to do


def test_every_target_is_tested(targets):
    assert tuple(targets) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_read_or_refused(name, fuzz, targets, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    caplog.set_level(100)
    tally = fuzz.fuzz(targets[name], tmp_path, 1, 0, 60 if name in SLOW else 200, float("inf"), None)
    assert not tally.failures and tally.cases


def test_a_parser_that_fails_hangs_or_takes_all_memory_is_found(fuzz, tmp_path, monkeypatch):
    def run(data, folder):
        if data == b"seed":
            return
        wrong = len(data) % 3
        if wrong == 0:
            raise KeyError("a")
        if wrong == 1:
            bytearray(8 << 30)
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    tally = fuzz.fuzz(fuzz.Target("t", [b"seed"], run), tmp_path, 0, 0, 20, float("inf"), tmp_path / "kept")
    assert tally.cases == 20 > len(tally.failures) - 1
    assert {told.partition(":")[0] for _, told in tally.failures} == {"KeyError", "MemoryError", "TooLong"}
    assert len(list((tmp_path / "kept").iterdir())) == len(tally.failures)


def test_a_case_is_the_same_wherever_it_runs(fuzz):
    one, again = (fuzz.damaged([b'{"a": [1, 2]}'], fuzz.random.Random("0 x 7")) for _ in range(2))
    assert one == again
