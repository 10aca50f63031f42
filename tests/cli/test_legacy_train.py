"""The old workflow's two commands, from LISA's folder to a model that TensorFlow runs."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import resight.evaluation.evaluate
import resight.exporting.export
import resight.training.train
from resight.cli.legacy_train import NAMES, USAGE, main, read_arguments, train, write_config
from resight.errors import ResightError
from resight.inference.detector import load
from resight.io.images import decode
from resight.models.checkpoints import LAST, load_checkpoint
from resight.records.reader import open_records
from resight.scenes import make_scenes
from resight.tfod.pipeline.config import examine_pipeline
from resight.training.state import TrainResult
from resight.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
# As the zoo has it, but for small limits and a rate that random weights endure.
PIPELINE = """
# A model of the zoo
model { faster_rcnn {
  num_classes: 6
  image_resizer { keep_aspect_ratio_resizer { min_dimension: 640 max_dimension: 640 pad_to_max_dimension: true } }
  feature_extractor { type: 'faster_rcnn_resnet50_keras' batch_norm_trainable: true }
  first_stage_anchor_generator { grid_anchor_generator {
    scales: [0.25, 0.5, 1.0, 2.0] aspect_ratios: [0.5, 1.0, 2.0] height_stride: 16 width_stride: 16 } }
  first_stage_box_predictor_conv_hyperparams { op: CONV
    regularizer { l2_regularizer { weight: 0.0 } }
    initializer { truncated_normal_initializer { stddev: 0.01 } } }
  first_stage_nms_score_threshold: 0.0
  first_stage_nms_iou_threshold: 0.7
  first_stage_max_proposals: 30
  second_stage_batch_size: 16
  initial_crop_size: 14 maxpool_kernel_size: 2 maxpool_stride: 2
  second_stage_box_predictor { mask_rcnn_box_predictor { use_dropout: false
    fc_hyperparams { op: FC regularizer { l2_regularizer { weight: 0.0 } }
      initializer { variance_scaling_initializer { factor: 1.0 uniform: true mode: FAN_AVG } } } } }
  second_stage_post_processing { score_converter: SOFTMAX batch_non_max_suppression {
    score_threshold: 0.0 iou_threshold: 0.6 max_detections_per_class: 30 max_total_detections: 30 } }
} }
train_config: {
  batch_size: 64
  num_steps: 25000
  optimizer {
    momentum_optimizer: {
      learning_rate: {
        cosine_decay_learning_rate {
          learning_rate_base: .0004 total_steps: 25000 warmup_learning_rate: .00013333 warmup_steps: 2000 } }
      momentum_optimizer_value: 0.9
    }
    use_moving_average: false
  }
  fine_tune_checkpoint_version: V2
  fine_tune_checkpoint: "PATH_TO_BE_CONFIGURED/resnet50.ckpt-1"
  fine_tune_checkpoint_type: "classification"
  data_augmentation_options { random_horizontal_flip { } }
  max_number_of_boxes: 100
  use_bfloat16: true  # works only on TPUs
}
train_input_reader: {
  label_map_path: "PATH_TO_BE_CONFIGURED/label_map.txt"
  tf_record_input_reader { input_path: "PATH_TO_BE_CONFIGURED/train2017-?????-of-00256.tfrecord" }
}
eval_config: { metrics_set: "coco_detection_metrics" use_moving_averages: false batch_size: 1; }
eval_input_reader: {
  label_map_path: "PATH_TO_BE_CONFIGURED/label_map.txt"
  shuffle: false
  tf_record_input_reader { input_path: "PATH_TO_BE_CONFIGURED/val2017-?????-of-00032.tfrecord" }
}
"""
RESIZER = "keep_aspect_ratio_resizer { min_dimension: 640 max_dimension: 640 pad_to_max_dimension: true }"
RUN = """
import pickle, sys
import tensorflow as tf
folder, images = pickle.load(sys.stdin.buffer)
serving = tf.saved_model.load(folder).signatures["serving_default"]
found = [{name: value.numpy() for name, value in serving(tf.constant(image[None])).items()} for image in images]
sys.stdout.buffer.write(pickle.dumps(found))
"""


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """The package may not be installed where the tests run, and `python3` be another."""
    commands = tmp_path_factory.mktemp("bin")
    (commands / "python3").symlink_to(sys.executable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{commands}:{os.environ['PATH']}")
        yield


@pytest.fixture(scope="module")
def work(once):
    """A folder with LISA's `lisa/` and what the old workflow's first command makes of it."""

    def make(folder):
        make_scenes(folder / "lisa", videos=8, frames=2, seed=2)
        done = subprocess.run([ROOT / "build_lisa_records.py"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return once("work", make)


@pytest.fixture
def pretrained(tmp_path, write_checkpoint):
    """``pretrained(old="new", ...)``: the folder of a model of the zoo without most of its weights."""

    def make(changes=()):
        write_checkpoint(tmp_path / "zoo" / "checkpoint" / "ckpt-0", {"x": np.zeros(1, np.float32)})
        text = PIPELINE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "zoo" / "pipeline.config").write_text(text)
        return tmp_path / "zoo"

    return make


def words(work, pretrained="zoo", **other):
    """The eleven words of a command."""
    values = {
        **{
            "models": "models",
            "model_dir": "model",
            "exported_model_dir": "exported",
            "records": work / "lisa/records",
        },
        **{"pretrained_model_name": pretrained, "num_classes": 3},
        **{"min_dim": 96, "max_dim": 128, "num_steps": 2, "batch_size": 2, "num_test_examples": 1, **other},
    }
    assert tuple(values) == NAMES
    return [str(value) for value in values.values()]


# From end to end


@pytest.fixture(scope="module")
def trained(work, zoo_folder, once):
    """The folder in which the second command was interrupted after a step and given again, and what it said then."""

    def make(folder):
        shutil.copytree(work / "lisa", folder / "lisa")
        done = train_twice(folder, zoo_folder)
        (folder / "said.json").write_text(json.dumps([done.stdout, done.stderr]))

    folder = once("trained", make)
    return folder, *json.loads((folder / "said.json").read_text())


def train_twice(work, zoo_folder):
    model = work / "faster_rcnn_resnet50_v1"
    model.mkdir()
    (model / "checkpoint").symlink_to(zoo_folder() / "checkpoint")
    (model / "pipeline.config").write_text(PIPELINE)
    command = ["models", "model", "exported", "lisa/records", model.name, "3", "96", "128", "2", "2", "1"]
    step = Trainer.step

    def step_and_stop(self, *arguments):
        step(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr(Trainer, "step", step_and_stop)
        patch.setattr(sys, "argv", ["train", *command])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 75 and not (work / "exported").exists()
    assert load_checkpoint(work / "model" / LAST).state["step"] == 1
    done = subprocess.run([ROOT / "train.sh", *command], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_commands_lead_to_an_exported_model(trained):
    work, results, messages = trained
    assert load_checkpoint(work / "model" / LAST).state["step"] == 2
    assert "resumed at step 1" in messages and "2 steps in" in results
    assert "Only the first 1 of the 2 images were measured." in results
    assert json.loads((work / "model" / "evaluation" / "metrics.json").read_text())["num_images"] == 1
    assert "equal within the tolerance" in results and "Wrote exported\n" in messages
    names = {"saved_model", "checkpoint", "pipeline.config", "label_map.pbtxt", "resight.json"}
    assert {path.name for path in (work / "exported").iterdir()} == names
    written = examine_pipeline(work / "model" / "pipeline.config").check().overrides
    assert (written["model.min_size"], written["model.max_size"], written["train.steps"]) == (96, 128, 2)
    assert (work / "exported" / "pipeline.config").read_text() == (work / "model" / "pipeline.config").read_text()


@pytest.mark.soak
def test_tensorflow_finds_what_the_trained_model_finds(trained):
    work, *_ = trained
    split = open_records(work / "lisa/records").splits["test"]
    images = [decode(split[index].encoded) for index in range(len(split))]
    given = pickle.dumps((str(work / "exported" / "saved_model"), images))
    done = subprocess.run([sys.executable, "-c", RUN], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    detector = load(work / "model")
    for image, found in zip(images, pickle.loads(done.stdout), strict=True):
        own = detector.detect(image)
        assert found["num_detections"] == len(own) > 5
        height, width = image.shape[:2]
        boxes = own.boxes[:, [1, 0, 3, 2]] / [height, width, height, width]
        rows = np.concatenate([boxes, own.scores[:, None], own.labels[:, None] + 1], 1)
        theirs = [found[f"detection_{name}"][0, : len(own)] for name in ("boxes", "scores", "classes")]
        free = np.ones(len(own), bool)
        for box, score, label in zip(*theirs, strict=True):
            apart = np.where(free, np.abs(rows - [*box, score, label]).max(1), np.inf)
            assert apart.min() <= 1e-4
            free[apart.argmin()] = False


# The stages, replaced by what they would answer


@pytest.mark.parametrize(("code", "same", "wanted"), [(75, True, 75), (0, True, 0), (0, False, 1)])
def test_each_stage_gets_its_arguments_and_gives_its_exit_code(
    work, pretrained, tmp_path, monkeypatch, capsys, code, same, wanted
):
    calls = []

    class Answer:
        metrics, ok, model = {"num_images": 2}, same, "exported/saved_model"

        def text(self):
            return "measured"

    def answer(stage, value):
        def call(*arguments, **options):
            calls.append((stage, arguments, options))
            return value

        return call

    result = TrainResult("model", code, "trained")
    monkeypatch.setattr(resight.training.train, "train", answer("train", result))
    monkeypatch.setattr(resight.evaluation.evaluate, "evaluate", answer("evaluate", Answer()))
    monkeypatch.setattr(resight.exporting.export, "export", answer("export", Answer()))
    monkeypatch.chdir(tmp_path)
    arguments = read_arguments(words(work, pretrained(), models="", num_test_examples=7))
    assert train(arguments) == wanted
    (stage, (config, run), options), *rest = calls
    assert (stage, run, options.pop("resume")) == ("train", Path("model"), True)
    assert options == {"pipeline": Path("model/pipeline.config").read_text()}
    assert (config.train.steps, config.train.batch_size, config.model.max_size) == (2, 2, 128)
    assert (config.model.start, config.model.start_type) == (str(tmp_path / "zoo/checkpoint/ckpt-0"), "detection")
    later = [("evaluate", (run,), {"limit": 7}), ("export", (run, "savedmodel", Path("exported")), {"force": True})]
    assert rest == (later if not code else [])
    assert capsys.readouterr().out.split() == ["trained", *["measured"] * len(rest)]


@pytest.mark.parametrize(("running", "kept"), [(True, True), (False, False)])
def test_a_run_that_does_not_go_on_so_keeps_its_config(work, pretrained, tmp_path, monkeypatch, running, kept):
    def refuse(*arguments, **options):
        raise ResightError("a run goes on with the data it has")

    monkeypatch.setattr(resight.training.train, "train", refuse)
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/pipeline.config").write_text(before := "# Written by resight.tfod.train.\nas it was\n")
    if running:
        Path("model/config.toml").write_text("")
    with pytest.raises(ResightError, match="goes on with the data"):
        train(read_arguments(words(work, pretrained())))
    assert (Path("model/pipeline.config").read_text() == before) == kept


# The pipeline.config


def written(work, folder, **other):
    data = {name: work / "lisa/records" / name for name in ("training.record", "testing.record", "classes.pbtxt")}
    (folder.parent / "new.config").write_text(write_config(read_arguments(words(work, **other)), folder, data))
    return examine_pipeline(folder.parent / "new.config").check().overrides


def test_the_config_is_the_models_with_other_values(work, pretrained, tmp_path):
    found = written(work, pretrained(), num_steps=3000, batch_size=5)
    new, old = ((tmp_path / name).read_text() for name in ("new.config", "zoo/pipeline.config"))
    assert "# A model of the zoo" in new and "use_bfloat16: true  # works only on TPUs" in new
    assert "num_classes: 3" in new and "PATH_TO_BE" not in new and "PATH_TO_BE" in old
    records = work / "lisa/records"
    wanted = {
        **{"model.min_size": 96, "model.max_size": 128, "train.steps": 3000, "train.batch_size": 5},
        **{"model.start": str(tmp_path / "zoo/checkpoint/ckpt-0"), "model.start_type": "detection"},
        **{"data.train": (str(records / "training.record"),), "data.test": (str(records / "testing.record"),)},
        **{"data.label_map": str(records / "classes.pbtxt"), "train.schedule": "cosine"},
        **{"train.learning_rate": 0.0004, "train.warmup_steps": 300, "train.schedule_steps": 3000},
        **{"train.warmup_rate": 0.00013333},
    }
    assert {key: found.get(key) for key in wanted} == wanted


COSINE = "cosine_decay_learning_rate {\n          learning_rate_base: .0004 total_steps: 25000 "
COSINE += "warmup_learning_rate: .00013333 warmup_steps: 2000 }"
MANUAL = "manual_step_learning_rate { initial_learning_rate: 0.0003 schedule { step: 900 learning_rate: .00003 } }"


@pytest.mark.parametrize(
    ("rate", "steps", "warmup", "base"),
    [(COSINE, 9, 0, 0.0004), (COSINE, 20_000, 2000, 0.0004), (COSINE, 99_999, 2000, 0.0004), (MANUAL, 99, 0, 0.0003)],
)
def test_the_rate_is_a_cosine_with_a_warm_up_of_a_tenth_at_most(work, pretrained, rate, steps, warmup, base):
    found = written(work, pretrained([(COSINE, rate)]), num_steps=steps)
    assert (found["train.schedule"], found["train.schedule_steps"]) == ("cosine", steps)
    assert (found["train.learning_rate"], found["train.warmup_steps"]) == (base, warmup)


def test_a_fixed_size_takes_no_other(work, pretrained):
    folder = pretrained([(RESIZER, "fixed_shape_resizer { height: 128 width: 96 }")])
    assert written(work, folder)["model.tfod.fixed_size"] == (128, 96)
    with pytest.raises(ResightError, match=r"128 x 96 pixels .height x width., so that <min_dim> 96 and <max_dim> 160"):
        written(work, folder, max_dim=160)


# What is refused, and before what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [], f"missing: {' '.join(f'<{name}>' for name in NAMES)}\n  {USAGE}"),
        (lambda w: w[:-2], f"missing: <batch_size> <num_test_examples>\n  {USAGE}"),
        (lambda w: [*w, "--resume", "a b"], f"2 too many: --resume 'a b'\n  {USAGE}"),
        (lambda w: [*w[:5], "three", "0", "-1", *w[8:]], "<num_classes> is 'three', and must be a whole number of 1"),
        (
            lambda w: [*w[:5], "three", "0", "-1", *w[8:]],
            "<min_dim> is 0, and must be a whole number of 1 or more",
        ),
        (
            lambda w: [*w[:8], "1_0", "1.5", "9" * 5000],
            "<num_steps> is '1_0', and must be a whole number",
        ),
        (lambda w: [*w[:8], "1_0", "1.5", "9" * 5000], f"or more\n  {USAGE}"),
        (lambda w: [w[0], "", *w[2:]], f"<model_dir> is empty\n  {USAGE}"),
        (lambda w: [*w[:6], "129", *w[7:]], f"<min_dim> is 129, more than <max_dim>, which is 128\n  {USAGE}"),
        (lambda w: [*w[:6], "31", *w[7:]], f"<min_dim> is 31, and the minimum is 32\n  {USAGE}"),
        (lambda w: [*w[:2], "model/exported", *w[3:]], "one of <model_dir> and <exported_model_dir> lies in the other"),
        (lambda w: [*w[:2], ".", *w[3:]], "one of <model_dir> and <exported_model_dir> lies in the other"),
        (lambda w: [*w[:2], "taken", *w[3:]], "taken: holds what Resight did not write, and is not replaced: a.txt"),
        (lambda w: [*w[:2], "taken/a.txt/b", *w[3:]], "taken/a.txt"),
        (lambda w: [w[0], "taken", *w[2:]], "taken: <model_dir> is not empty: a.txt\n  Choose another folder.\n"),
        (lambda w: [w[0], "zoo", *w[2:]], "zoo/pipeline.config: is not of this command, and is not replaced"),
        (lambda w: [*w[:3], "taken", *w[4:]], "taken: <records> holds no training.record, no testing.record, no cla"),
        (lambda w: [*w[:3], "damaged", *w[4:]], "training.record"),
        (lambda w: [*w[:3], "empty", *w[4:]], "empty/testing.record: holds no record"),
        (lambda w: [*w[:5], "4", *w[6:]], "classes.pbtxt: has 3 classes, and <num_classes> is 4"),
        (lambda w: [*w[:4], "faster_rcnn", *w[5:]], "faster_rcnn: there is no such file, and no such model in the zoo"),
        (lambda w: [*w[:4], "refused", *w[5:]], "use_dropout: true"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    work, pretrained, tmp_path, monkeypatch, capsys, change, message
):
    monkeypatch.chdir(tmp_path)
    pretrained()
    shutil.copytree("zoo", "refused")
    Path("refused/pipeline.config").write_text(PIPELINE.replace("use_dropout: false", "use_dropout: true"))
    for name in ("damaged", "empty"):
        shutil.copytree(work / "lisa/records", name)
    Path("damaged/training.record").write_bytes(Path("damaged/training.record").read_bytes()[:-9])
    Path("empty/testing.record").write_bytes(b"")
    Path("taken").mkdir()
    Path("taken/a.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["train", *change(words(work))])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_tensorflow_no_training_begins(work, pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResightError, match=r"needs TensorFlow(.|\n)*resight\[tensorflow\]"):
        train(read_arguments(words(work, pretrained())))
    assert not Path("model").exists()


def test_help_is_the_usage(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code and USAGE in capsys.readouterr().out


def test_a_script_without_the_package_says_so(tmp_path):
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    done = subprocess.run([ROOT / "train.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "the package 'resight' is not installed\n  pip install" in done.stderr
