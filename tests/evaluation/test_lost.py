import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, saved, scenes
from resight.evaluation.lost import FATES, fates, lost
from resight.evaluation.operating_point import match

FAR = (0, 0.9, 80, 80, 90, 90)
NOT_KNOWN = np.nan


def fate(box, *detections, anchor=1.0, proposal=1.0, score=0.5, others=(), **flags):
    """What became of an object of class 0 at ``box``, the first in its image."""
    truth = objects((0, *box), *others, **flags)
    rest = [1.0] * len(others)
    told = fates([truth], [found(*detections)], score, np.array([anchor, *rest]), np.array([proposal, *rest]))
    return None if told[0] < 0 else FATES[told[0]]


BOX = (0, 0, 10, 10)


@pytest.mark.parametrize(
    ("detections", "reach", "expected"),
    [
        ([(0, 0.9, 0, 0, 10, 8)], {}, "found"),  # IoU .8
        ([(0, 0.9, 0, 0, 10, 7.5)], {"anchor": 0.1, "proposal": 0.1}, "found"),
        ([(0, 0.9, 0, 0, 10, 7)], {"anchor": 0.1}, "loose"),
        ([(0, 0.9, 0, 0, 10, 5)], {}, "loose"),
        ([(0, 0.9, 0, 0, 10, 7), (0, 0.8, 0, 0, 10, 10)], {}, "found"),  # a double at .5 is what finds it at .75
        ([(1, 0.9, 0, 0, 10, 5)], {"proposal": NOT_KNOWN}, "wrong_class"),
        ([(1, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 5)], {}, "loose"),
        ([(0, 0.9, 0, 0, 10, 4)], {}, "background"),
        ([(0, 0.4, 0, 0, 10, 10)], {}, "background"),  # below the operating point
        ([(0, 0.4, 0, 0, 10, 5)], {"proposal": NOT_KNOWN}, "background"),
        ([(0, 0.4, 0, 0, 10, 5)], {"proposal": 0.49}, "background"),  # looked at or not, the proposals sufficed
        ([(0, 0.4, 0, 0, 10, 5)], {"anchor": 0.49, "proposal": 0.49}, "no_anchor"),
        ([(1, 0.4, 0, 0, 10, 5)], {"proposal": NOT_KNOWN}, "unknown"),
        ([FAR], {"proposal": 0.49}, "no_proposal"),
        ([FAR], {"anchor": 0.49, "proposal": 0.49}, "no_anchor"),
        ([FAR], {"anchor": 0.49, "proposal": NOT_KNOWN}, "no_anchor"),
        ([FAR], {"proposal": NOT_KNOWN}, "unknown"),
        ([], {"anchor": NOT_KNOWN, "proposal": NOT_KNOWN}, "unknown"),
        ([], {"anchor": 0.5, "proposal": 0.5}, "background"),
    ],
)
def test_by_hand(detections, reach, expected):
    assert fate(BOX, *detections, **reach) == expected


def test_what_is_right_about_another_object_does_not_call_this_one_another_class():
    other = (1, 0, 0, 10, 7)
    assert fate(BOX, (1, 0.9, 0, 0, 10, 7), others=[other]) == "background"
    assert fate(BOX, (1, 0.9, 0, 0, 10, 7), (1, 0.8, 0, 0, 10, 8), others=[other]) == "wrong_class"


def test_crowds_and_ignored_objects_do_not_count():
    assert fate(BOX, crowd=[0]) is None and fate(BOX, difficult=[0]) == "background"
    truth, one = objects((0, *BOX), difficult=[0]), np.ones(1)
    assert fates([truth], [found()], 0.5, one, one, ignore_difficult=True).tolist() == [-1]


def test_every_object_has_one_fate_and_each_table_holds_all_of_them():
    truths, detections = scenes(4, 60)
    count = sum(len(truth.labels) for truth in truths)
    draw = np.random.default_rng(0)
    anchor, proposal = draw.random((2, count))
    proposal[draw.random(count) < 0.3] = np.nan
    told = lost(truths, detections, CLASSES, 0.4, anchor, proposal)
    assert all(sum(row[fate] for fate in FATES) == row["objects"] for row in [told["all"], *told["class"].values()])
    assert told["all"]["objects"] == count and all(told["all"][fate] for fate in FATES)
    for by in ("size", "aspect", "class"):
        for key in told["all"]:
            assert sum(row[key] for row in told[by].values()) == told["all"][key]
    pairs = zip(truths, detections, strict=True)
    tight = sum(int((match(truth, one.above(0.4), iou=0.75)[0] == 1).sum()) for truth, one in pairs)
    assert told["all"]["found"] == tight


def test_sizes_and_aspects_are_told_apart_at_their_borders():
    truth = objects((0, 0, 0, 31, 33), (0, 0, 0, 32, 32), (0, 0, 0, 96, 96), (0, 0, 0, 97, 97), (1, 0, 0, 10, 15.1),
                    (1, 0, 0, 10, 15), (1, 0, 0, 15.1, 10))  # fmt: skip
    told = lost([truth], [found()], CLASSES, 0.5, *np.ones((2, 7)))
    assert {name: row["objects"] for name, row in told["size"].items()} == {"small": 4, "medium": 2, "large": 1}
    assert {name: row["objects"] for name, row in told["aspect"].items()} == {"tall": 1, "square": 5, "wide": 1}
    assert {name: row["background"] for name, row in told["class"].items()} == {"stop": 4, "yield": 3}
    truth.area[0] = 1e5
    assert lost([truth], [found()], CLASSES, 0.5, *np.ones((2, 7)))["size"]["large"]["objects"] == 2


def test_of_nothing():
    told = lost([], [], CLASSES, 0.5, np.zeros(0), np.zeros(0))
    assert told == {"all": dict.fromkeys(("objects", *FATES), 0), "size": {}, "aspect": {}, "class": {}}


def test_what_is_kept_tells_it_again():
    truths, detections = scenes(4, 60)
    kept = saved(truths, detections)
    assert kept.lost["all"]["unknown"] and kept.lost["all"]["objects"] == len(kept.objects["labels"])
