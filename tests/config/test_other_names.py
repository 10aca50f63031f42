import re

import pytest
from typer.testing import CliRunner

from resight.cli.app import app
from resight.config.other_names import _OPTIONS, _full, key_here, option_here, verb_here
from resight.dialect import all_keys


def test_every_key_and_option_that_is_named_exists():
    assert {key for _, _, key, _ in _OPTIONS if key} <= set(all_keys())
    found = ((_full(verb), text) for verbs, text, _, _ in _OPTIONS for verb in verbs.split())
    options = {(verb, option) for verb, text in found for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)}
    helps = {}
    for verb, option in options:
        if verb not in helps:
            helps[verb] = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"}).stdout
        assert re.search(rf"{option}\b", helps[verb]), (verb, option)


@pytest.mark.parametrize(
    ("option", "verb", "here"),
    [
        ("--lr", "train", "train.learning_rate"),
        ("--lr0", "train", "train.learning_rate"),
        ("--imgsz", "train", "--size MIN,MAX"),
        ("--img-size", "train", "--size"),
        ("--batch-size", "train", "--batch N"),
        ("--batch_size", "train", "--batch N"),
        ("--workers", "train", "data.workers"),
        ("--num_workers", "train", "data.workers"),
        ("--conf", "predict", "--score"),
        ("--conf-thres", "predict", "--score"),
        ("--iou", "predict", "--nms-iou"),
        ("--project", "train", "-o PATH"),
        ("--name", "train", "-o PATH"),
        ("--val", "evaluate", "--split val"),
        ("--val", "train", "validation follows each epoch"),
        ("--weights", "train", "--start MODEL"),
        ("--weights", "predict", "MODEL, the first argument"),
        ("--cfg", "train", "CONFIG, the first argument"),
        ("--model_dir", "train", "-o PATH"),
        ("--num_train_steps", "train", "--steps"),
        ("--pipeline_config_path", "train", "CONFIG, the first argument"),
        ("--checkpoint_dir", "evaluate", "MODEL, the first argument"),
        ("--exist-ok", "predict", "--force"),
        ("--cache", "predict", "There is no option: records are read from disk."),
        ("--freeze", "train", "model.freeze"),
        ("--patience", "train", "train.patience"),
        ("--optimizer", "train", "train.optimizer"),
        ("--cos-lr", "train", "train.schedule"),
        ("--amp", "train", "train.precision"),
        ("--half", "predict", "train.precision"),
        ("--dataset", "train", "--data RECORDS"),
        ("--source", "predict", "INPUT"),
        ("--imgsz", "predict", "of 'resight train'"),
    ],
)
def test_an_option_of_another_tool_is_answered_with_ours(option, verb, here):
    assert here in option_here(option, verb)
    said = CliRunner().invoke(app, [verb, option, "1"])
    assert said.exit_code == 2 and here in said.stderr


@pytest.mark.parametrize(
    ("key", "here"),
    [("train.lr", "'train.learning_rate'"), ("imgsz", "'model.min_size'"), ("train.project", "-o PATH")],
)
def test_a_key_of_another_tool_is_answered_with_ours(key, here):
    assert here in key_here(key)


@pytest.mark.parametrize(
    ("words", "here"),
    [
        (["detect"], "resight predict"),
        (["infer"], "resight predict"),
        (["test"], "resight evaluate"),
        (["val"], "resight evaluate"),
        (["fit"], "resight train"),
        (["build"], "resight data build"),
        (["data", "convert"], "resight data build"),
        (["data", "train"], "resight train"),
        (["tune"], "no search"),
    ],
)
def test_a_verb_of_another_tool_is_answered_with_ours(words, here):
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2 and here in said.stderr


def test_a_word_of_no_tool_has_no_answer():
    assert (option_here("--frobnicate"), key_here("train.frobnicate"), verb_here("frobnicate")) == ("", "", "")
