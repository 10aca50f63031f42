import copy
import re

import pytest
import typer

from resight.cli.app import app
from resight.dialect import load_config
from resight.reporting.advice import MOST, RULES, advice

STEPS = range(101)
FATES = ("found", "loose", "wrong_class", "background", "no_proposal", "no_anchor", "unknown")


def lost(**stages):
    """200 objects, of the 30 tall ones, all of class yield, so many are lost by ``stages``; of all others a tenth."""
    others = dict.fromkeys(FATES, 0) | {"objects": 170, "found": 153, "loose": 5, "background": 12}
    tall = dict.fromkeys(FATES, 0) | {"objects": 30, "found": 30 - sum(stages.values())} | stages
    every = {key: others[key] + tall[key] for key in others}
    of_class = {"stop": others, "yield": tall}
    return {"all": every, "size": {"medium": every}, "aspect": {"tall": tall, "square": others}, "class": of_class}


PLAIN = {
    "thresholds": [step / 100 for step in STEPS],
    "head": {"num_boxes": 200, "num_images": 100},
    "numbers": {"mAP": {"value": 0.6, "low": 0.57, "high": 0.63}, "AP50": {"value": 0.85, "low": 0.8, "high": 0.9}},
    "resampled": {"unit": "groups", "count": 40},
    "operating_point": {"score": 0.5, "precision": 0.9, "recall": 0.9, "f1": 0.9},
    "classes": [
        {"name": "stop", "AP50": 0.86, "boxes": 120},
        {"name": "yield", "AP50": 0.84, "boxes": 80},
    ],
    "all": {"objects": 200, "reported": [200] * 101, "right": [180] * 101},
    "confusion": {"score": 0.5, "cells": [[0, 0, 110], [1, 1, 70], [0, 1, 4], [0, -1, 6], [-1, 1, 5]]},
    "tide": {"AP50": 0.85, "errors": [{"kind": "missed", "count": 20, "gain": 0.05}]},
    "slices": [
        {
            "by": "size",
            "rows": [
                {"name": "under 16 px", "objects": 10, "found": 0.8, "AP": 0.4},
                {"name": "16 to 32 px", "objects": 190, "found": 0.9, "AP": 0.6},
            ],
        },
        {
            "by": "aspect",
            "rows": [
                {"name": "taller than 2:1", "objects": 30, "found": 0.9, "AP": 0.55},
                {"name": "between", "objects": 170, "found": 0.9, "AP": 0.6},
            ],
        },
    ],
    "reach": None,
    "lost": lost(loose=1),
    "suspects": [{"kind": "missing label"}] * 3,
    "configuration": "",
    "training": {"series": {"mAP on val": [[1, 0.5], [2, 0.59], [3, 0.6], [4, 0.605], [5, 0.6]]}},
}


def rules_of(**changes):
    return [one["rule"] for one in advice(PLAIN | changes)]


def errors(**gains):
    return {
        "AP50": 0.8,
        "errors": [{"kind": kind.replace("_", " "), "count": 9, "gain": g} for kind, g in gains.items()],
    }


def rows(by, **changes):
    """The tables of ``PLAIN``, of which one row of ``by`` is changed."""
    tables = copy.deepcopy(PLAIN["slices"])
    table = next(table for table in tables if table["by"] == by)
    table["rows"][0].update(changes)
    return tables


def evaluations(*values):
    return {"series": {"mAP on val": [[step, value] for step, value in enumerate(values)]}}


def test_a_good_detector_is_left_alone():
    assert advice(PLAIN) == []


CASES = {  # rule: what makes it fire, what does not quite
    "labels": ({"suspects": [{"kind": "missing label"}] * 5}, {"suspects": [{"kind": "missing label"}] * 4}),
    "few images": (
        {"numbers": {**PLAIN["numbers"], "mAP": {"value": 0.6, "low": 0.5, "high": 0.71}}},
        {"numbers": {**PLAIN["numbers"], "mAP": {"value": 0.6, "low": None, "high": None}}},
    ),
    "small objects": ({"slices": rows("size", objects=40, found=0.5)}, {"slices": rows("size", objects=20, found=0.8)}),
    "aspect": ({"slices": rows("aspect", AP=0.44)}, {"slices": rows("aspect", AP=0.44, objects=9)}),
    "confusion": (
        {"confusion": {"score": 0.5, "cells": [[0, 0, 100], [0, 1, 13]]}},
        {"confusion": {"score": 0.5, "cells": [[0, 0, 100], [0, 1, 11], [0, -1, 50]]}},
    ),
    "rare class": (
        {"classes": [PLAIN["classes"][0], {"name": "merge", "AP50": 0.6, "boxes": 12}]},
        {"classes": [PLAIN["classes"][0], {"name": "merge", "AP50": 0.6, "boxes": 60}]},
    ),
    "false alarms": (
        {"tide": errors(false_alarm=0.04, missed=0.03)},
        {"tide": errors(false_alarm=0.04, missed=0.05)},
    ),
    "misplaced": ({"tide": errors(misplaced=0.04, missed=0.03)}, {"tide": errors(misplaced=0.019)}),
    "anchors": (
        {"reach": {"anchors": {"covered": 0.9, "missed": 20, "missed_uncovered": 6}}},
        {"reach": {"anchors": {"covered": 0.9, "missed": 20, "missed_uncovered": 5}}},
    ),
    "losing stage": ({"lost": lost(loose=6)}, {"lost": lost(loose=4, background=4)}),
    "score": (
        {"all": {"objects": 200, "reported": [200] * 101, "right": [180] * 30 + [190] + [180] * 70}},
        {"all": {"objects": 200, "reported": [200] * 101, "right": [180] * 30 + [183] + [180] * 70}},
    ),
    "longer": ({"training": evaluations(0.3, 0.4, 0.5)}, {"training": evaluations(0.3, 0.5, 0.5, 0.505)}),
    "overfitting": (
        {"training": evaluations(0.5, 0.6, 0.58, 0.57, 0.55)},
        {"training": evaluations(0.5, 0.55, 0.58, 0.6, 0.55)},
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_fires_where_it_should_and_not_where_it_nearly_should(rule):
    fires, silent = CASES[rule]
    assert rules_of(**fires) == [rule]
    assert rules_of(**silent) == []


def test_a_rare_class_is_repeated_where_none_was():
    for configuration, said in (
        ("", False),
        ("[data]\nrepeat_threshold = 0.5", False),
        ("[data]\nrepeat_threshold = 0.0", True),
        ("[train]\nseed = 1", True),  # of a version that repeated nothing by itself
    ):
        (one,) = advice(PLAIN | CASES["rare class"][0] | {"configuration": configuration})
        assert ("repeat_threshold=0.5" in one["text"]) is said


def test_a_stage_is_not_blamed_where_it_was_looked_at_in_few_images():
    assert rules_of(lost=lost(background=9, unknown=1)) == ["losing stage"]
    assert rules_of(lost=lost(background=9, unknown=3)) == []


def test_a_poor_detector_is_not_asked_about_labels():
    point = {"score": 0.5, "precision": 0.7, "recall": 0.9, "f1": 0.9}
    assert rules_of(suspects=[{"kind": "missing label"}] * 50, operating_point=point) == []
    # What two images that look the same say against each other needs no detector.
    assert rules_of(suspects=[{"kind": "labelled differently"}] * 5, operating_point=point) == ["labels"]


def test_every_rule_has_its_case():
    assert len(CASES) == len(RULES)


def test_the_sentences_tell_their_figures():
    (small,) = advice(PLAIN | CASES["small objects"][0])
    assert small["text"].startswith("Of 39 missed boxes 20 are under 16 px at the network's size: ")
    assert small["figures"] == {"missed": 39, "small": 20}
    (score,) = advice(PLAIN | CASES["score"][0])
    assert score["text"] == (
        "At a score of .30 F1 is .95, at the operating point of .50 it is .90: predict with `--score .30`."
    )
    (confusion,) = advice(PLAIN | CASES["confusion"][0])
    assert confusion["text"].startswith("13 of 120 'stop' are reported as 'yield': ")


@pytest.mark.parametrize(
    ("stage", "says", "remedy"),
    [
        (
            "no_anchor",
            "No anchor reaches 9 of 30 'yield' at IoU .5 (30%; of all other objects 0%): ",
            "train at a larger",
        ),
        ("no_proposal", "No proposal covers 9 of 30 'yield' at IoU .5 (30%", "add images"),
        (
            "background",
            "The second stage takes 9 of 30 'yield' for background or scores them below the operating point (30%",
            "add images",
        ),
        ("loose", "The boxes of 9 of 30 'yield' are loose, with an IoU of .5 to .75 (30%", "drawn tightly"),
    ],
)
def test_the_stage_that_loses_a_class_is_named(stage, says, remedy):
    (one,) = advice(PLAIN | {"lost": lost(**{stage: 9})})
    assert one["text"].startswith(says) and remedy in one["text"]
    assert one["figures"]["lost"] == 9 and one["figures"]["objects"] == 30


def test_an_aspect_is_named_where_it_loses_more_than_a_class():
    content = lost(no_proposal=9)
    content["class"] = {"stop": content["all"]}
    (one,) = advice(PLAIN | {"lost": content})
    assert one["text"].startswith("No proposal covers 9 of 30 tall objects at IoU .5 (30%; of all other objects 0%)")
    assert one["text"].endswith("add images of such objects.")


def test_the_options_are_those_that_would_change_something():
    fires = CASES["small objects"][0]
    for configuration, says in (
        ("", "(`--size MIN,MAX`), or in tiles (`--set model.tile=PIXELS`)."),
        ("[model]\nmin_size = 320\nmax_size = 512\ntile = 0\n", "(`--size 480,768`; it was 320,512), or in tiles"),
        ("[model]\nmin_size = 800\nmax_size = 1333\ntile = 640\n", "(`--size 1216,2016`; it was 800,1333)."),
        ("what is no TOML", "(`--size MIN,MAX`)"),
        ('[model]\nname = "faster_rcnn_resnet50_v1"\n', "(`--size 1216,2016`; it was 800,1333)."),  # which has no tiles
        (
            '[model]\nname = "faster_rcnn_resnet50_v1"\n[model.tfod]\nfixed_size = [640, 640]\n',
            "(a `fixed_size` of `[model.tfod]` such as 960,960; it was 640,640).",
        ),
    ):
        (one,) = advice(PLAIN | fires | {"configuration": configuration})
        assert says in one["text"]
    for model, could_fit in (
        ("", False),  # they are fitted by default
        ('anchors = "default"', True),
        ('anchors = "fit"', False),
        ('anchors = "default"\nstart = "runs/first"', False),  # a detector's weights come with their anchors
        ('anchors = "default"\nname = "fasterrcnn_resnet50_fpn"', False),
        ('name = "faster_rcnn_resnet50_v1"', False),  # TFOD's are model.tfod's
        ('name = "faster_rcnn_resnet50_v1"\nanchors = "fit"', False),
        ('name = "faster_rcnn_resnet50_v1"\nstart = "runs/first"', False),
    ):
        (one,) = advice(PLAIN | CASES["anchors"][0] | {"configuration": f"[model]\n{model}"})
        assert ("model.anchors=fit" in one["text"]) == could_fit and "--size" in one["text"]


def test_every_option_that_is_named_is_one():
    everything = [CASES[rule][0] for rule in CASES]
    more = {"configuration": '[model]\nanchors = "default"\n'}
    text = " ".join(one["text"] for fires in everything for one in advice(PLAIN | fires | more))
    keys = set(re.findall(r"--set ([a-z_.]+)=", text))
    assert keys == {"data.repeat_threshold", "model.tile", "model.anchors", "train.patience"}
    for key in keys:
        section, name = key.split(".")
        assert name in type(getattr(load_config(), section)).model_fields
    options = {name for command in ("train", "predict") for name in options_of(command)}
    assert set(re.findall(r"(--[a-z-]+)", text)) - {"--set"} <= options


def options_of(command):
    found = typer.main.get_command(app).commands[command]
    return [name for parameter in found.params for name in parameter.opts]


def test_the_pair_that_is_confused_too_often_is_told_where_another_is_more_often_in_figures():
    classes = [{"name": "stop", "AP50": 0.86, "boxes": 1200}, *PLAIN["classes"][1:]]
    (one,) = advice(PLAIN | {"classes": classes, "confusion": {"cells": [[0, 1, 20], [1, 0, 9]]}})
    assert one["text"].startswith("9 of 80 'yield' are reported as 'stop'")


def test_one_box_is_one():
    classes = [PLAIN["classes"][0], {"name": "merge", "AP50": 0.6, "boxes": 1}]
    (one,) = advice(PLAIN | {"classes": classes})
    assert "and 1 box here, where" in one["text"]


def test_at_most_five_the_weightiest_first():
    everything = {}
    for name, (fires, _) in CASES.items():
        everything |= {} if name in ("misplaced", "overfitting") else fires
    everything["slices"] = [rows("size", objects=40, found=0.5)[0], rows("aspect", AP=0.44)[1]]
    told = rules_of(**everything)
    assert len(told) == MOST and told[:2] == ["labels", "few images"]


def test_an_evaluation_of_nothing_has_no_advice():
    nothing = {
        "head": {"num_boxes": 0},
        "numbers": {name: {"value": None, "low": None, "high": None} for name in ("mAP", "AP50")},
        "operating_point": {"score": 0.5, "precision": None, "recall": None, "f1": None},
        "classes": [],
        "all": {"objects": 0, "reported": [0] * 101, "right": [0] * 101},
        "confusion": {"score": 0.5, "cells": []},
        "slices": [],
        "lost": {"all": dict.fromkeys(("objects", *FATES), 0), "size": {}, "aspect": {}, "class": {}},
        "suspects": [],
        "configuration": "",
        "training": None,
        "tide": errors(),
    }
    assert rules_of(**nothing) == []
