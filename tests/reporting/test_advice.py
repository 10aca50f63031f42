import copy

import pytest

from resight.reporting.advice import MOST, RULES, advice

STEPS = range(101)
PLAIN = {
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
    "suspects": [{}] * 3,
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
    "labels": ({"suspects": [{}] * 5}, {"suspects": [{}] * 4}),
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


def test_a_poor_detector_is_not_asked_about_labels():
    point = {"score": 0.5, "precision": 0.7, "recall": 0.9, "f1": 0.9}
    assert rules_of(suspects=[{}] * 50, operating_point=point) == []


def test_every_rule_has_its_case():
    assert len(CASES) == len(RULES)


def test_the_sentences_tell_their_figures():
    (small,) = advice(PLAIN | CASES["small objects"][0])
    assert small["text"].startswith("Of 39 missed boxes 20 are under 16 px at the network's size: ")
    assert small["figures"] == {"missed": 39, "small": 20}
    (score,) = advice(PLAIN | CASES["score"][0])
    assert score["text"] == (
        "From score .30 on F1 is 0.95, and 0.90 at the model's own .50: predict with `--score .30`."
    )
    (confusion,) = advice(PLAIN | CASES["confusion"][0])
    assert "Of 120 'stop' 13 are called 'yield'" in confusion["text"]


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
        "suspects": [],
        "training": None,
        "tide": errors(),
    }
    assert rules_of(**nothing) == []
