"""Measuring a model on records, with a stand-in for the model."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from resight.config.most_detections import MostDetections
from resight.config.toml_text import to_toml
from resight.config.tree import DataConfig
from resight.dialect import exported_config, load_config, model_config
from resight.errors import ResightError
from resight.evaluation import evaluate as module
from resight.evaluation.coco import GroundTruth
from resight.evaluation.evaluate import evaluate, parse_requirements
from resight.evaluation.loop import measure
from resight.io.images import decode
from resight.label_map import LabelMap, to_pbtxt
from resight.records.example import Record, encode_example
from resight.records.reader import open_records
from resight.records.tfrecord import TFRecordWriter
from resight.types import Detections

ROOT = Path(resight.__file__).parents[2]
DATA_CLASSES = ("signalAhead", "stop", "yield")  # the order of the label map
MODEL_CLASSES = ("stop", "signalAhead", "merge")  # another order; one unknown to the data, one unknown to the model


def record(number, rows, encoded=None):
    """One image whose upper left pixel tells its number; ``rows`` are ``(x1, y1, x2, y2, name, crowd, difficult)``."""
    pixels = np.full((60, 80, 3), 200, np.uint8)
    pixels[0, 0] = number
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    columns = list(zip(*rows, strict=True)) or [()] * 7
    names = tuple(columns[4])
    return Record(
        encoded=file.getvalue() if encoded is None else encoded,
        format="png",
        filename=f"{number}.png",
        source_id=str(number),
        width=80,
        height=60,
        boxes=np.array(columns[:4], np.float32).T.reshape(-1, 4),
        label_texts=names,
        label_ids=np.array([DATA_CLASSES.index(name) + 1 for name in names], np.int64),
        difficult=np.array(columns[6], bool),
        crowd=np.array(columns[5], bool),
        occluded=np.zeros(len(names), bool),
        area=np.full(len(names), np.nan, np.float32),
    )


TEST_RECORDS = [
    record(0, [(8, 6, 40, 48, "stop", 0, 0), (40, 6, 72, 30, "yield", 0, 0)]),
    record(1, [(8, 6, 40, 48, "signalAhead", 0, 0), (48, 6, 72, 30, "stop", 0, 1)]),
    record(2, []),
]


def records_folder(folder, splits, names=DATA_CLASSES):
    folder.mkdir()
    (folder / "label_map.pbtxt").write_text(to_pbtxt(LabelMap.from_names(names)))
    for split, records in splits.items():
        with TFRecordWriter(str(folder / f"{split}-00000-of-00001.tfrecord")) as writer:
            for item in records:
                writer.write(encode_example(item))
    return folder


class Oracle:
    """Finds in each image what ``answers`` says: rows ``(x1, y1, x2, y2, name, score)`` by the image's number."""

    name = "run/checkpoints/best.safetensors"
    classes = MODEL_CLASSES
    score, has_score = 0.8, True
    tfod = None
    most = MostDetections()
    config = model_config({})
    selected_on = "test"
    on_gpu = False
    tile = 0
    precision = "float32"
    answers = ((8, 6, 40, 48, "stop", 0.9),), ((8, 6, 40, 48, "signalAhead", 0.7),), ()

    def detect(self, image):
        assert image.shape == (60, 80, 3) and image.dtype == np.uint8
        rows = self.answers[image[0, 0, 0]]
        boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
        labels = np.array([self.index_of(row[4]) for row in rows], np.int64)
        return Detections(boxes, np.array([row[5] for row in rows], np.float32), labels, self.classes, 80, 60)

    def set_precision(self, precision):
        self.precision = precision

    def digest(self):
        return "5891b5b"

    def index_of(self, name):
        return self.classes.index(name)

    def losses(self, record, labels, image):
        assert np.array_equal(image, decode(record.encoded))
        assert [self.classes[label] if label >= 0 else "yield" for label in labels] == list(record.label_texts)
        return {"loss": float(record.filename[0]), "box": 1.0}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(monkeypatch):
    detector = Oracle()
    detector.loaded = []

    def load(*arguments, **options):
        detector.loaded.append((arguments, options))
        return detector

    monkeypatch.setattr(module, "load", load)
    return detector


@pytest.fixture
def run(tmp_path, model):
    """A run folder that was trained on records without a val split."""
    data = records_folder(tmp_path / "records", {"train": TEST_RECORDS[:1], "test": TEST_RECORDS})
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.safetensors").write_bytes(b"")
    config = load_config(None, {"data.path": str(data)})
    (folder / "config.toml").write_text(to_toml(config))
    return folder


def test_a_run_knows_its_data(run):
    evaluation = evaluate(run)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    documented = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert not [key for key in metrics if f"`{key}`" not in documented]
    assert metrics == evaluation.metrics
    assert (metrics["num_images"], metrics["num_boxes"], metrics["selected_on"]) == (3, 3, "test")
    assert metrics["per_class"] == {
        "stop": {"AP": pytest.approx(0.5, abs=0.01), "AP50": pytest.approx(0.5, abs=0.01), "boxes": 2},
        "signalAhead": {"AP": 1.0, "AP50": 1.0, "boxes": 1},
        "merge": {"AP": None, "AP50": None, "boxes": 0},
    }
    assert metrics["AP_large"] is None and metrics["AP50"] == pytest.approx(0.75, abs=0.01)
    assert metrics["losses"] == {"loss": 1.0, "box": 1.0}
    assert (metrics["model"], metrics["weights"]) == ("run/checkpoints/best.safetensors", "5891b5b")
    point = metrics["operating_point"]
    assert point == {"score": 0.8, "precision": 1.0, "recall": pytest.approx(1 / 3), "f1": pytest.approx(0.5)}
    assert metrics["unknown_classes"] == {"yield": 1}
    assert evaluation.missed == []


def test_text_says_what_matters(run):
    text = evaluate(run).text()
    assert "3 images, 3 boxes" in text
    assert "area= large | maxDets=100 ] = n/a" in text
    assert "At score .80 it finds 33 % of the objects; 0 % of what it reports is wrong." in text
    assert "does not know" in text and "yield (1 box" in text
    assert "chosen by its numbers on 'test'" in text
    assert "Weakest class: stop AP 0.505 (2 boxes)" in text
    assert str(run / "evaluation" / "metrics.json") in text


def test_ignoring_difficult_objects(run):
    metrics = evaluate(run, ignore_difficult=True).metrics
    assert metrics["mAP"] == 1.0
    assert (metrics["num_boxes"], metrics["num_ignored"]) == (2, 1)
    assert metrics["operating_point"]["recall"] == 0.5


def test_a_model_without_a_score_gets_the_best_of_the_images_and_says_so(run, model):
    model.score, model.has_score = 0.5, False
    evaluation = evaluate(run)
    point = evaluation.metrics["operating_point"]
    assert (point["score"], point["recall"]) == (pytest.approx(0.7), pytest.approx(2 / 3))
    assert evaluation.metrics["operating_point_of"] == "images"
    assert "no score of its own. At score .70, the best on these images, it finds 67 %" in evaluation.text()


def test_watched_val_leaves_test_fresh(tmp_path, run, model):
    model.selected_on = "val"
    records_folder(tmp_path / "more", {"train": TEST_RECORDS, "val": TEST_RECORDS, "test": TEST_RECORDS})
    (run / "config.toml").write_text(to_toml(load_config(None, {"data.path": str(tmp_path / "more")})))
    test = evaluate(run, out="a")
    val = evaluate(run, split="val", out="b")
    train = evaluate(run, split="train", out="c")
    assert {e.metrics["selected_on"] for e in (test, val, train)} == {"val"}
    assert "optimistic" not in test.text()
    assert "chosen by its numbers on 'val'" in val.text()
    assert "trained on these images" in train.text()


def test_the_note_is_of_the_data_the_checkpoint_was_chosen_on(tmp_path, run):
    other = records_folder(tmp_path / "other", {"test": TEST_RECORDS[1:]})
    evaluation = evaluate(run, other)
    metrics = evaluation.metrics
    assert (metrics["num_images"], metrics["selected_on"], metrics["data"]) == (2, "test", str(other))
    # Nothing tells which data it was.
    assert "if these are the same images, the scores are optimistic" in evaluation.text()
    (run / "environment.json").write_text(json.dumps({"dataset": open_records(tmp_path / "records").digest}))
    assert "optimistic" not in evaluate(run, other).text()
    (tmp_path / "records").rename(tmp_path / "moved")
    assert "chosen by its numbers on 'test', this split" in evaluate(run, "moved").text()


def test_nothing_is_guessed_about_a_model_that_does_not_tell(run, model):
    model.selected_on = None
    evaluation = evaluate(run)
    assert evaluation.metrics["selected_on"] is None and "optimistic" not in evaluation.text()


def test_checkpoint_of_a_run_knows_its_data_too(run):
    evaluation = evaluate(run / "checkpoints" / "best.safetensors")
    assert evaluation.path == str(run / "evaluation" / "metrics.json")


def test_any_other_model_needs_data(tmp_path, run, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ResightError, match="has no record of its data set") as error:
        evaluate("model.onnx")
    assert "--data" in error.value.fix
    evaluation = evaluate("model.onnx", tmp_path / "records")
    assert "if these are the same images" in evaluation.text()
    with pytest.raises(ResightError, match="exists already"):
        evaluate("model.onnx", tmp_path / "records")
    assert (tmp_path / "evaluation" / "metrics.json").is_file()


def test_only_the_first_images(run):
    evaluation = evaluate(run, limit=1)
    assert (evaluation.metrics["num_images"], evaluation.metrics["num_boxes"]) == (1, 1)
    assert evaluation.metrics["limit"] == 1
    assert "Only the first 1 of the 3 images were measured." in evaluation.text()
    whole = evaluate(run, limit=4)
    assert whole.metrics["num_images"] == 3 and "Only" not in whole.text()
    for none in (0, -1):
        with pytest.raises(ResightError, match=f"--limit: is {none}, and must be"):
            evaluate(run, limit=none)


def test_a_model_without_losses(run, model):
    model.losses = lambda record, labels, image: None
    evaluation = evaluate(run)
    assert evaluation.metrics["losses"] == {}
    assert "Losses" not in evaluation.text()


def test_data_that_moved(run, tmp_path):
    (tmp_path / "records").rename(tmp_path / "moved")
    with pytest.raises(ResightError, match="not there now"):
        evaluate(run)
    assert evaluate(run, "moved").metrics["num_images"] == 3


def test_unknown_split(run):
    with pytest.raises(ResightError, match="no split 'val'") as error:
        evaluate(run, split="val")
    assert "test (3 images)" in error.value.fix


def test_requirements(run):
    evaluation = evaluate(run, require=["AP50=.9", "AP75=.2", "AP_large = 0.1"])
    assert [line.split()[0] for line in evaluation.missed] == ["AP50", "AP_large"]
    assert "0.9 required" in evaluation.missed[0] and "n/a" in evaluation.missed[1]
    assert evaluate(run, require=["mAP=1"], ignore_difficult=True, out="exact").missed == []


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("AP_smal=.8", "Did you mean 'AP_small'"),
        ("AP50", "NAME=VALUE"),
        ("AP50=high", "NAME=VALUE"),
        ("AP50=80", "between 0 and 1"),
        ("AP50=nan", "between 0 and 1"),
    ],
)
def test_bad_requirements_are_refused_before_the_work(run, model, item, words):
    model.detect = None
    with pytest.raises(ResightError) as error:
        evaluate(run, require=["mAP=.5", item])
    assert words in str(error.value)
    assert not (run / "evaluation").exists()


def test_all_bad_requirements_are_listed():
    with pytest.raises(ResightError) as error:
        parse_requirements(["map50=1", "AP75=x"])
    assert "map50" in str(error.value) and "AP75=x" in str(error.value)


def test_a_run_is_measured_again_and_again_and_each_split_has_a_place_of_its_own(run):
    path = run / "evaluation" / "metrics.json"
    for split, place in (("test", path), ("train", run / "evaluation" / "train" / "metrics.json")):
        for ignore_difficult in (False, True):
            assert evaluate(run, split=split, ignore_difficult=ignore_difficult).path == str(place)
            written = json.loads(place.read_text())
            assert (written["split"], written["ignore_difficult"]) == (split, ignore_difficult)
    assert json.loads(path.read_text())["split"] == "test"
    path.write_text('{"other": "program"}')
    with pytest.raises(ResightError, match="not written by Resight"):
        evaluate(run)
    assert path.read_text() == '{"other": "program"}'


def test_existing_results_are_kept_unless_forced(run, tmp_path):
    for out in ("found", run / "evaluation"):
        evaluate(run, out=out)
        with pytest.raises(ResightError, match="exists already"):
            evaluate(run, out=out)
        assert evaluate(run, out=out, ignore_difficult=True, force=True).metrics["ignore_difficult"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ResightError, match="holds something"):
        evaluate(run, out="mine")
    evaluate(run, out="mine", force=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    (tmp_path / "mine" / "metrics.json").write_text('{"other": "program"}')
    with pytest.raises(ResightError, match="not written by Resight"):
        evaluate(run, out="mine", force=True)
    with pytest.raises(ResightError, match="not a folder"):
        evaluate(run, out="mine/notes.txt")


def test_output_that_cannot_be_written(run, model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    detect, model.detect = model.detect, None
    with pytest.raises(ResightError, match="not a folder"):
        evaluate(run, out="file/below")
    model.detect = detect

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ResightError, match="No space left"):
        evaluate(run, out="found")
    assert list((tmp_path / "found").iterdir()) == []


def test_an_image_that_cannot_be_decoded(run, tmp_path):
    broken = record(0, [(8, 6, 40, 48, "stop", 0, 0)], encoded=TEST_RECORDS[0].encoded[:-30])
    data = records_folder(tmp_path / "broken", {"test": [*TEST_RECORDS[1:], broken]})
    with pytest.raises(ResightError) as error:
        evaluate(run, data)
    assert "test-00000-of-00001.tfrecord, byte" in error.value.where and "--on-bad skip" in error.value.fix
    config = load_config(None, {"data.path": str(data), "data.on_bad_record": "skip"})
    (run / "config.toml").write_text(to_toml(config))
    evaluation = evaluate(run)
    assert evaluation.metrics["num_images"] == 2
    assert "cannot be used: 1 of the images" in evaluation.text()


def test_the_label_map_and_the_device_are_the_detectors(run, model):
    evaluate(run, labels="names.pbtxt", device="cpu")
    assert model.loaded == [((run, "cpu"), {"labels": "names.pbtxt", "detections": None})]


def test_a_run_without_checkpoints_says_so(run, tmp_path, monkeypatch):
    monkeypatch.undo()  # the loader itself
    shutil.rmtree(run / "checkpoints")
    for data in (None, tmp_path / "records"):
        with pytest.raises(ResightError, match="holds no checkpoint") as error:
            evaluate(run, data)
        assert error.value.where == str(run)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": None}, "model is None"),
        ({"data": 3}, "data is 3"),
        ({"require": "AP50=.8"}, "require is 'AP50=.8'"),
        ({"split": ""}, "split is empty"),
        ({"out": ""}, "out is empty"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(run, wrong, words):
    with pytest.raises(ResightError, match=f"^evaluate: {words}"):
        evaluate(**{"model": run, **wrong})


def test_no_object_at_all(run, tmp_path):
    data = records_folder(tmp_path / "empty", {"test": [TEST_RECORDS[2]]})
    evaluation = evaluate(run, data, require=["mAP=0"])
    assert {evaluation.metrics[key] for key in ("mAP", "AP50", "AR_100")} == {None}
    assert evaluation.metrics["operating_point"]["score"] == 0.8
    assert len(evaluation.missed) == 1 and "no object to find" in evaluation.text()


def test_run_folder_is_told_by_its_config_and_checkpoints(tmp_path, run):
    assert module.run_folder(run) == run
    assert module.run_folder(run / "checkpoints" / "best.safetensors") == run
    (tmp_path / "config.toml").write_text("")
    assert module.run_folder(tmp_path) is None


# The TFOD dialect


def test_the_tfod_dialect_is_measured_as_tfod_does(run, model):
    model.config = exported_config({"evaluated_boxes": 1})
    model.losses = lambda record, labels, image: {"RPNLoss/localization_loss": float(len(labels)), "b": 0.5}
    evaluation = evaluate(run)
    # The first image's second box is of a class that the model does not know, so one of all boxes is cut off.
    assert evaluation.metrics["num_boxes"] == 2
    assert "Skipped 1 box beyond model.tfod.evaluated_boxes per image or with non-finite corners." in evaluation.text()
    lines = evaluation.metrics["tfod"]
    assert lines["DetectionBoxes_Precision/mAP"] == evaluation.metrics["mAP"]
    assert lines["DetectionBoxes_Precision/mAP (large)"] == -1
    assert lines["Loss/total_loss"] == pytest.approx(4 / 3 + 0.5)
    assert json.loads((run / "evaluation" / "metrics.json").read_text())["tfod"] == lines
    assert f"\t+ Loss/total_loss: {4 / 3 + 0.5:.6f}" in evaluation.text()


def test_a_stored_area_counts_in_one_dialect_only(run, model, tmp_path):
    from dataclasses import replace

    stated = replace(TEST_RECORDS[0], area=np.full(2, 100, np.float32))
    data = records_folder(tmp_path / "stated", {"test": [stated]})
    plain = evaluate(run, data, out=tmp_path / "plain").metrics
    assert plain["AP_small"] == 1 and plain["AP_medium"] is None
    model.config = exported_config({})
    assert evaluate(run, data, out=tmp_path / "tfod").metrics["AP_medium"] == 1


def test_a_box_that_ends_before_it_begins_stops_the_tfod_dialect(run, model, tmp_path):
    turned = record(0, [(40, 6, 8, 48, "stop", 0, 0)])
    data = records_folder(tmp_path / "turned", {"test": [turned, TEST_RECORDS[1]]})
    model.config = exported_config({})
    with pytest.raises(ResightError, match=r"test-00000-of-00001.tfrecord, byte 0: a box ends before it begins"):
        evaluate(run, data, out=tmp_path / "out")


def test_a_model_without_names_takes_those_of_the_data_by_their_ids(run, model, tmp_path):
    data = records_folder(tmp_path / "gaps", {"test": TEST_RECORDS[:2]})
    names = {1: "signalAhead", 2: "stop", 5: "yield"}
    (data / "label_map.pbtxt").write_text("".join(f'item {{ id: {id} name: "{name}" }}' for id, name in names.items()))
    model.classes = tuple(f"class {id}" for id in range(1, 6))
    model.answers = ((8, 6, 40, 48, 1, 0.9), (8, 6, 40, 48, 2, 0.9)), ()
    model.index_of = lambda index: index
    model.losses = lambda *_: None
    metrics = evaluate(run, data, out=tmp_path / "out").metrics
    assert list(metrics["per_class"]) == ["signalAhead", "stop", "class 3", "class 4", "yield"]
    # What has no name has no objects, and is left out of the mean.
    assert metrics["per_class"]["class 3"]["AP"] is None and metrics["unknown_classes"] == {}


def test_files_are_named_where_there_is_no_folder(run):
    config = load_config(run / "config.toml")
    folder = config.data.path
    data = DataConfig(test=(f"{folder}/test-*",), label_map=f"{folder}/label_map.pbtxt")
    (run / "config.toml").write_text(to_toml(config.model_copy(update={"data": data})))
    assert f"on 'test' of {folder}/test-00000-of-00001.tfrecord: 3 images" in evaluate(run).text()


def dense(model, tmp_path, most):
    """Records with images of 3 and 2 objects, for a model that has ``most`` detections of one and finds 3 and 2."""
    model.most = MostDetections(most, most)
    rows = [(8, 6, 20, 18, "stop", 0, 0), (30, 6, 42, 18, "stop", 0, 0), (50, 6, 62, 18, "stop", 0, 0)]
    found = tuple((*row[:5], 0.9) for row in rows)
    model.answers = found[:most], found[1:]
    return records_folder(tmp_path / "dense", {"test": [record(0, rows), record(1, rows[1:])]})


@pytest.mark.parametrize(("most", "crowded", "full"), [(2, 1, 2), (3, 0, 1), (4, 0, 0)])
def test_images_that_the_most_detections_bind_are_told(run, model, tmp_path, most, crowded, full):
    text = evaluate(run, dense(model, tmp_path, most), out=tmp_path / "out").text()
    assert (f"{crowded} image has more objects" in text) == (crowded > 0)
    assert ("3 in 0.png: --detections 100" in text) == (crowded > 0)
    assert (f"{full} image" in text and "reached the limit" in text) == (full > 0)


def test_what_lies_below_the_score_does_not_fill_an_image(run, model, tmp_path):
    data = dense(model, tmp_path, 3)
    model.score = 0.95
    assert "reached the limit" not in evaluate(run, data, out=tmp_path / "out").text()


def test_numbers_at_more_detections_follow_the_model_the_run_and_the_option(run, model, tmp_path):
    data = tmp_path / "records"
    assert "max_detections" not in evaluate(run).metrics
    with pytest.raises(ResightError, match="unknown number 'mAP_300'"):
        evaluate(run, require=["mAP_300=1"])
    model.most = MostDetections(300, 300)
    metrics = evaluate(run, require=["mAP_300=0"]).metrics
    assert metrics["max_detections"] == 300 and metrics["mAP_300"] == metrics["mAP"]
    assert metrics["per_class"]["stop"]["AP_300"] == metrics["per_class"]["stop"]["AP"]
    config = load_config(None, {"data.path": str(data), "evaluate.max_detections": 200})
    (run / "config.toml").write_text(to_toml(config))
    assert evaluate(run).metrics["max_detections"] == 200
    assert evaluate(run, detections=400).metrics["max_detections"] == 400
    assert model.loaded[-1][1]["detections"] == 400


def test_another_precision_is_measured_beside_float32(run, model):
    class Blurred:
        """In bfloat16 the second image is seen no more."""

        def __getitem__(self, number):
            return () if model.precision == "bfloat16" and number == 1 else Oracle.answers[number]

    model.answers = Blurred()
    usual, half = evaluate(run), evaluate(run, precision="bfloat16")
    assert not {"precision", "float32", "difference"} & usual.metrics.keys() and "bfloat16" not in usual.text()
    metrics = half.metrics
    assert metrics["precision"] == "bfloat16" and metrics["mAP"] < usual.metrics["mAP"]
    assert metrics["float32"] == {name: usual.metrics[name] for name in metrics["float32"]}
    assert metrics["difference"]["AP50"] == metrics["AP50"] - usual.metrics["AP50"]
    assert [name for name, value in metrics["difference"].items() if value is None] == [
        name for name, value in metrics["float32"].items() if value is None
    ]
    numbers = f"mAP {usual.metrics['mAP']:.4f} ({metrics['difference']['mAP']:+.4f}), AP50 "
    assert f"In float32, and how much more it is in bfloat16: {numbers}" in half.text()
    assert metrics["unknown_classes"] == usual.metrics["unknown_classes"]  # counted once
    assert metrics["losses"] == usual.metrics["losses"]
    documented = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in documented for key in metrics)


def test_measure_touches_no_disk(tmp_path, model):
    images = [np.full((60, 80, 3), 0, np.uint8)] * 2
    truth = GroundTruth.of(np.array([(8, 6, 40, 48)], np.float32), np.array([0]))
    before = sorted(tmp_path.rglob("*"))
    found = [truth] * 2, [model.detect(image) for image in images]
    metrics, point = measure(*found, MODEL_CLASSES)
    assert metrics.summary["mAP"] == 1.0 and point.recall == 1.0
    _, at_stored = measure(*found, MODEL_CLASSES, score=0.95)
    assert (at_stored.score, at_stored.recall) == (0.95, 0.0)
    assert sorted(tmp_path.rglob("*")) == before
