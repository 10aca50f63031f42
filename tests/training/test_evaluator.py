import os
import signal

import numpy as np
import pytest

import resight
from fixtures.runs import OFTEN, lines, state_of
from resight.evaluation.coco import MEASURES, CocoMetrics
from resight.evaluation.loop import evaluate_images
from resight.evaluation.operating_point import OperatingPoint
from resight.evaluation.saved import DETECTIONS, METRICS, load_evaluation
from resight.inference.detector import Detector
from resight.io.files import read_json
from resight.models.checkpoints import BEST, LAST, load_checkpoint
from resight.training import evaluator
from resight.training.train import train
from resight.training.trainer import Trainer


def test_an_evaluation_ends_at_a_signal_and_is_made_again(whole, shapes, tiny, tmp_path, monkeypatch):
    def then_stop(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from evaluate_images(*arguments, **options)

    config = tiny(shapes(train=5, val=1), train__steps=8, **OFTEN)
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "evaluate_images", then_stop)
        assert train(config, tmp_path).exit_code == 75
    state = load_checkpoint(tmp_path / LAST).state
    assert (state["step"], state["evaluated_at"], state["best"]) == (3, 0, None)
    train(config, tmp_path, resume=True)
    assert state_of(tmp_path) == state_of(whole)


def test_no_image_is_looked_at_after_the_signal(shapes, tiny, tmp_path, monkeypatch):
    seen = []

    def detect(detector, image):
        seen.append(image)
        os.kill(os.getpid(), signal.SIGTERM)
        return Detector.detect(detector, image)

    monkeypatch.setattr(evaluator, "Detector", type("Signalled", (Detector,), {"detect": detect}))
    assert train(tiny(shapes(train=5, val=3), train__steps=8, **OFTEN), tmp_path).exit_code == 75
    assert len(seen) == 1


def test_a_run_that_was_killed_while_it_evaluated_evaluates_at_the_same_step(
    whole, shapes, tiny, tmp_path, monkeypatch
):
    def killed(*_):
        raise SystemExit

    config = tiny(shapes(train=5, val=1), train__steps=8, **OFTEN)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "evaluate", killed)
        train(config, tmp_path)
    assert load_checkpoint(tmp_path / LAST).state["step"] == 3
    train(config, tmp_path, resume=True)
    assert state_of(tmp_path) == state_of(whole)
    assert load_checkpoint(tmp_path / BEST).state == load_checkpoint(whole / BEST).state


def test_a_run_that_was_killed_after_an_evaluation_does_not_tell_it_twice(whole, shapes, tiny, tmp_path, monkeypatch):
    evaluate = Trainer.evaluate

    def killed(self, *arguments):
        evaluate(self, *arguments)
        if self.state.step == 3:
            raise SystemExit

    config = tiny(shapes(train=5, val=1), train__steps=8, **OFTEN)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "evaluate", killed)
        train(config, tmp_path)
    assert [row["step"] for row in lines(tmp_path) if row["split"] == "val"] == [3]
    train(config, tmp_path, resume=True)
    assert [row["step"] for row in lines(tmp_path) if row["split"] == "val"] == [3, 6, 8]
    assert state_of(tmp_path) == state_of(whole)


def test_an_evaluation_that_measures_nothing_does_not_count_for_patience(shapes, tiny, tmp_path, monkeypatch):
    values = iter([None, None, 0.3])

    def measured(*_, **__):
        return CocoMetrics({item.key: None for item in MEASURES} | {"mAP": next(values)}, {}, 1, 1, 0), OperatingPoint(
            0.4
        )

    monkeypatch.setattr(evaluator, "measure", measured)
    config = tiny(shapes(train=6, val=1), train__steps=3, train__patience=2, train__batch_size=6)
    assert train(config, tmp_path).steps == 3


TFOD = {"model__name": "faster_rcnn_resnet50_v1", "model__tfod": {"pad": True, "proposals": 20, "detections": 20}}


@pytest.mark.parametrize("dialect", [{}, TFOD])
def test_the_best_evaluation_is_kept_as_evaluate_writes_it_and_test_is_not_touched(shapes, tiny, tmp_path, dialect):
    config = tiny(shapes(train=5, val=2, test=2), train__steps=2, **OFTEN, **dialect)
    train(config, tmp_path)
    folder = tmp_path / "evaluation"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "val/detections.safetensors",
        "val/metrics.json",
    ]
    kept, detections = read_json(folder / "val" / METRICS), load_evaluation(folder / "val" / DETECTIONS)
    again = resight.evaluate(tmp_path, split="val", device="cpu")
    # A training counts losses only where its dialect does, and looks at no proposals.
    assert again.metrics | {"losses": kept["losses"], "lost": kept["lost"]} == kept
    assert again.metrics["lost"]["all"]["objects"] == kept["lost"]["all"]["objects"] == kept["num_boxes"]
    measured = load_evaluation(folder / "val" / DETECTIONS)
    for table in ("images", "objects", "detections"):
        for name, column in getattr(measured, table).items():
            if name == "proposal_iou":  # evaluate looks at them, a training does not
                assert np.isnan(getattr(detections, table)[name]).all()
                continue
            assert np.array_equal(column, getattr(detections, table)[name], equal_nan=column.dtype.kind == "f"), name
