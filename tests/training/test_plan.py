from types import SimpleNamespace

import numpy as np
import pytest
import torch

from resight.config.toml_text import to_toml
from resight.dialect import load_config
from resight.errors import ResightError
from resight.label_map import LabelMap
from resight.models.checkpoints import Checkpoint, ModelMetadata
from resight.records.writer import write_records_folder
from resight.training.plan import _steps, make_plan
from resight.training.start import start_model
from resight.training.state import State


def started(plan):
    return start_model(plan.config, plan.start, plan.classes, plan.anchors)


def steps(per_epoch, once=0, **train):
    """With batches of 8; ``once``: those that hold every image once, by default an epoch."""
    config = load_config(None, {f"train.{key}": value for key, value in train.items()})
    return _steps(config, 8 * (once or per_epoch), per_epoch)


@pytest.mark.parametrize(
    ("per_epoch", "options", "expected"),
    [
        (1, {}, 1_000),
        (25, {}, 1_000),
        (26, {}, 1_040),
        (1_249, {}, 49_960),
        (1_300, {}, 50_000),
        (10**6, {}, 50_000),
        (100, {"accumulate": 2}, 2_000),
        (60, {"once": 30}, 1_200),  # repeats do not make a training longer, unless epochs are asked for
        (60, {"once": 30, "epochs": 2}, 120),
        (7, {"epochs": 3}, 21),
        (7, {"epochs": 0.01}, 1),
        (10**6, {"epochs": 2}, 2 * 10**6),
        (7, {"epochs": 2, "accumulate": 4}, 4),
        (7, {"steps": 5}, 5),
        (10**6, {"steps": 10**6}, 10**6),
        (7, {"max_minutes": 3}, 50_000),
        (7, {"max_minutes": 3, "steps": 5}, 5),
        (7, {"max_minutes": 3, "epochs": 2}, 14),
    ],
)
def test_how_many_steps_a_training_takes(per_epoch, options, expected):
    assert steps(per_epoch, **options) == expected


@pytest.mark.parametrize(
    ("state", "heads", "options", "expected"),
    [
        ({"default_steps": 1_100}, 2, {}, 1_100),  # noted, whatever the default is now
        ({"default_steps": 1_100}, 2, {"steps": 7}, 7),
        ({}, 1, {}, 2_400),  # 60 batches with repeats: what the versions before counted
        ({}, 2, {}, 1_200),
        ({}, 2, {"max_minutes": 3}, 50_000),
    ],
)
def test_a_resumed_training_is_as_long_as_it_was_meant_to_be(state, heads, options, expected):
    config = load_config(None, {f"train.{key}": value for key, value in options.items()})
    card = ModelMetadata(config.model.model_copy(update={"heads": heads}), LabelMap.from_names(["a"]), None)
    assert _steps(config, 8 * 30, 60, Checkpoint(card, {}, state)) == expected


def test_what_is_trained_and_what_is_watched(shapes, tiny):
    plan = make_plan(tiny(shapes(train=9, val=3, test=2), train__steps=30))
    assert (len(plan.train), plan.validation_name, len(plan.validation), plan.steps) == (9, "val", 3, 30)
    text = plan.text()
    for said in (
        "test_efficientnet, 64-96 px, start: none",
        "9 images to train on, 3 for validation (val)",
        "30 steps (6.0 epochs) in batches of 2 images",
        "anchor recall 100.0% at IoU .5",
        # Pictures 0, 2, ... show one square, 1, 3, ... two; the colours take turns.
        "classes   red 9 in 9 images, blue 4 in 4 images",
    ):
        assert said in text


@pytest.mark.parametrize("model", [{}, {"model__name": "faster_rcnn_resnet50_v1", "model__start": "none"}])
def test_the_number_of_classes_must_be_as_the_configuration_says(shapes, tiny, model):
    assert make_plan(tiny(shapes(train=3), data__num_classes=2)).classes == ("red", "blue")
    with pytest.raises(ResightError, match=r"has 2 classes \(red, blue\), and data.num_classes is 3") as caught:
        make_plan(tiny(shapes(train=3), data__num_classes=3))
    assert caught.value.where.endswith("records")


def test_without_val_the_test_part_is_watched_and_that_is_said(shapes, tiny):
    plan = make_plan(tiny(shapes(train=3, test=2)))
    assert plan.validation_name == "test" and len(plan.validation) == 2
    assert "note      no val split: the test split validates" in plan.text()
    alone = make_plan(tiny(shapes(train=3)))
    assert alone.validation is None and "none for validation" in alone.text()


def test_what_cannot_be_planned_is_refused(shapes, tiny, tmp_path):
    both = tiny(shapes(train=3), train__epochs=2, train__steps=3)
    no_such = tiny(shapes(train=3), augment__flip_pairs={"red": "green"})
    for config, answer in (
        (load_config(), "no data"),
        (both, "set epochs or steps, not both"),
        (no_such, "no class is called green"),
        (tiny(shapes(val=2)), "no records to train on"),
        (tiny(tmp_path), str(tmp_path)),
    ):
        with pytest.raises(ResightError, match=answer):
            make_plan(config)


def handed(tmp_path, classes, draw):
    annotation = draw("a", 1)
    boxes = [(name, box) for name, box in zip(classes, annotation.boxes, strict=False)]
    from dataclasses import replace

    annotation = replace(annotation, boxes=tuple(replace(box, label=name) for name, box in boxes))
    write_records_folder({"train": [annotation]}, tmp_path / "records", LabelMap.from_names(classes))
    return tmp_path / "records"


def test_what_a_flip_exchanges_is_said_and_stated_in_the_configuration(tmp_path, tiny, squares):
    data = handed(tmp_path, ["turnLeft", "turnRight", "keepRight", "stop"], squares)
    plan = make_plan(tiny(data))
    assert plan.config.augment.flip_pairs == {"turnLeft": "turnRight"}
    assert "a flip exchanges turnLeft and turnRight" in plan.text()
    assert "images with keepRight are not flipped" in plan.text()
    assert "no training box of keepRight, stop" in plan.text()
    quiet = make_plan(tiny(data, augment__flip=0))
    assert quiet.config.augment.flip_pairs == {} and "flip" not in quiet.text()


def test_the_first_weights_follow_from_the_seed(shapes, tiny):
    def weights(seed):
        plan = make_plan(tiny(shapes(train=3), train__seed=seed))
        return started(plan)[0].state_dict()

    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7), np.random.rand(7)
    again, other = weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_training_starts_from_the_weights_it_is_told(shapes, tiny, untrained):
    from resight.models.checkpoints import load_checkpoint

    config = tiny(shapes(train=3), model__start=str(untrained), model__anchors="default")
    model, report = started(make_plan(config))
    stored = load_checkpoint(untrained).weights()
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert report["start"] == str(untrained) and report["new"] == []
    packaged = {"model__name": "tf_efficientnet_lite0"}
    pretrained, said = started(make_plan(tiny(shapes(train=3), **packaged, model__start="pretrained")))
    assert said["start"] == "ImageNet (packaged)"
    drawn = started(make_plan(tiny(shapes(train=3), **packaged)))[0].state_dict()
    body = {key: value for key, value in pretrained.state_dict().items() if "body" in key and value.ndim == 4}
    assert body and not any(torch.equal(value, drawn[key]) for key, value in body.items())
    with pytest.raises(ResightError, match="there is no such model"):
        started(make_plan(tiny(shapes(train=3), model__start="nowhere")))
    with pytest.raises(ResightError, match=r"Did you mean 'faster_rcnn_resnet50_v1_640x640_coco17_tpu-8'\?"):
        make_plan(tiny(shapes(train=3), model__start="faster_rcnn_resnet50_v1_640x640_coco17_tpu8"))


def test_absurd_plans_are_refused_or_noted(shapes, tiny):
    with pytest.raises(ResightError, match=r"model\.min_size: is 1 px, and the minimum is 32"):
        make_plan(tiny(shapes(train=8, val=3), model__min_size=1))
    plan = make_plan(tiny(shapes(train=8, val=3), train__batch_size=1000))
    assert "note      train.batch_size is larger than the training set: a batch is all 8 images" in plan.text()
    assert "larger than" not in make_plan(tiny(shapes(train=8, val=3), train__batch_size=8)).text()


def test_what_tfods_dialect_does_unasked_is_said(tmp_path, tiny, squares):
    data = handed(tmp_path, ["turnLeft", "stop"], squares)
    tfod = {"model__name": "faster_rcnn_resnet50_v1", "model__tfod": {"max_boxes": 1}}
    plain = make_plan(tiny(data, **tfod))
    assert "boxes are cut off, beyond the first 1 of their images" in plain.text() and "flip" not in plain.text()
    assert "has no effect" not in plain.text()
    fit = make_plan(tiny(data, **tfod, model__anchors="fit"))
    assert 'model.anchors = "fit" has no effect' in fit.text() and fit.anchors == plain.anchors
    flipped = make_plan(tiny(data, **tfod, augment__operations=[{"name": "random_horizontal_flip"}]))
    assert "random_horizontal_flip mirrors turnLeft too, which keep their class" in flipped.text()
    assert flipped.config.augment.flip_pairs == {}


def test_an_unknown_model_is_refused_before_the_data_is_read(tiny, tmp_path):
    with pytest.raises(ResightError, match="unknown model 'resnet999'"):
        make_plan(tiny(tmp_path / "none", model__name="resnet999"))


def test_small_objects_are_said_with_what_helps(shapes, tiny):
    text = make_plan(tiny(shapes(train=9, val=3), model__min_size=32, model__max_size=48)).text()
    assert "smaller than 16 px at training size: --size 64,96 helps" in text and "model.tile" in text
    assert "at training size" not in make_plan(tiny(shapes(train=9, val=3), model__min_size=96)).text()


def test_a_training_of_minutes_names_no_steps_it_will_not_take(shapes, tiny):
    plan = make_plan(tiny(shapes(train=9), train__max_minutes=6))
    assert "training  6 min in batches of 2 images" in plan.text()
    assert plan.epochs(50_000) == "10,000 epochs" and plan.epochs(7) == "1.4 epochs"


def test_images_with_more_objects_than_detections_are_told(shapes, tiny):
    # Pictures 1, 3, ... show two squares.
    text = make_plan(tiny(shapes(train=9, val=3), model__detections=1)).text()
    assert "note      train: 4 images have more objects" in text and "note      val: 1 image has more objects" in text
    assert "2 in train-1.png: --set model.detections=100" in text
    assert "more objects" not in make_plan(tiny(shapes(train=9, val=3), model__detections=2)).text()


def test_a_number_of_detections_without_effect_is_told(shapes, tiny):
    without_effect = make_plan(tiny(shapes(train=9, val=3), evaluate__max_detections=200)).text()
    assert "note      evaluate.max_detections = 200" in without_effect and "model.detections" in without_effect
    both = tiny(shapes(train=9, val=3), evaluate__max_detections=200, model__detections=200)
    assert "max_detections" not in make_plan(both).text()


@pytest.mark.parametrize(
    ("changes", "has", "expected"),
    [
        ({"train__device": "cpu"}, None, "float32"),
        ({}, True, "bfloat16"),
        ({}, False, "float32"),
        ({"model__name": "faster_rcnn_resnet50_v1"}, True, "float32"),
        ({"model__name": "faster_rcnn_resnet50_v1", "train__precision": "bfloat16"}, True, "bfloat16"),
        ({"train__precision": "float32"}, True, "float32"),
    ],
)
def test_the_arithmetic_is_that_of_the_gpu_unless_it_is_named(shapes, tiny, monkeypatch, changes, has, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0 if has is None else 1)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: bool(has))
    plan = make_plan(tiny(shapes(train=3), **{"train__device": "auto", **changes}))
    assert f'precision = "{expected}"' in to_toml(plan.config)
    assert (", bfloat16" in plan.text()) == (expected == "bfloat16")


@pytest.mark.parametrize(("began", "goes_on"), [("bfloat16", "bfloat16"), ("", "float32")])
def test_a_training_goes_on_in_the_arithmetic_it_began_with(shapes, tiny, began, goes_on):
    config = tiny(shapes(train=3))
    first = make_plan(config)
    card = ModelMetadata(first.config.model, first.records.label_map, first.anchors)
    resumed = Checkpoint(card, {}, State(precision=began).to_json())
    assert make_plan(config, resumed).config.train.precision == goes_on
    chosen = config.model_copy(update={"train": config.train.model_copy(update={"precision": "float16"})})
    assert make_plan(chosen, resumed).config.train.precision == "float16"


def test_repeats_are_settled_by_the_plan_and_a_resumed_run_keeps_its_own(shapes, tiny):
    def planned(order=None, **keys):
        config = tiny(shapes(train=9), **keys)
        card = SimpleNamespace(anchors=None, model=config.model)
        resumed = order and SimpleNamespace(state={"order": order}, card=card)
        return make_plan(config, resumed).config.data.repeat_threshold

    assert planned() == 0.5  # blue is on 4 of 9
    assert planned("data x, 9 images") == 0.0
    assert planned("batch_size 2, repeat_threshold 0.25, seed 1") == 0.25
    assert planned("data x, 9 images", data__repeat_threshold=0.75) == 0.75


def test_repeats_are_those_of_the_dialect_that_the_start_turns_out_to_have(shapes, tiny, monkeypatch):
    config = tiny(shapes(train=9))
    of_tfod = tiny(shapes(train=9), model__name="faster_rcnn_resnet50_v1", model__start="none")
    monkeypatch.setattr("resight.training.plan.find_start", lambda *_: (None, of_tfod))
    assert make_plan(config).config.data.repeat_threshold == 0.0
