import math

import pytest
import torch

from fixtures.runs import OFTEN, SMALLEST
from resight.errors import ResightError
from resight.evaluation.coco import MEASURES, CocoMetrics
from resight.evaluation.loop import evaluate_images, measure
from resight.evaluation.operating_point import OperatingPoint
from resight.inference.detector import load
from resight.models.checkpoints import BEST, LAST, load_checkpoint
from resight.training import evaluator, learner
from resight.training import train as module
from resight.training.train import train
from resight.training.trainer import Diverged, Trainer


def measured(value):
    return CocoMetrics({item.key: value for item in MEASURES}, {}, 1, 1, 0), OperatingPoint(0.4)


def test_patience_ends_a_training_that_does_not_get_better(shapes, tiny, tmp_path, monkeypatch):
    values = iter([0.1, 0.3, 0.3, 0.2, 0.25])
    monkeypatch.setattr(evaluator, "measure", lambda *_, **__: measured(next(values)))
    config = tiny(shapes(train=6, test=1), train__steps=50, train__patience=3, train__batch_size=6, **SMALLEST)
    result = train(config, tmp_path)
    assert (result.exit_code, result.steps, result.best) == (0, 5, 0.3)
    best = load_checkpoint(tmp_path / BEST)
    assert best.state == {"step": 2, "selected_on": "test", "best": 0.3} and best.card.score == 0.4
    # Resumed, it is still out of patience.
    assert train(config, tmp_path, resume=True).steps == 5


def test_minutes_end_a_training_and_drive_its_schedule(shapes, tiny, tmp_path, monkeypatch):
    config = tiny(shapes(train=3), train__max_minutes=2, train__warmup_steps=0, train__learning_rate=0.001)
    monkeypatch.setattr(Trainer, "seconds", lambda self: 30.0 * self.state.step)
    rates = []
    monkeypatch.setattr(learner, "set_lr", lambda _, rate: rates.append(rate))
    result = train(config, tmp_path)
    assert (result.exit_code, result.steps) == (0, 4)
    assert rates == pytest.approx([0.001 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75)])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_record_that_cannot_be_used_stops_the_training_or_is_counted(shapes, tiny, tmp_path, split):
    good, bad = shapes(train=3, val=2), shapes(broken=1, train=3, val=2)
    other = {"train": "val", "val": "train"}[split]
    globs = {f"data__{split}": f"{bad}/{split}-*", f"data__{other}": f"{good}/{other}-*"}
    config = tiny("", data__label_map=str(good / "label_map.pbtxt"), train__steps=2, **globs)
    with pytest.raises(ResightError) as caught:
        train(config, tmp_path / "stop")
    assert f"{split}-00000" in caught.value.where
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_record": "skip"})})
    result = train(skipping, tmp_path / "skip")
    assert result.exit_code == 0 and "1 records skipped" in result.text()
    assert load_checkpoint(tmp_path / "skip" / LAST).state["skipped"] == 1


def test_a_training_that_can_use_nothing_ends(shapes, tiny, tmp_path, monkeypatch):
    def broken(self, item):
        return ResightError("is damaged")

    monkeypatch.setattr("resight.input.dataset.TrainingSet.__getitem__", broken)
    with pytest.raises(ResightError, match="no record of the training split can be used"):
        train(tiny(shapes(train=3), train__steps=9, data__on_bad_record="skip"), tmp_path)


def test_one_bad_record_that_comes_again_and_again_ends_nothing(shapes, tiny, tmp_path):
    config = tiny(shapes(broken=1, train=2), train__steps=8, train__batch_size=1, data__on_bad_record="skip", **OFTEN)
    assert train(config, tmp_path).exit_code == 0


def test_it_learns_the_pictures_it_is_shown(shapes, tiny, tmp_path):
    config = tiny(
        shapes(train=6),
        model__name="tf_efficientnet_lite0",
        model__start="pretrained",
        model__heads=2,
        train__steps=36,
        train__learning_rate=0.001,
        train__warmup_steps=5,
        train__ema=0.9,
        augment__color=0,
        augment__scale=(1, 1),
    )
    result = train(config, tmp_path)
    detector = load(result.run)
    plan = module.make_plan(config)
    images = evaluate_images(detector, plan.train, range(len(plan.train)), on_error=pytest.fail)
    results = [result for _, result in images]
    found = [result.truth for result in results], [result.detections for result in results]
    metrics, point = measure(*found, detector.classes)
    assert metrics.summary["AP50"] > 0.8
    assert point.f1 > 0.8


def test_a_loss_that_is_not_finite_ends_with_the_batch_and_the_last_good_checkpoint(shapes, tiny, tmp_path):
    rate = {"train__learning_rate": 1e30, "train__warmup_steps": 0}
    config = tiny(shapes(train=5), model__heads=2, train__steps=9, checkpoint__every_steps=1, **rate)
    with pytest.raises(Diverged, match="not finite at step 2") as caught:
        train(config, tmp_path)
    assert caught.value.exit_code == 1
    assert "train.learning_rate" in str(caught.value) and str(tmp_path / "diverged") in str(caught.value)
    assert len(list((tmp_path / "diverged").glob("record-*.png"))) in (1, 2)
    last = load_checkpoint(tmp_path / LAST)
    assert last.state["step"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in last.tensors.values())
