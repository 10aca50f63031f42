"""Counts of proposals: which are tried, and which of those measured is taken."""

import io

import numpy as np
import pytest
from PIL import Image

from fixtures.records import image
from resight.exporting.trial import Trial
from resight.exporting.tune import SHARES_BEFORE, Step, counts_of, fastest, limit, recall_by_count, tune
from resight.inference.detector import load
from resight.label_map import LabelMap
from resight.records.writer import write_records_folder
from resight.types import Annotation, Box


@pytest.mark.parametrize(
    ("least", "taken"),
    [
        (0.500, (150, 150)),  # only the model's own is as good
        (0.495, (150, 50)),  # the fastest of those within the loss, not the fewest
        (0.300, (50, 25)),
    ],
)
def test_the_fastest_within_the_loss_is_taken(least, taken):
    steps = [Step(150, 150, 0.5, 90), Step(150, 100, 0.499, 80), Step(150, 50, 0.496, 60), Step(50, 50, 0.496, 61)]
    step = fastest([*steps, Step(50, 25, 0.31, 40)], least)
    assert (step.before, step.after) == taken


def test_counts_fall_from_the_models_own():
    assert counts_of(300) == [300, 200, 150, 100, 75, 50, 30]
    assert counts_of(2) == [2, 1]
    assert counts_of(500, SHARES_BEFORE) == [250, 125]


class Pretended:
    """A model whose mAP follows from its proposals, and whose time falls with them."""

    def __init__(self, aps):
        self.aps, self.asked = aps, []

    def ap(self, detector, title):
        count = detector.model.tfod.proposals
        self.asked.append(count)
        return self.aps(count)

    def milliseconds(self, looks):
        return [100.0 - number for number in range(len(looks))]


def test_a_model_is_given_the_fewest_that_lose_little(tfod_checkpoint, monkeypatch):
    detector = load(tfod_checkpoint(), "cpu")
    curve = np.minimum(np.arange(1, 41) / 12, 1)
    monkeypatch.setattr("resight.exporting.tune.recall_by_count", lambda *_: np.stack([curve, curve]))
    trial = Pretended(lambda count: 0.5 if count >= 13 else 0.49)
    reference, text = tune(detector, trial, 0.005)
    assert trial.asked == [40, 27, 20, 13]  # 10 and fewer lose recall, and need not be measured
    assert reference == 0.5 and detector.config.tfod.proposals == detector.model.tfod.proposals == 13
    assert "Exported with 13 proposals: mAP 0.5000" in text and "10 proposals: recall 0.833" in text


def test_steps_end_where_too_much_is_lost(tfod_checkpoint, monkeypatch):
    detector = load(tfod_checkpoint(), "cpu")
    monkeypatch.setattr("resight.exporting.tune.recall_by_count", lambda *_: np.ones((2, 40)))
    trial = Pretended(lambda count: 0.5 if count >= 25 else 0.4)
    tune(detector, trial, 0.005)
    assert trial.asked == [40, 27, 20] and detector.config.tfod.proposals == 27


def test_recall_grows_with_the_proposals(tfod_checkpoint, tmp_path):
    """Objects where the 1st, the 3rd and the 20th proposal are: the shares of them that the best ones reach."""
    checkpoint, payload = tfod_checkpoint(), image(3, (120, 90))
    detector = load(checkpoint, "cpu")
    places = detector.proposals(np.array(Image.open(io.BytesIO(payload))))[[0, 2, 19]]
    item = Annotation(payload, tuple(Box("stop", *map(float, place)) for place in places), filename="one.png")
    splits = {"train": [item], "val": [item]}
    write_records_folder(splits, tmp_path / "records", LabelMap.from_names(["stop", "yield", "merge"]))
    recall = recall_by_count(detector, Trial(checkpoint, tmp_path / "records", 0.005), 40)
    assert recall.shape == (2, 40) and recall[0, 0] >= 1 / 3 and recall[0, -1] == recall[1, 19] == 1
    assert (np.diff(recall, axis=1) >= 0).all() and recall[1, 1] < 1


def test_counts_reach_the_export(tfod_checkpoint):
    from resight.dialect import dialect_of
    from resight.inference.exported import card_of

    detector = load(tfod_checkpoint(), "cpu")
    limit(detector, None, 7)
    assert dialect_of(detector.config).proposal_counts(detector.model) == (None, 7)
    assert '"proposals": [\n  null,\n  7\n ]' in card_of(detector)
    graph = dialect_of(detector.config).to_body(detector.model).graph
    assert next(o for o in graph.output if o.name == "raw_detection_boxes").type.tensor_type.shape.dim[1].dim_value == 7
