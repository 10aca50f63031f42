"""The proof before any training, and what the migration page says."""

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from resight.cli.app import app
from resight.config.defaults import OPERATION_DEFAULTS, ExportFormat, InputType
from resight.config.loading import parse_set
from resight.dialect import all_keys, load_config
from resight.errors import ResightError
from resight.evaluation.evaluate import evaluate
from resight.inference.detector import load
from resight.label_map import LabelMap, to_pbtxt
from resight.records.writer import write_records_folder
from resight.tfod.config import TfodModelConfig, TfodTree
from resight.tfod.pipeline.text import write_pipeline
from resight.tfod.zoo import ZOO
from resight.training.train import train
from resight.types import Annotation, Box

NAMES = ("stop", "yield", "merge")
SMALL = {"anchor_base": (64.0, 64.0), "proposals": 40, "box_batch": 16, "detections": 30, "detections_per_class": 30}
LINE = re.compile(r"^\t\+ (Detection\S+(?: \(\w+\))?): (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def old(tfod_export, once):
    """What TFOD leaves: `checkpoint/` and `saved_model/`, which TensorFlow wrote, and `pipeline.config`."""
    return once("old", lambda folder: leave(folder / "exported", tfod_export)) / "exported"


def leave(folder, export):
    folder.mkdir()
    labels = folder.parent / "labels.pbtxt"
    labels.write_text(to_pbtxt(LabelMap.from_names(NAMES)))
    model = TfodModelConfig(name="faster_rcnn_resnet50_v1", min_size=96, max_size=128, tfod=SMALL)
    records = {"train": [str(folder.parent / "gone")], "test": ["../records/test-*"]}
    pipeline = write_pipeline(TfodTree(model=model), len(NAMES), label_map=str(labels), records=records)
    (folder / "pipeline.config").write_text(pipeline)
    for name in ("checkpoint", "saved_model"):
        (folder / name).symlink_to(export / name)
    found_in_noise(folder)


@pytest.fixture(scope="module")
def records(old):
    return old.parent / "records"


def found_in_noise(old):
    """Some of what the model finds in noise, shifted a little, so that the numbers are neither 0 nor 1."""
    folder = old.parent
    detector = load(old)
    draw = np.random.default_rng(3)
    annotations = []
    for number in range(3):
        image = np.kron(draw.integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        found = detector.detect(image)
        boxes = []
        for (x1, y1, x2, y2), label in list(zip(found.boxes.tolist(), found.labels, strict=True))[::2]:
            shift = draw.integers(0, 6)
            box = (min(x1 + shift, x2 - 1), y1, min(x2 + shift, 128.0), y2)
            boxes.append(Box(NAMES[label], *box))
        from PIL import Image

        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        annotations.append(Annotation(str(path), tuple(boxes), 128, 96, split="test"))
    write_records_folder({"test": annotations}, folder / "records", LabelMap.from_names(NAMES))


def test_the_saved_model_and_its_checkpoint_have_the_same_twelve_numbers(old, records, tmp_path):
    said = {}
    for model in (old / "saved_model", old):
        result = CliRunner().invoke(
            app, ["evaluate", str(model), "--data", str(records), "-o", str(tmp_path / model.name)]
        )
        assert result.exit_code == 0, result.stderr
        said[model.name] = dict(LINE.findall(result.stdout))
        assert ("Loss/total_loss" in result.stdout) == (model == old)
    first, second = ({name: float(value) for name, value in lines.items()} for lines in said.values())
    assert len(first) == 12 and list(first) == list(second)
    assert 0.05 < first["DetectionBoxes_Precision/mAP"] < 0.95
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=1e-4), name


def test_without_data_its_own_records_are_measured(old, records, tmp_path):
    named = evaluate(old, out=tmp_path / "named")
    (shard,) = records.glob("test-*")
    assert f"on 'test' of {shard}: 3 images" in named.text()
    with pytest.raises(ResightError, match="has no split 'train'"):
        evaluate(old, split="train", out=tmp_path / "train")
    moved = tmp_path / "moved" / "exported"
    moved.mkdir(parents=True)
    for path in old.iterdir():
        (moved / path.name).symlink_to(path)
    with pytest.raises(ResightError, match=r"pipeline.config: the records it names are not there\n.*--data RECORDS"):
        evaluate(moved, out=tmp_path / "gone")


def test_training_logs_the_lines_that_evaluate_prints(shapes, tmp_path):
    data = shapes(train=2, val=1)
    keys = {
        "data.path": str(data),
        "data.workers": 0,
        "model.name": "faster_rcnn_resnet50_v1",
        "model.min_size": 64,
        "model.max_size": 96,
        "model.tfod": {"anchor_base": (32.0, 32.0), "proposals": 20, "box_batch": 8},
        "model.start": "none",
        "train.steps": 1,
        "train.batch_size": 1,
        "train.optimizer": "momentum",
        "train.ema": 0.0,
        "train.device": "cpu",
    }
    run = train(load_config(None, keys), tmp_path / "run").run
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    (row,) = (row for row in rows if row["split"] == "val")
    lines = evaluate(run, split="val").metrics["tfod"]
    assert next(iter(lines)) == "DetectionBoxes_Precision/mAP" and list(lines)[-1] == "Loss/total_loss"
    assert len(lines) == 18
    assert {name: row[name] for name in lines} == pytest.approx(lines, rel=1e-5)


# The page

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "from-tfod.md").read_text(encoding="utf-8")


def commands():
    """Every whole command of ours on the page, in its blocks and in its tables."""
    return re.findall(r"^    (resight .+)$", PAGE, re.MULTILINE) + re.findall(r"`(resight [^`]+)`", PAGE)


def test_every_command_of_the_page_is_one():
    found = commands()
    assert len(found) > 25
    for line in found:
        command, name, words = get_command(app), "resight", line.split()[1:]
        while hasattr(command, "commands"):
            name, *words = words
            command = command.commands[name]
        given = command.make_context(name, words).params  # refuses options that are not there, arguments that lack
        for key in parse_set(given.get("set") or ()):
            assert key in all_keys(), line
        for option, known in {"format": get_args(ExportFormat), "input_type": get_args(InputType)}.items():
            if command.name == "export" and given.get(option):
                assert given[option] in known, line


def test_every_key_and_augmentation_of_the_page_exists():
    assert set(re.findall(r"`(random_\w+)`", PAGE)) == set(OPERATION_DEFAULTS)
    keys = set(re.findall(r"`((?:data|model|train|augment|evaluate|checkpoint)\.[\w.]+)", PAGE))
    assert {key for key in keys if not key.endswith(".sh")} <= set(all_keys())


def test_every_name_of_the_zoo_on_the_page_is_in_it():
    assert set(re.findall(r"faster_rcnn_resnet\w+-\d", PAGE)) <= {entry.name for entry in ZOO}
