import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, hotcoco_of, objects, saved, scenes
from resight.evaluation.coco import coco_metrics
from resight.reporting.matched import Matched
from resight.reporting.outcomes import Kind
from resight.reporting.tide import tide

A, B = (10, 10, 30, 30), (60, 60, 80, 80)
FAR = (18, 10, 38, 30)  # IoU .43 with A
NAMES = {
    "Miss": "missed",
    "Loc": "misplaced",
    "Cls": "wrong class",
    "Both": "both",
    "Dupe": "double",
    "Bkg": "false alarm",
}


def of(truths, detections):
    evaluation = saved(truths, detections)
    one = Matched(evaluation)
    columns = evaluation.detections["scores"], evaluation.detections["labels"], evaluation.objects["labels"]
    told = tide(one.result, *columns, one.standard)
    return told["AP50"], {row["kind"]: (row["count"], row["gain"]) for row in told["errors"]}


@pytest.mark.parametrize("seed", range(4))
def test_counts_and_gains_are_hotcocos(seed):
    truths, detections = scenes(seed, images=60)
    ap, told = of(truths, detections)
    wanted = hotcoco_of(truths, detections).tide_errors()
    assert ap == pytest.approx(wanted["ap_base"], abs=1e-9)
    for key, name in NAMES.items():
        assert told[name] == (wanted["counts"][key], pytest.approx(wanted["delta_ap"][key], abs=1e-9))


@pytest.mark.parametrize(
    ("detections", "kind", "count", "gain"),
    [
        ([], "missed", 1, 0.5),  # no object of the class is left to count
        ([(1, 0.9, *A)], "wrong class", 1, 0.5),
        ([(1, 0.9, *A), (1, 0.8, *A)], "wrong class", 2, 0.5),  # the second is deleted
        ([(0, 0.9, *FAR)], "misplaced", 1, 0.5),
        ([(0, 0.9, *FAR), (1, 0.95, *A)], "misplaced", 1, 0.0),  # the better answer is of another kind
        ([(0, 0.9, *A), (0, 0.95, *B)], "false alarm", 1, 0.25),
        ([(0, 0.9, *A), (0, 0.8, *A)], "double", 1, 0.0),  # below all that is right
        ([(1, 0.9, *FAR)], "both", 1, 0.0),
    ],
)
def test_gains_by_hand(detections, kind, count, gain):
    """Of class 0 one object, and one of class 2 that is found: half of AP50 each."""
    _, told = of([objects((0, *A)), objects((2, *B))], [found(*detections), found((2, 0.99, *B))])
    assert told[kind] == (count, pytest.approx(gain, abs=1e-9))


def test_a_crowd_is_no_answer():
    truths = [objects((0, *A), (1, *B), crowd=[0]), objects((0, *B))]
    _, told = of(truths, [found((1, 0.9, *A), (0, 0.8, *FAR)), found((0, 0.7, *B))])
    # On the crowd there is nothing that the first could have been; the second lies in it for the most part.
    assert told["false alarm"][0] == 1 and told["wrong class"][0] == told["misplaced"][0] == 0


def test_without_false_alarms_ap_is_what_counting_again_gives():
    truths, detections = scenes(0, images=40)
    ap, told = of(truths, detections)
    result, first = Matched(saved(truths, detections)).result, np.cumsum([0, *(len(one) for one in detections)])
    fewer = []
    for number, one in enumerate(detections):
        keep = result.kind[first[number] : first[number + 1]] != Kind.FALSE_ALARM
        fewer.append(dataclasses.replace(one, boxes=one.boxes[keep], scores=one.scores[keep], labels=one.labels[keep]))
    gain = coco_metrics(truths, fewer, CLASSES).summary["AP50"] - ap
    assert told["false alarm"] == ((result.kind == Kind.FALSE_ALARM).sum(), pytest.approx(gain, abs=1e-6))


def test_nothing_at_all():
    ap, told = of([], [])
    assert ap is None and set(told.values()) == {(0, 0.0)}
    ap, told = of([objects()], [found((0, 0.9, *A))])
    assert ap is None and told["false alarm"] == (1, 0.0)
