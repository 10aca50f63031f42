"""The records that an export is tried on."""

import numpy as np
import pytest

from fixtures.records import annotations
from resight.errors import ResightError
from resight.evaluation.evaluate import evaluate
from resight.exporting.trial import Trial
from resight.inference.detector import load
from resight.label_map import LabelMap
from resight.records.writer import write_records_folder

LABELS = LabelMap.from_names(["yield", "stop", "go"])


@pytest.fixture
def records(tmp_path):
    write_records_folder({"train": annotations(6), "val": annotations(3, 6)}, tmp_path / "records", LABELS)
    return tmp_path / "records"


def test_map_is_what_evaluate_says(tfod_checkpoint, records, tmp_path):
    checkpoint = tfod_checkpoint()
    measured = Trial(checkpoint, records, 0.005).ap(load(checkpoint, "cpu"), "mAP")
    assert measured == evaluate(checkpoint, records, split="val", out=tmp_path / "out").metrics["mAP"]


def test_samples_are_the_same_every_time(records):
    trial = Trial("model", records, 0.005)
    some, same = trial.samples(4), trial.samples(4)
    assert len(some) == 4 and all(np.array_equal(one, other) for one, other in zip(some, same, strict=True))
    assert len(trial.samples(100)) == 6


def test_times_are_taken_in_turn(records):
    asked = []
    times = Trial("model", records, 0.005).milliseconds(
        [lambda image: asked.append("a"), lambda image: asked.append("b")]
    )
    assert asked == ["a", "b"] * 9 and len(times) == 2 and min(times) >= 0


def test_both_splits_are_needed(tmp_path):
    write_records_folder({"train": annotations(3)}, tmp_path / "records", LABELS)
    with pytest.raises(ResightError, match="has no val: int8 is calibrated on train"):
        Trial("model", tmp_path / "records", 0.005)
