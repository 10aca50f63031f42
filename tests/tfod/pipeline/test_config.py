import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resight.config.defaults import OPERATION_DEFAULTS
from resight.config.tree import Config
from resight.dialect import load_config, load_settings
from resight.errors import ResightError
from resight.label_map import parse_label_map
from resight.tfod.pipeline.config import examine_pipeline, is_pipeline
from resight.tfod.pipeline.fields import refuse_tfod_keys, tfod_equivalent
from resight.tfod.pipeline.translation import classes_of

# Of its own make, with everything that the stock configurations of Faster R-CNN ResNet V1 have.
TEXT = """\
# a comment with { and "
model: {
  faster_rcnn {
    num_classes: 3
    image_resizer < keep_aspect_ratio_resizer { min_dimension: 600, max_dimension: 1024; pad_to_max_dimension: true } >
    feature_extractor {
      type: 'faster_rcnn_' "resnet101_keras"
      batch_norm_trainable: t
    }
    first_stage_anchor_generator {
      grid_anchor_generator {
        scales: [0.25, .5, 1e0]
        aspect_ratios: 0.5 aspect_ratios: 2.0f
        height_stride: 8
        width_stride: 16
      }
    }
    first_stage_box_predictor_conv_hyperparams {
      op: CONV
      regularizer { l2_regularizer { weight: 0.0 } }
      initializer { truncated_normal_initializer { stddev: 0.02 } }
    }
    first_stage_nms_iou_threshold: 0.65
    first_stage_max_proposals: 250
    first_stage_localization_loss_weight: 2.0
    initial_crop_size: 14
    maxpool_kernel_size: 2
    maxpool_stride: 2
    second_stage_box_predictor {
      mask_rcnn_box_predictor {
        use_dropout: false
        dropout_keep_probability: 1.0
        fc_hyperparams { op: FC initializer { variance_scaling_initializer { mode: FAN_AVG } } }
        share_box_across_classes: true
      }
    }
    second_stage_post_processing {
      batch_non_max_suppression { score_threshold: 0.01 max_total_detections: 300 }
      score_converter: SOFTMAX
    }
    use_static_shapes: true
    use_static_balanced_label_sampler: true
    use_matmul_crop_and_resize: true
    clip_anchors_to_image: true
  }
}
train_config: {
  batch_size: 4
  num_steps: 900
  sync_replicas: true
  use_bfloat16: true
  gradient_clipping_by_norm: 5
  optimizer {
    momentum_optimizer: {
      learning_rate: {
        cosine_decay_learning_rate {
          learning_rate_base: 0.01
          total_steps: 1000
          warmup_learning_rate: 1e-3
          warmup_steps: 50
          hold_base_rate_steps: 7
        }
      }
      momentum_optimizer_value: 0.8
    }
    use_moving_average: false
  }
  fine_tune_checkpoint: "start/ckpt-0"
  fine_tune_checkpoint_type: "full"
  fine_tune_checkpoint_version: V2
  data_augmentation_options { random_horizontal_flip { } }
  data_augmentation_options { random_square_crop_by_scale { scale_min: 0.7 num_scales: 3 } }
}
train_input_reader: {
  label_map_path: "map.pbtxt"
  num_readers: 2
  max_number_of_boxes: 50
  tf_record_input_reader { input_path: "train-?.record" input_path: "more.record" }
}
eval_config: { metrics_set: "coco_detection_metrics" num_visualizations: 3 }
eval_input_reader: {
  label_map_path: "map.pbtxt"
  shuffle: false
  tf_record_input_reader { input_path: ["test.record"] }
}
"""
MAP = "".join(f"item {{ id: {number} name: '{name}' }}\n" for number, name in enumerate(("a", "b", "c"), 1))
RATE = re.search(r"cosine_decay_learning_rate \{.*?\}", TEXT, re.DOTALL).group()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """``project(text)``: the path of a config beside all that ``TEXT`` names."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "start").mkdir()
    for name in ("train-0.record", "train-1.record", "more.record", "test.record", "start/ckpt-0.index"):
        (folder / name).touch()
    (folder / "map.pbtxt").write_text(MAP)

    def write(text=TEXT, name="pipeline.config") -> str:
        (folder / name).write_text(text, encoding="utf-8", newline="")
        return str(folder / name)

    return write


def config(path, **options) -> Config:
    return load_config(None, examine_pipeline(path, **options).check().overrides)


def refusals(path, **options) -> str:
    with pytest.raises(ResightError) as caught:
        examine_pipeline(path, **options).check()
    assert caught.value.where == path
    return caught.value.message


def test_a_config_becomes_our_configuration(project):
    path = project()
    folder = os.path.dirname(path)
    ours = config(path)
    tfod = ours.model.tfod
    assert (ours.model.name, ours.model.min_size, ours.model.max_size) == ("faster_rcnn_resnet101_v1", 600, 1024)
    assert (ours.model.start, ours.model.start_type) == (f"{folder}/start/ckpt-0", "full")
    assert (tfod.pad, tfod.fixed_size, tfod.train_norms, tfod.share_boxes) == (True, None, True, True)
    assert (tfod.anchor_scales, tfod.anchor_ratios, tfod.anchor_stride) == ((0.25, 0.5, 1.0), (0.5, 2.0), (8, 16))
    assert (tfod.static_shapes, tfod.matmul_crop, tfod.clip_anchors) == (True, True, True)
    assert (tfod.rpn_stddev, tfod.rpn_nms_iou, tfod.proposals, tfod.score) == (0.02, 0.65, 250, 0.01)
    assert (tfod.rpn_box_weight, tfod.box_weight) == (2.0, 1.0)  # the second is absent, and 1 by the proto
    assert (tfod.rpn_batch, tfod.box_batch, tfod.detections_per_class, tfod.detections) == (256, 64, 100, 300)
    assert (tfod.max_boxes, tfod.evaluated_boxes) == (50, 100)
    train = ours.train
    assert (train.optimizer, train.momentum, train.clip_norm, train.ema) == ("momentum", 0.8, 5.0, 0.0)
    assert (train.steps, train.batch_size, train.accumulate, train.precision) == (900, 4, 1, "float32")
    assert (train.schedule, train.learning_rate, train.schedule_steps, train.hold_steps) == ("cosine", 0.01, 1000, 7)
    assert (train.warmup_steps, train.warmup_rate) == (50, 0.001)
    crop = {**OPERATION_DEFAULTS["random_square_crop_by_scale"], "scale_min": 0.7, "num_scales": 3}
    assert [(step.name, step.values) for step in ours.augment.operations] == [
        ("random_horizontal_flip", {"probability": 0.5}),
        ("random_square_crop_by_scale", crop),
    ]
    assert ours.data.train == (f"{folder}/train-?.record", f"{folder}/more.record")
    assert (ours.data.test, ours.data.label_map) == ((f"{folder}/test.record",), f"{folder}/map.pbtxt")
    assert examine_pipeline(path).check().num_classes == 3


def test_every_field_is_accounted_for_with_its_line(project):
    pipeline = examine_pipeline(project())
    accounts = pipeline.text().splitlines()
    for number, line in enumerate(TEXT.splitlines(), 1):
        for name in re.findall(r"(\w+): *[\w.'\"\[-]", line.partition("#")[0]):
            assert any(f"line {number}, " in account and name in account for account in accounts), (number, name)
    ignored = "\n".join(pipeline.ignored)
    for name in ("use_bfloat16", "sync_replicas", "num_readers", "num_visualizations", "variance_scaling_initializer"):
        assert (name in ignored) or "fc_hyperparams.initializer" in ignored
    assert not pipeline.refused and not pipeline.missing
    assert all(line.startswith("#") for line in accounts)


def test_what_the_proto_has_for_absent_fields(project):
    minimal = re.sub(r"keep_aspect_ratio_resizer \{.*?\}", "keep_aspect_ratio_resizer {}", TEXT)
    minimal = minimal.replace("batch_size: 4\n", "batch_size: 1\n").replace(RATE, "cosine_decay_learning_rate {}")
    ours = config(project(minimal.replace("use_moving_average: false", "").replace("num_steps: 900", "")))
    assert (ours.model.min_size, ours.model.max_size, ours.model.tfod.pad) == (600, 1024, False)
    train = ours.train
    assert (train.learning_rate, train.schedule_steps, train.warmup_steps) == (0.002, 4000000, 10000)
    assert (train.warmup_rate, train.hold_steps, train.steps) == (0.0002, 0, None)
    assert config(project(TEXT.replace("batch_size: 4\n", ""))).train.batch_size == 32


def test_a_fixed_size(project):
    text = re.sub(r"keep_aspect_ratio_resizer \{.*?\}", "fixed_shape_resizer { height: 96 width: 64 }", TEXT)
    ours = config(project(text))
    assert (ours.model.tfod.fixed_size, ours.model.tfod.pad) == ((96, 64), False)
    assert (ours.model.min_size, ours.model.max_size) == (64, 96)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("constant_learning_rate { learning_rate: .5 }", {"schedule": "constant", "learning_rate": 0.5}),
        (
            "cosine_decay_learning_rate { learning_rate_base: .5 total_steps: 9 warmup_steps: 0 }",
            {"schedule": "cosine", "learning_rate": 0.5, "schedule_steps": 9, "warmup_rate": None},
        ),
        (
            "exponential_decay_learning_rate { initial_learning_rate: .5 decay_steps: 9 staircase: false }",
            {"schedule": "exponential", "learning_rate": 0.5, "schedule_steps": 9, "decay": 0.95, "staircase": False},
        ),
        (
            "exponential_decay_learning_rate { initial_learning_rate: .5 burnin_steps: 3 min_learning_rate: .1 }",
            {"warmup": "constant", "warmup_steps": 3, "warmup_rate": 0.5, "least_rate": 0.1, "staircase": True},
        ),
        (
            "manual_step_learning_rate { initial_learning_rate: .5 schedule { step: 4 learning_rate: .3 }"
            " schedule { step: 6 learning_rate: .2 } }",
            {"schedule": "steps", "learning_rate": 0.5, "milestones": ((4, 0.3), (6, 0.2)), "warmup_steps": 0},
        ),
        (
            "manual_step_learning_rate { initial_learning_rate: .1 warmup: true schedule { step: 4 learning_rate: .5 }"
            " schedule { step: 6 learning_rate: .2 } }",
            {"learning_rate": 0.5, "warmup_rate": 0.1, "warmup_steps": 4, "milestones": ((6, 0.2),)},
        ),
    ],
)
def test_learning_rates(project, rate, expected):
    train = config(project(TEXT.replace(RATE, rate))).train
    assert {key: getattr(train, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("steps", "total", "hold", "trained"),
    [
        ("num_steps: 50", 50, 0, True),  # the last update is the one after 49
        ("num_steps: 51", 50, 0, False),  # TFOD divides 0 by 0
        ("", 50, 0, False),
        ("num_steps: 900", 50, 7, True),  # the base rate, and 0 after the step 50
        ("num_steps: 900", 57, 7, True),
        ("num_steps: 10", 49, 7, False),  # TFOD raises a ValueError, however few steps there are
    ],
)
def test_a_cosine_without_length_is_refused_where_training_comes_to_it(project, steps, total, hold, trained):
    text = TEXT.replace("num_steps: 900", steps).replace("total_steps: 1000", f"total_steps: {total}")
    path = project(text.replace("hold_base_rate_steps: 7", f"hold_base_rate_steps: {hold}"))
    if trained:
        train = config(path).train
        assert (train.warmup_steps, train.schedule_steps, train.hold_steps) == (50, total, hold)
        assert config(path, changes={"train.steps": 40}).train.steps == 40
    else:
        assert re.search(
            r"^  line \d+, .*cosine_decay_learning_rate.total_steps: .*schedule_steps", refusals(path), re.M
        )
    if total == 50 and hold == 0:
        assert config(path, changes={"train.steps": 50}).train.steps == 50
        with pytest.raises(ResightError, match="no rate at step 50"):
            examine_pipeline(path, changes={"train.steps": 51}).check()


def test_each_augmentation_has_the_options_of_its_proto(project):
    flips = "data_augmentation_options { random_horizontal_flip { } }"
    text = "".join(f"data_augmentation_options {{ {name} {{ }} }}\n" for name in OPERATION_DEFAULTS)
    text += "data_augmentation_options { random_crop_image { clip_boxes: false min_area: .2 } }"
    steps = config(project(TEXT.replace(flips, text))).augment.operations
    assert [(step.name, step.values) for step in steps[:8]] == list(OPERATION_DEFAULTS.items())
    assert (steps[8].values["clip_boxes"], steps[8].values["min_area"]) == (0.0, 0.2)


REFUSED = [
    ("faster_rcnn {", "ssd {", 'line 3, model.ssd: .*"faster_rcnn_resnet101_keras".*supported is faster_rcnn with'),
    ("faster_rcnn {", "center_net {", "line 3, model.center_net: .*supported is faster_rcnn"),
    ('"resnet101_keras"', "'resnet101'", "line 7, .*type: \"faster_rcnn_resnet101\" .*'faster_rcnn_resnet101_keras'"),
    ('"resnet101_keras"', "'resnet50_fpn_keras'", "resnet50_fpn_keras.*'faster_rcnn_resnet50_keras'"),
    ("num_classes: 3", "num_classes: 3 number_of_stages: 3", "line 4, .*number_of_stages: 3 .*supported is 2"),
    ("num_classes: 3", "hard_example_miner {}", "hard_example_miner"),
    ("num_classes: 3", "num_classes: 0", "num_classes: 0 classes"),
    ("use_dropout: false", "use_dropout: true", "use_dropout: true .supported is false"),
    ("use_dropout: false", "predict_instance_masks: true", "Mask R-CNN"),
    ("score_threshold: 0.01", "soft_nms_sigma: .5", "soft_nms_sigma: 0.5 .supported is 0.0"),
    ("score_converter: SOFTMAX", "score_converter: SIGMOID", "score_converter: SIGMOID .supported is SOFTMAX"),
    ("score_converter: SOFTMAX", "", "score_converter: IDENTITY, the default .supported is SOFTMAX"),
    ("weight: 0.0", "weight: 0.0004", "l2_regularizer.weight: 0.0004"),
    ("weight: 0.0", "", "l2_regularizer.weight: 1.0, the default"),
    ("truncated_normal_initializer", "random_normal_initializer", "random_normal_initializer.*truncated_normal"),
    ("initializer { truncated_normal_initializer { stddev: 0.02 } }", "", "initializer: is missing"),
    ("initial_crop_size: 14", "", "initial_crop_size: .*must be greater than 0"),
    ("first_stage_max_proposals: 250", "first_stage_max_proposals: 9", "64 is more than the 9"),
    ("max_total_detections: 300", "max_total_detections: 30", "100 is more than the 30"),
    ("use_static_balanced_label_sampler: true", "", "use_static_shapes: true .supported together"),
    ("scales: [0.25, .5, 1e0]", "", "scales: must be"),
    ("min_dimension: 600", "min_dimension: 2000", "min_size 2000 is larger than max_size 1024"),
    ("min_dimension: 600", "resize_method: BICUBIC", "resize_method: BICUBIC .supported is BILINEAR"),
    ("min_dimension: 600", "per_channel_pad_value: 1", "per_channel_pad_value"),
    ("num_steps: 900", "freeze_variables: 'conv1'", 'freeze_variables: "conv1"'),
    ("momentum_optimizer: {", "adam_optimizer: {", "adam_optimizer.*momentum_optimizer"),
    ("use_moving_average: false", "use_moving_average: true", "use_moving_average: true"),
    (RATE, "", "learning_rate: is missing"),
    ("warmup_learning_rate: 1e-3", "warmup_learning_rate: 1", "warmup_learning_rate: 1.0 is more than the 0.01"),
    ("total_steps: 1000", "total_steps: 49", "total_steps: .*schedule_steps 49 ends within the 50"),
    (RATE, "manual_step_learning_rate {}", "schedule: must have steps"),
    ("random_horizontal_flip", "ssd_random_crop", "ssd_random_crop.*random_crop_image"),
    ("scale_min: 0.7", "scale_min: 1.7", "random_square_crop_by_scale: .*scale_min = 1.7 is larger"),
    ('type: "full"', 'type: "fine_tune"', '"fine_tune" .supported are detection, full, classification'),
    ("version: V2", "version: V1", "V1 .supported is V2"),
    ("num_readers: 2", "sample_1_of_n_examples: 2", "sample_1_of_n_examples: 2"),
    ("num_readers: 2", "shuffle: false", "shuffle: false .*train.seed"),
    ("num_visualizations: 3", "use_moving_averages: true", "eval_config.use_moving_averages: true"),
    ('metrics_set: "coco', 'metrics_set: "pascal_voc', "pascal_voc_detection_metrics"),
    ("num_readers: 2", "num_reeders: 2", "num_reeders: no such field. Did you mean 'num_readers'"),
    ("eval_config:", "graph_rewriter: {} eval_config:", "graph_rewriter"),
    ("batch_size: 4\n", "batch_size: 'four'\n", "line 48, train_config.batch_size: \"four\" is not a whole number"),
    ("momentum_optimizer_value: 0.8", "momentum_optimizer_value: inf", "inf is not a finite number"),
    ("op: CONV", "activation: RELU, batch_norm { }", "batch_norm"),
    ("type: 'faster_rcnn_'", "fpn { } type: 'faster_rcnn_'", "feature_extractor.fpn"),
    ("random_horizontal_flip { }", "random_horizontal_flip { } random_adjust_hue { }", "and one can hold"),
]  # fmt: skip


HEAD = "model.faster_rcnn.second_stage_box_predictor"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("faster_rcnn {", "ssd { hard_example_miner {}", 'model.ssd: SSD with "faster_rcnn_resnet101_keras" '),
        ("faster_rcnn {", "ssd { # an efficientnet\n", "model.ssd: EfficientDet with "),
        ("mask_rcnn_box_predictor {", "rfcn_box_predictor {", f"{HEAD}.rfcn_box_predictor: R-FCN with "),
        ("use_dropout", "predict_instance_masks: 1 use_dropout", f"{HEAD}.*.predict_instance_masks: Mask R-CNN with "),
        (
            "type: 'faster_rcnn_'",
            "fpn { a: 2 } conv_hyperparams {} type: ''",
            "model.*.fpn: Faster R-CNN with a feature p",
        ),
        ("random_horizontal_flip { }", "ssd_random_crop { }", "train_config.data_augmentation_options.ssd_random_crop"),
        ("random_horizontal_flip { }", "", "train_config.data_augmentation_options: {} names no augmentation"),
    ],
)
def test_one_fault_is_refused_once_and_another_model_by_its_name(project, old, new, says):
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    if "efficientnet" in new:
        text = text.replace("'faster_rcnn_'", "'ssd_efficientnet-b0_'")
    if "rfcn" in new:
        text = re.sub(r"initial_crop_size.*\n.*\n.*maxpool_stride: 2", "", text)
    if "mask" in new:
        text = text.replace("num_classes: 3", "num_classes: 3 number_of_stages: 3").replace("coco_det", "coco_mask_det")
        text = text.replace("eval_config: {", "eval_config: { eval_instance_masks: true")
    message = refusals(project(text))
    assert re.fullmatch(r"not supported:\n  line \d+, " + says.replace("{}", r"\{\}") + ".*", message), message


def test_two_steps_of_an_augmentation_that_are_both_wrong_are_both_named(project):
    text = TEXT.replace("random_horizontal_flip { }", "ssd_random_crop { }").replace(
        "train_config: {", "train_config: { data_augmentation_options {}"
    )
    message = refusals(project(text))
    assert message.count("\n") == 2 and "ssd_random_crop" in message and "{} names no" in message


def test_the_version_of_a_checkpoint_is_assumed_where_it_is_absent_and_that_is_said(project):
    said = "train_config.fine_tune_checkpoint_version: absent (V2 is assumed)"
    assert said not in examine_pipeline(project()).text()
    text = TEXT.replace("fine_tune_checkpoint_version: V2", "")
    assert said in examine_pipeline(project(text)).text()
    for replaced in ({"start": "zoo"}, {"changes": {"model.start": "none"}}):
        assert said not in examine_pipeline(project(text), **replaced).text()
    assert said not in examine_pipeline(project(re.sub(r"\n.*fine_tune_checkpoint.*", "", text))).text()


@pytest.mark.parametrize(("old", "new", "says"), REFUSED, ids=lambda value: re.sub(r"\s+", " ", value)[:40])
def test_what_is_refused_is_named_with_its_line_and_what_is_supported(project, old, new, says):
    assert old in TEXT
    message = refusals(project(TEXT.replace(old, new, 1)))
    assert message.startswith("not supported:")
    assert re.search(says, message), message
    assert all(re.match(r"  line [1-9]\d*, ", line) for line in message.splitlines()[1:]), message


def test_all_refusals_and_missing_paths_come_at_once(project):
    text = TEXT.replace("use_dropout: false", "use_dropout: true").replace("num_readers: 2", "num_reeders: 2")
    text = text.replace("start/ckpt-0", "gone/ckpt-0").replace("more.record", "gone-?.record")
    message = refusals(project(text.replace("map.pbtxt", "gone.pbtxt")))
    for part in (
        "use_dropout: true",
        "num_reeders",
        r'"gone/ckpt-0" does not exist; --start MODEL',
        r'"gone-?.record" does not exist; --data RECORDS or --set data.train=GLOB',
        r'train_input_reader.label_map_path: "gone.pbtxt" does not exist; --data RECORDS',
        r"eval_input_reader.label_map_path",
    ):
        assert part in message
    assert "train-?.record" not in message


def test_options_take_the_place_of_paths(project, tmp_path):
    gone = TEXT.replace("start/", "gone/").replace(".record", ".gone").replace("map.pbtxt", "gone.pbtxt")
    path = project(gone)
    (tmp_path / "label_map.pbtxt").write_text(MAP)
    pipeline = examine_pipeline(path, data=str(tmp_path), start="zoo").check()
    assert (pipeline.overrides["data.path"], pipeline.overrides["model.start"]) == (str(tmp_path), "zoo")
    assert not {"data.train", "data.test", "data.label_map"} & pipeline.overrides.keys()
    assert sum("takes their place" in line for line in pipeline.ignored) == 2
    given = {"data.train": "x", "data.test": "y", "data.label_map": str(tmp_path / "label_map.pbtxt")}
    assert examine_pipeline(path, changes={**given, "model.start": "none"}).check().overrides["data.train"] == "x"


def test_records_without_a_label_map_take_the_configs(project, tmp_path):
    path = project()
    own = os.path.join(os.path.dirname(path), "map.pbtxt")
    for name in ("training.record", "testing.record"):
        (tmp_path / name).touch()
    for data in (tmp_path, tmp_path / "training.record"):
        pipeline = examine_pipeline(path, data=str(data)).check()
        assert pipeline.overrides["data.label_map"] == pipeline.label_map == own
        assert pipeline.overrides["data.path"] == str(data)
    (tmp_path / "label_map.pbtxt").write_text(MAP)
    assert "data.label_map" not in examine_pipeline(path, data=str(tmp_path)).check().overrides


def test_paths_are_looked_for_in_the_working_directory_first(project, tmp_path, monkeypatch):
    path = project()
    (tmp_path / "map.pbtxt").write_text(MAP)
    (tmp_path / "test.record").touch()
    monkeypatch.chdir(tmp_path)
    ours = config(path)
    assert (ours.data.label_map, ours.data.test) == (str(tmp_path / "map.pbtxt"), (str(tmp_path / "test.record"),))
    assert ours.model.start == f"{os.path.dirname(path)}/start/ckpt-0"
    folder = tmp_path / "[odd]*name"
    folder.mkdir()
    (folder / "a.record").touch()
    monkeypatch.chdir(folder)
    found = config(project(TEXT.replace('"test.record"', '"a.record"')))
    from resight.records.discover import find_records

    assert find_records("", {"test": found.data.test}, []) == {"test": [str(folder / "a.record")]}


def test_a_number_of_classes_that_is_not_the_label_maps_names_both(project, tmp_path):
    path = project(TEXT.replace("num_classes: 3", "num_classes: 4"))
    message = refusals(path)
    assert "line 4, model.faster_rcnn.num_classes: 4, but the label map" in message and "map.pbtxt has 3" in message
    (tmp_path / "classes.pbtxt").write_text(MAP.replace("id: 3", "id: 4"))  # a gap counts: an index is the id less 1
    assert examine_pipeline(path, data=str(tmp_path)).check().label_map == str(tmp_path / "classes.pbtxt")
    assert "num_classes: 3, but" in refusals(project(), data=str(tmp_path))


@pytest.mark.parametrize(
    ("item", "refused", "says"),
    [
        ("item { id: 3 name: 'd' }", True, "ids used twice: 3"),
        ("item { id: 4 name: 'b' }", True, "names used twice: b"),
        ("item { id: 0 name: 'd' }", True, "ids below 1: 0"),
        ("item { name: 'd' }", True, "item 'd' has no id"),
        ("item { id: 4 }", False, "the item with id 4 has no name"),
        ("item { id: 5 name: 'd' }", False, "1 ids below 5 have no class"),
    ],
)
def test_what_is_wrong_in_the_label_map_is_shown_and_refused_where_classes_would_be_lost(
    project, tmp_path, item, refused, says
):
    highest = classes_of(parse_label_map(MAP + item))
    path = project(TEXT.replace("num_classes: 3", f"num_classes: {highest}"))
    (tmp_path / "classes.pbtxt").write_text(MAP + item)
    for options in ({"data": str(tmp_path)}, {"changes": {"data.label_map": str(tmp_path / "classes.pbtxt")}}):
        found = examine_pipeline(path, **options)
        assert f"#   {tmp_path / 'classes.pbtxt'}: {says}" in found.text()
        assert any(says in line for line in found.refused) == refused


def test_readers_with_different_label_maps_are_refused(project):
    path = project()
    Path(os.path.dirname(path), "other.pbtxt").write_text(MAP.replace("'b'", "'x'"))
    head, tail = TEXT.rsplit("map.pbtxt", 1)
    assert "differs from" in refusals(project(f"{head}other.pbtxt{tail}"))


def test_a_batch_of_different_sizes_is_refused_with_the_remedies(project):
    path = project(TEXT.replace("pad_to_max_dimension: true", ""))
    message = refusals(path)
    assert re.search(r"line 48, train_config.batch_size: .*batch_size 1.*pad_to_max_dimension.*fixed_shape", message)
    assert config(path, changes={"train.batch_size": 1}).train.batch_size == 1
    assert config(path, changes={"model.tfod.pad": True}).train.batch_size == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.steps": 0}, "train.steps = 0: must be greater than 0"),
        ({"model.max_size": 0, "train.batch_size": 0}, "model.max_size = 0: .*; train.batch_size = 0: must"),
        ({"train.learning_rate": -1.0}, "train.learning_rate = -1.0: must be greater"),
        ({"train.schedule_steps": 1}, "schedule_steps 1 ends within"),
        ({"model.tfod.pad": False}, "images of different sizes make no batch of 4"),
        ({"train.nonsense": 1}, "unknown key 'train.nonsense'"),
    ],
)
def test_a_wrong_option_is_blamed_and_not_the_line_that_it_replaces(project, changes, says):
    with pytest.raises(ResightError, match=says) as caught:
        examine_pipeline(project(), changes=changes)
    assert caught.value.where == "options" and not re.search(r"\bline \d", str(caught.value))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_steps: ", "num_steps: -", "num_steps: -.* is less than 0"),
        ("train_config: {", "train_config: { data_augmentation_options {}", "{} names no augmentation"),
        ("use_static_shapes: true", "", "balanced_label_sampler: true .supported together with use_static_shapes"),
        ("use_static_balanced_label_sampler: true", "", "shapes: true .supported together with use_static_balanced"),
    ],
)  # fmt: skip
def test_what_means_nothing_alone_is_refused(project, old, new, says):
    assert TEXT.count(old) == 1
    assert re.search(says, refusals(project(TEXT.replace(old, new))))


def test_a_trained_model_without_padding_takes_images_one_at_a_time(project):
    pipeline = examine_pipeline(project(TEXT.replace("pad_to_max_dimension: true", "")), model_only=True).check()
    assert not load_config(None, pipeline.overrides).model.tfod.pad


def test_records_in_a_remote_store_are_not_looked_for_on_the_disk(project):
    text = TEXT.replace('"train-?.record"', '"s3://bucket/train-*.record"')
    assert text != TEXT
    pipeline = examine_pipeline(project(text)).check()
    assert pipeline.overrides["data.train"][0] == "s3://bucket/train-*.record"


def test_of_very_many_unknown_fields_some_are_named_and_all_counted(project):
    text = TEXT.replace("train_config: {", "train_config: { " + " ".join(f"field{n}: 1" for n in range(5000)))
    found = examine_pipeline(project(text)).refused
    assert len(found) == 21 and "train_config: 5,000 fields that there are not" in found[-1]


def test_the_last_of_a_repeated_field_counts_and_messages_are_joined(project):
    again = "model { faster_rcnn { num_classes: 2 num_classes: 3 first_stage_max_proposals: 100 } }"
    pipeline = examine_pipeline(project(TEXT + again)).check()
    assert (pipeline.num_classes, pipeline.overrides["model.tfod.proposals"]) == (3, 100)
    assert sum("gives it again" in line for line in pipeline.ignored) == 3


def test_of_several_evaluation_readers_the_first_counts(project):
    more = """eval_input_reader { max_number_of_boxes: %d label_map_path: "gone"
              tf_record_input_reader { input_path: "gone" } }"""
    limited = TEXT.replace("eval_input_reader: {", "eval_input_reader { max_number_of_boxes: 37")
    for text, limit in ((TEXT, 100), (limited, 37)):
        pipeline = examine_pipeline(project(text + more % 50)).check()
        assert pipeline.overrides["data.test"][0].endswith("test.record")
        assert load_config(None, pipeline.overrides).model.tfod.evaluated_boxes == limit
        trained = examine_pipeline(project(text + more % 50), model_only=True).check()
        assert load_config(None, trained.overrides).model.tfod.evaluated_boxes == limit
    assert any("all but the first" in line for line in pipeline.ignored)


def test_a_trained_model_needs_no_paths(project):
    text = TEXT.replace("start/", "gone/").replace(".record", ".gone")
    text = text.replace("momentum_optimizer:", "adam_optimizer:")
    pipeline = examine_pipeline(project(text), model_only=True).check()
    assert (pipeline.num_classes, os.path.basename(pipeline.label_map)) == (3, "map.pbtxt")
    assert load_config(None, pipeline.overrides).model.tfod.detections == 300
    assert {key for key in pipeline.overrides if not key.startswith("model.")} == {"train.batch_size"}
    assert "use_dropout" in refusals(project(text.replace("use_dropout: false", "use_dropout: true")), model_only=True)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TEXT.replace("num_classes: 3", "num_classes 3"), "line 4, column 17"),
        (TEXT.rstrip().removesuffix("}"), "line 85, column 1"),
        (TEXT + "}", "column 1"),
        (TEXT.replace('"start/ckpt-0"', '"start/ckpt-0'), "line 68, column 25"),
    ],
)
def test_a_syntax_error_names_line_and_column(project, text, place):
    with pytest.raises(ResightError, match="not valid text protobuf") as caught:
        examine_pipeline(project(text)).check()
    assert place in caught.value.where


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_classes: 3", f"num_classes: 3 {'x' * 10**6}: 1"),
        ("num_classes: 3", "num_classes: 3 " + "\n".join(f"x{number}: 1" for number in range(10_000))),
        ("coco_detection_metrics", "x " * 10**5),
    ],
)
def test_of_endless_names_a_message_has_the_ends(project, old, new):
    assert old in TEXT
    message = refusals(project(TEXT.replace(old, new)))
    assert "no such field" in message or "coco_detection_metrics" in message
    assert len(message) < 20_000 and message.count("\n") < 200


def test_files_that_are_no_config_are_refused(tmp_path):
    (tmp_path / "empty.config").touch()
    assert "no model|model: is missing" and "is missing" in refusals(str(tmp_path / "empty.config"))
    (tmp_path / "large.config").write_bytes(b"#" * (5 << 20))
    for name in ("large.config", "none.config", "."):
        with pytest.raises(ResightError, match=r"too large|cannot be read"):
            examine_pipeline(tmp_path / name).check()


PIECES = sorted(set(re.findall(r"\w+|\S", TEXT)))


@given(st.text(max_size=40) | st.lists(st.sampled_from([*PIECES, "\n"])).map(" ".join))
@example('train_input_reader { tf_record_input_reader { input_path: "a\\000[" } label_map_path: "\\000" }')
@example("train_config { num_steps: 99999999999999999999 batch_size: -1 gradient_clipping_by_norm: -3 }")
def test_any_text_is_read_or_refused(project, text):
    path = project(text.encode("utf-8", "replace").decode(), "any.config")
    try:
        examine_pipeline(path)
        examine_pipeline(path).check()
    except ResightError as error:
        assert path in error.where


@given(st.data())
def test_a_damaged_config_is_read_or_refused(project, data):
    words = re.split(r"(\s+)", TEXT)
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] = data.draw(st.sampled_from([*PIECES, "", "-1", "0", "1e30", "'x'", "{}", "[]", "nan"]))
    path = project("".join(words), "damaged.config")
    try:
        pipeline = examine_pipeline(path).check()
    except ResightError as error:
        assert path in error.where
    else:
        load_config(None, pipeline.overrides)


def test_how_a_config_is_told_from_toml(tmp_path):
    for name, text, told in [
        ("a.config", "", True),
        ("a.pbtxt", "", True),
        ("a.toml", "model { }", False),
        ("a.txt", "\ufeff# comment {\n\n model : {\n}", True),
        ("b.txt", "# comment\n[model]\nname = 'x'\n", False),
        ("c.txt", "train_config <", True),
        ("none", None, False),
    ]:
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
        assert is_pipeline(tmp_path / name) == told, name


def test_settings_come_from_either_form_without_looking_for_paths(project, tmp_path):
    assert load_settings(project(TEXT.replace("start/", "gone/")), "data").data.path == "data"
    (tmp_path / "a.toml").write_text("[train]\nsteps = 3\n")
    assert load_settings(tmp_path / "a.toml").train.steps == 3
    with pytest.raises(ResightError, match="use_dropout"):
        load_settings(project(TEXT.replace("use_dropout: false", "use_dropout: true")))


def test_an_unknown_key_beside_a_config_is_answered_with_the_nearest(project):
    with pytest.raises(ResightError, match=r"unknown key 'train\.sede'\. Did you mean 'train\.seed'\?"):
        examine_pipeline(project(), changes={"train.sede": 1})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("train_config.batch_size", "train.batch_size"),
        ("batch_size", "train.batch_size"),
        ("num_steps", "train.steps"),
        ("learning_rate_base", "train.learning_rate"),
        ("total_steps", "train.schedule_steps"),
        ("min_dimension", "model.min_size"),
        ("first_stage_max_proposals", "model.tfod.proposals"),
        ("keep_aspect_ratio_resizer.max_dimension", "model.max_size"),
        ("fine_tune_checkpoint", "model.start"),
        ("eval_input_reader.tf_record_input_reader.input_path", "data.test"),
        ("label_map_path", "data.label_map"),
        ("data_augmentation_options", "augment.operations"),
        ("learning_rate", "train.learning_rate"),
        ("height", "model.tfod.fixed_size' or 'model.tfod.anchor_base"),
        ("size", ""),
        ("num_readers", ""),
    ],
)
def test_keys_of_tfod_are_answered_with_ours(theirs, ours):
    assert tfod_equivalent(theirs) == ours
    if ours:
        with pytest.raises(ResightError, match=theirs) as caught:
            refuse_tfod_keys(["train.seed", theirs])
        assert f"'{theirs}' is '{ours}'" in caught.value.fix
    else:
        refuse_tfod_keys([theirs, "train.batch_size"])


STOCK = sorted(Path(os.environ.get("RESIGHT_TFOD", "none"), "artifacts", "configs").glob("*.config"))
FLIP, ADJUST = ["random_horizontal_flip"], [f"random_adjust_{what}" for what in ("hue", "contrast", "saturation")]
CROPS = [*FLIP, *ADJUST, "random_square_crop_by_scale"]
# docs/tfod-semantics.md, section 19: sides, fixed, padded, the TPU's options, batch, rate, begin and steps of the
# warm-up, steps, clipping.
ROWS = {
    "640x640_coco17_tpu-8": (640, 640, False, True, True, 64, 0.04, 0.013333, 2000, 25000, 0.0, FLIP),
    "1024x1024_coco17_tpu-8": (1024, 1024, True, False, True, 64, 0.04, 0.013333, 2000, 100000, 0.0, CROPS),
    "800x1333_coco17_gpu-8": (800, 1333, False, True, False, 16, 0.01, 0.0, 5000, 200000, 10.0, CROPS),
}


if STOCK:  # other people's files, where they are at hand

    @pytest.mark.parametrize("path", STOCK, ids=lambda path: path.stem)
    def test_stock_configurations_build_or_are_refused_by_name(path):
        ours = re.match(r"faster_rcnn_resnet\d+_v1_\d+x\d+_coco17_[gt]pu-8", path.stem)
        pipeline = examine_pipeline(path, start="none", data="records")
        assert not pipeline.missing
        assert bool(pipeline.refused) == (ours is None)
        if not ours:
            assert any(re.search(r"model\.ssd: .*ssd_|extractor\.type: .*nearest", line) for line in pipeline.refused)

    @pytest.mark.parametrize("depth", [50, 101, 152])
    @pytest.mark.parametrize("row", ROWS)
    def test_a_stock_configuration_is_its_row_of_the_table(tmp_path, row, depth):
        # The files of a row differ in nothing but the depth, and not all of them are at hand.
        names = [f"faster_rcnn_resnet{each}_v1_{row}" for each in (depth, 101)]
        text = next(path.read_text() for name in names for path in STOCK if path.stem == name)
        path = tmp_path / f"{names[0]}.config"
        path.write_text(text.replace("resnet101", f"resnet{depth}"))
        config = load_config(None, examine_pipeline(path, data="records", start="none").check().overrides)
        model, tfod, train = config.model, config.model.tfod, config.train
        short, long, fixed, padded, tpu, batch, rate, begin, warmup, steps, clip, augmented = ROWS[row]
        assert (model.name, model.start_type) == (f"faster_rcnn_resnet{depth}_v1", "classification")
        assert tfod.fixed_size == ((short, long) if fixed else None)
        assert fixed or (model.min_size, model.max_size, tfod.pad) == (short, long, padded)
        assert [tfod.train_norms, tfod.share_boxes, tfod.clip_anchors] == [tpu] * 3
        assert [tfod.static_shapes, tfod.matmul_crop] == [tpu] * 2
        assert (train.batch_size, train.learning_rate, train.warmup_rate, train.warmup_steps) == (
            batch, pytest.approx(rate), pytest.approx(begin), warmup,
        )  # fmt: skip
        assert (train.schedule, train.steps, train.schedule_steps, train.hold_steps) == ("cosine", steps, steps, 0)
        assert (train.optimizer, train.clip_norm, train.ema) == ("momentum", clip, 0)
        assert train.momentum == pytest.approx(0.9)
        assert (tfod.rpn_box_weight, tfod.rpn_object_weight, tfod.box_weight, tfod.class_weight) == (2, 1, 2, 1)
        assert (tfod.proposals, tfod.rpn_batch, tfod.box_batch, tfod.detections) == (300, 256, 64, 300 if tpu else 100)
        steps_of = {step.name: step.values for step in config.augment.operations}
        assert list(steps_of) == augmented
        crop = steps_of.get("random_square_crop_by_scale", {"scale_min": 0.6, "scale_max": 1.3})
        assert (crop["scale_min"], crop["scale_max"]) == (pytest.approx(0.6), pytest.approx(1.3))
