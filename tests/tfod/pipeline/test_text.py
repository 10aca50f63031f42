import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.config.defaults import OPERATION_DEFAULTS
from resight.dialect import load_config
from resight.errors import ResightError
from resight.io.textproto import parse
from resight.tfod.pipeline.config import examine_pipeline, translate
from resight.tfod.pipeline.fields import EXTRACTORS
from resight.tfod.pipeline.text import edit_pipeline, merge_pipeline, with_limits, write_pipeline
from resight.tfod.pipeline.translation import WITHOUT
from resight.training.optim import lr_at

COUNT = st.integers(1, 4000)
AMOUNT = st.floats(0, 100)
ABOVE_0 = st.floats(1e-6, 10)
SHARE = st.floats(0, 1)


def keys(**strategies) -> st.SearchStrategy:
    return st.fixed_dictionaries({key.replace("__", "."): strategy for key, strategy in strategies.items()})


def pairs(strategy) -> st.SearchStrategy:
    return st.tuples(strategy, strategy)


RESIZERS = pairs(COUNT).flatmap(
    lambda sides: st.sampled_from(
        [
            {"model.tfod.pad": True, "model.tfod.pad_value": (1.0, 2.5, 0.0)},
            {"model.tfod.pad": False, "train.batch_size": 1},
            {"model.tfod.fixed_size": sides, "model.tfod.pad": False},
        ]
    ).map(lambda kind: {"model.min_size": min(sides), "model.max_size": max(sides), **kind})
)
WARMUPS = keys(train__warmup_steps=st.integers(1, 50), train__warmup_rate=st.floats(1e-9, 1e-6)) | st.just(
    {"train.warmup_steps": 0, "train.warmup_rate": None}
)
MILESTONES = st.lists(st.tuples(st.integers(60, 9000), SHARE), min_size=1, unique_by=lambda part: part[0]).map(
    lambda parts: {"train.milestones": tuple(sorted(parts)), "train.schedule": "steps"}
)
RATES = st.one_of(
    keys(
        train__schedule=st.just("cosine"),
        train__schedule_steps=st.integers(90, 9000),
        train__hold_steps=COUNT.map(lambda n: n % 9),
    ),
    keys(
        train__schedule=st.just("exponential"),
        train__schedule_steps=COUNT,
        train__decay=ABOVE_0,
        train__staircase=st.booleans(),
        train__least_rate=st.just(0.0),
        train__warmup=st.just("constant"),
    ),
    MILESTONES,
)
CONSTANT = st.just({"train.schedule": "constant", "train.warmup_steps": 0})
OPERATIONS = st.lists(
    st.sampled_from(sorted(OPERATION_DEFAULTS)).map(lambda name: {"name": name, "options": OPERATION_DEFAULTS[name]})
    | st.floats(0.1, 0.5).map(
        lambda v: {
            "name": "random_crop_image",
            "options": {**OPERATION_DEFAULTS["random_crop_image"], "min_area": v, "clip_boxes": 0.0},
        }
    )
)
MODELS = keys(
    model__name=st.sampled_from(sorted(EXTRACTORS.values())),
    model__start=st.just("none"),
    model__start_type=st.sampled_from(["detection", "full", "classification"]),
    model__tfod__anchor_scales=st.lists(ABOVE_0, min_size=1).map(tuple),
    model__tfod__anchor_ratios=st.lists(ABOVE_0, min_size=1).map(tuple),
    model__tfod__anchor_base=pairs(COUNT),
    model__tfod__anchor_stride=pairs(COUNT),
    model__tfod__anchor_offset=pairs(COUNT),
    model__tfod__clip_anchors=st.booleans(),
    model__tfod__share_boxes=st.booleans(),
    model__tfod__train_norms=st.booleans(),
    model__tfod__static_shapes=st.booleans(),
    model__tfod__matmul_crop=st.booleans(),
    model__tfod__rpn_score=SHARE,
    model__tfod__rpn_nms_iou=SHARE,
    model__tfod__proposals=st.integers(100, 500),
    model__tfod__rpn_batch=COUNT,
    model__tfod__rpn_positive=SHARE,
    model__tfod__box_batch=st.integers(1, 100),
    model__tfod__box_positive=SHARE,
    model__tfod__crop_size=st.integers(2, 100),
    model__tfod__rpn_stddev=ABOVE_0,
    model__tfod__box_weight=AMOUNT,
    model__tfod__score=SHARE,
    model__tfod__nms_iou=SHARE,
    model__tfod__detections_per_class=st.integers(1, 50),
    model__tfod__detections=st.integers(50, 500),
    model__tfod__max_boxes=COUNT,
    model__tfod__evaluated_boxes=COUNT,
    train__steps=COUNT,
    train__momentum=SHARE,
    train__learning_rate=st.floats(1e-5, 1),
    train__clip_norm=AMOUNT,
    augment__operations=OPERATIONS,
)
TREES = st.tuples(MODELS, RESIZERS, CONSTANT | st.tuples(RATES, WARMUPS).map(lambda two: {**two[0], **two[1]})).map(
    lambda parts: {**WITHOUT, "train.batch_size": 3, **parts[0], **parts[1], **parts[2]}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    (folder / "map.pbtxt").write_text("".join(f"item {{ id: {n} name: 'class {n}' }}" for n in range(1, 8)))
    for name in ("train-1.record", "train-2.record", "more 'quoted\".record", "test.record", "ckpt-0.index"):
        (folder / name).touch()
    return folder


def usual(tree: dict) -> dict:
    """What a config cannot tell apart: a warm-up of another form where there is none."""
    if tree["train.schedule"] == "exponential" and not tree["train.warmup_steps"]:
        del tree["train.warmup"]
    return tree


@given(TREES)
def test_what_is_written_reads_back_as_the_same_configuration(folder, tree):
    data = {
        "data.train": (f"{folder}/train-?.record", f"{folder}/more 'quoted\".record"),
        "data.test": (f"{folder}/test.record",),
        "data.label_map": f"{folder}/map.pbtxt",
    }
    config = load_config(None, {**usual(tree), **data})
    text = write_pipeline(config, 7)
    assert "#" not in text
    path = folder / "pipeline.config"
    path.write_text(text)
    pipeline = examine_pipeline(path).check()
    assert load_config(None, pipeline.overrides) == config
    assert pipeline.num_classes == 7 and not pipeline.ignored


EXTRAS = "train_config {  # ours\n  sync_replicas: true\n  max_number_of_boxes: 77\n"
READER = """train_input_reader {
  label_map_path: "map.pbtxt"
  num_readers: 2
  tf_record_input_reader { input_path: "gone.record" }
}
"""


def overrides(text: str) -> dict:
    return dict(translate(text).overrides)


@settings(max_examples=25)
@given(TREES, TREES)
def test_what_was_trained_otherwise_is_merged_and_the_rest_stays(tree, other):
    text = write_pipeline(load_config(None, usual(tree)), 7).replace("train_config {\n", EXTRAS) + READER
    config = load_config(None, usual(other))
    merged = merge_pipeline(text, config, 4)
    read = {key: value for key, value in overrides(merged).items() if not key.startswith("data.")}
    assert load_config(None, read) == config
    assert "num_classes: 4\n" in merged and merged.startswith("model {")
    assert EXTRAS in merged and READER.rstrip().removesuffix("}") in merged


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential"])
@pytest.mark.parametrize("other", ["constant", "cosine", "exponential"])
def test_another_kind_of_schedule_is_merged_where_its_numbers_are_the_same(schedule, other):
    tree = {"model.name": "faster_rcnn_resnet50_v1", **WITHOUT, "train.batch_size": 1, "train.learning_rate": 0.1}
    tree |= {"train.warmup_steps": 0, "train.steps": 9, "train.schedule_steps": 9, "model.start": "none"}
    text = write_pipeline(load_config(None, tree | {"train.schedule": schedule}), 7)
    merged = merge_pipeline(text, load_config(None, tree | {"train.schedule": other}), 7)
    assert merged == write_pipeline(load_config(None, tree | {"train.schedule": other}), 7)


def test_a_config_is_the_same_where_the_training_was(folder):
    start = 'fine_tune_checkpoint: "start/ckpt-0"\n  fine_tune_checkpoint_version: V2\n'
    tree = {"model.name": "faster_rcnn_resnet50_v1", **WITHOUT, "train.batch_size": 1, "train.learning_rate": 0.1}
    tree |= {"train.warmup_steps": 0, "train.steps": 9, "train.schedule_steps": 9}
    text = write_pipeline(load_config(None, tree), 7).replace("train_config {\n", EXTRAS + start) + READER
    config = load_config(None, overrides(text) | {"model.start": f"{folder}/start/ckpt-0", "data.train": ("x",)})
    assert merge_pipeline(text, config, 7) == text
    config = load_config(None, overrides(text) | {"model.start": "zoo", "data.path": "records", "train.ema": 0.5})
    merged = merge_pipeline(text, config, 7).splitlines()
    assert merged[:2] == [
        '# Trained on the records of "records", in place of the readers\' own.',
        "# TFOD has no word for train.ema = 0.5.",
    ]
    assert 'fine_tune_checkpoint: "zoo"' in "\n".join(merged)


def test_limits_of_an_export_are_in_its_config(folder):
    tree = {"model.name": "faster_rcnn_resnet50_v1", **WITHOUT, "train.batch_size": 1, "train.learning_rate": 0.1}
    text = write_pipeline(load_config(None, tree | {"train.steps": 9}), 7).replace("train_config {\n", EXTRAS) + READER
    text = text.replace("momentum_optimizer", "adam_optimizer")  # the model runs, however it was trained
    config = load_config(None, tree)
    assert with_limits(text, config, 7) == text
    more = with_limits(text, config.model_copy(update={"model": config.model.with_detections(400)}), 7)
    numbers = ("max_detections_per_class", "max_total_detections", "first_stage_max_proposals")
    assert all(f"{name}: 400\n" in more for name in numbers)
    as_before = {line.strip() for line in text.splitlines() if not line.strip().startswith(numbers)}
    assert as_before <= {line.strip() for line in more.splitlines()}
    # Of fewer, those that TFOD would refuse are as many.
    config = load_config(None, tree | {"train.steps": 9, "model.tfod.proposals": 40, "model.tfod.detections": 30})
    for fewer in (with_limits(text, config, 7), write_pipeline(config, 7)):
        read = load_config(None, translate(fewer, model_only=True).check().overrides).model.tfod
        assert (read.proposals, read.box_batch, read.detections, read.detections_per_class) == (40, 40, 30, 30)


def test_paths_may_be_others_than_the_configurations(folder):
    config = load_config(
        None,
        {
            "model.name": "faster_rcnn_resnet50_v1",
            **WITHOUT,
            "train.schedule": "constant",
            "train.learning_rate": 1,
            "train.warmup_steps": 0,
        },
    )
    records = {"train": [f"{folder}/train-?.record"], "test": [f"{folder}/test.record"]}
    text = write_pipeline(config, 7, records=records, label_map=f"{folder}/map.pbtxt", checkpoint=f"{folder}/ckpt-0")
    (folder / "other.config").write_text(text)
    overrides = examine_pipeline(folder / "other.config").check().overrides
    assert overrides["data.test"] == (f"{folder}/test.record",)
    assert overrides["model.start"] == f"{folder}/ckpt-0"


def test_what_tfod_has_no_word_for_is_named(folder):
    config = load_config(
        None, {"model.name": "faster_rcnn_resnet50_v1", "train.learning_rate": 0.1, "train.steps": 500}
    )
    text = write_pipeline(config, 3)
    named = re.findall(r"^# TFOD has no word for (\S+) =", text, re.MULTILINE)
    assert {"train.optimizer", "train.ema", "train.warmup_rate"} <= set(named)
    assert not {"train.steps", "train.learning_rate", "model.start"} & set(named)
    (folder / "partly.config").write_text(text)
    assert not examine_pipeline(folder / "partly.config").refused
    with pytest.raises(ResightError, match="none of TFOD's"):
        write_pipeline(load_config(), 3)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (9, 1), (60, 6), (100, 10), (405, 41)])
@pytest.mark.parametrize("schedule", [{}, {"train.schedule": "steps", "train.milestones": ((400, 0.01),)}])
def test_a_short_run_has_the_warm_up_that_it_had(folder, steps, warmup, schedule):
    tree = {"model.name": "faster_rcnn_resnet50_v1", "train.learning_rate": 0.1, "train.steps": steps, **schedule}
    config = load_config(None, tree)
    (folder / "short.config").write_text(write_pipeline(config, 7))
    read = examine_pipeline(folder / "short.config", data="records", start="none")
    assert not read.refused
    again = load_config(None, read.overrides)
    assert again.train.warmup_steps == warmup
    for step in range(warmup and warmup + 1):
        rates = [lr_at(each.train, step, step / steps) for each in (config, again)]
        assert rates[0] == pytest.approx(rates[1], abs=0.01), step


TEXT = """\
# the model
model {
  faster_rcnn {
    num_classes: 90  # COCO's
    image_resizer { keep_aspect_ratio_resizer { min_dimension: 600 } }
  }
}
train_config: {
  batch_size: 1; optimizer { momentum_optimizer { learning_rate {
    cosine_decay_learning_rate { total_steps: 9, warmup_steps: 3 } } } }
  num_steps: 9
}
train_input_reader { tf_record_input_reader { input_path: "a" input_path: ["b", "c"] } label_map_path: 'old' }
eval_input_reader { label_map_path: 'old' }
eval_input_reader { label_map_path: 'second' }
"""
COSINE = "train_config.optimizer.momentum_optimizer.learning_rate.cosine_decay_learning_rate"


def test_a_few_fields_change_and_the_rest_stays():
    changes = {
        "model.faster_rcnn.num_classes": 3,
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.min_dimension": 320,
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension": 640,
        f"{COSINE}.total_steps": 100,
        f"{COSINE}.learning_rate_base": 0.25,
        "train_config.num_steps": 100,
        "train_config.fine_tune_checkpoint": "it's/ckpt-0",
        "train_input_reader.tf_record_input_reader.input_path": ["x", "y"],
        "train_input_reader.label_map_path": "new",
        "eval_input_reader.label_map_path": "new",
        "eval_config.batch_size": 1,
        "train_config.batch_size": None,
    }
    text = edit_pipeline(TEXT.replace("\n", "\r\n"), changes)
    for kept in ("# the model\n", "num_classes: 3  # COCO's\n", "warmup_steps: 3", "'second'"):
        assert kept in text
    found = flat(text)
    for path, value in changes.items():
        expected = value if isinstance(value, list) else [value] if value is not None else []
        assert found.get(path, [])[: len(expected) or None] == expected, path
    assert found["eval_input_reader.label_map_path"] == ["new", "second"]
    assert {path: found[path] for path in found if path not in changes} == {
        path: values for path, values in flat(TEXT).items() if path not in changes
    }


def flat(text: str) -> dict[str, list]:
    """Values of all fields by their paths."""
    found: dict[str, list] = {}

    def walk(fields, path):
        for field in fields:
            place = f"{path}{field.name}"
            if isinstance(field.value, list):
                walk(field.value, f"{place}.")
            else:
                found.setdefault(place, []).append(field.value)

    walk(parse(text), "")
    return found


def test_a_whole_message_may_take_the_place_of_another():
    rate = COSINE.rpartition(".")[0]
    text = edit_pipeline(TEXT, {rate: {"constant_learning_rate": {"learning_rate": 0.5}}})
    assert "cosine" not in text and flat(text)[f"{rate}.constant_learning_rate.learning_rate"] == [0.5]
    assert flat(edit_pipeline("", {f"{rate}.constant_learning_rate.learning_rate": 1})) == {
        f"{rate}.constant_learning_rate.learning_rate": [1]
    }


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("model.faster_rcnn.image_resizer.fixed_shape_resizer.height", "has keep_aspect_ratio_resizer"),
        (f"{COSINE.rpartition('.')[0]}.constant_learning_rate", "has cosine_decay_learning_rate"),
        ("model.ssd.num_classes", "has faster_rcnn"),
        ("train_config.batchsize", "has no 'train_config.batchsize'"),
        ("train_config.batch_size.x", "batch_size is not a message"),
    ],
)
def test_a_change_that_does_not_apply_is_refused(path, says):
    with pytest.raises(ResightError, match=says):
        edit_pipeline(TEXT, {path: 1})


@given(st.permutations(sorted(flat(TEXT))), st.integers(0, 9))
def test_any_change_keeps_the_other_fields(paths, number):
    changes = dict.fromkeys(paths[: number + 1], number)
    before, after = flat(TEXT), flat(edit_pipeline(TEXT, changes))
    assert {key: value for key, value in after.items() if key not in changes} == {
        key: value for key, value in before.items() if key not in changes
    }
    for path in changes:
        assert after[path][0] == number
        assert path not in flat(edit_pipeline(TEXT, {path: None})) or path.startswith("eval_input_reader.")
