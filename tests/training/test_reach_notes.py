import numpy as np
import pytest

from resight.config.tree import TFOD_MODELS
from resight.dialect import model_config
from resight.training.plan import make_plan
from resight.training.reach_notes import _remedy, poorly_reached

CLASSES = ("sign", "light", "bridge")
SIDES = {"tall": (10, 20), "square": (10, 15), "wide": (16, 10)}


def notes(*kinds):
    """Of boxes of ``(shape, class, count, how many are reached at .5, at .7)`` each."""
    sides, labels, iou = [], [], []
    for shape, name, count, half, most in kinds:
        sides += [SIDES[shape]] * count
        labels += [CLASSES.index(name)] * count
        iou += [0.8] * most + [0.6] * (half - most) + [0.3] * (count - half)
    return list(
        map(str, poorly_reached(np.array(sides, float).reshape(-1, 2), np.array(labels, int), CLASSES, np.array(iou)))
    )


GOOD = ("square", "sign", 100, 100, 90)


def test_an_aspect_is_named_with_the_class_that_most_of_it_is():
    assert notes(GOOD, ("tall", "light", 20, 20, 8), ("tall", "sign", 2, 2, 1)) == [
        "41% of the tall boxes (h/w > 1.5, mostly light) at IoU .7"
    ]
    assert notes(GOOD, ("wide", "light", 10, 8, 8), ("wide", "sign", 10, 8, 1)) == [
        "80% of the wide boxes (w/h > 1.5) at IoU .5, 45% at IoU .7"
    ]


def test_a_class_is_named_where_no_aspect_tells_it():
    few = ("tall", "light", 15, 15, 6), ("square", "light", 15, 15, 6)
    assert notes(GOOD, ("tall", "sign", 30, 30, 27), *few) == ["40% of the boxes of light at IoU .7"]


@pytest.mark.parametrize(
    "kinds",
    [
        [GOOD, ("tall", "light", 9, 0, 0)],  # too few to tell
        [GOOD, ("tall", "light", 20, 19, 13)],  # well enough
        [("square", "sign", 100, 85, 50), ("tall", "light", 20, 16, 9)],  # hardly worse than the others
        [("tall", "light", 20, 20, 8)],  # all there is, of which the plan tells anyway
        [],
    ],
)
def test_what_is_not_worth_a_note(kinds):
    assert notes(*kinds) == []


def test_those_with_most_boxes_out_of_reach_come_first():
    names = [(f"c{number}", 10 + number) for number in range(6)]
    labels = np.repeat(np.arange(7), [count for _, count in names] + [300])
    iou = np.where(labels == 6, 0.8, 0.6)
    iou[labels == 5] = 0.3
    told = poorly_reached(np.ones((len(labels), 2)), labels, [*(name for name, _ in names), "good"], iou)
    assert str(told[0]) == "0% of the boxes of c5 at IoU .5, 0% at IoU .7"
    assert [int(one.boxes.sum()) for one in told] == [15, 14, 13, 12, 11, 10]


def test_the_plan_tells_them(shapes, tiny, monkeypatch):
    config = tiny(shapes(train=11, val=3))
    labels, reached = make_plan(config).train.box_labels, "resight.training.plan.reachable_iou"
    monkeypatch.setattr(reached, lambda *_: np.full(len(labels), 0.8))
    assert "anchors reach" not in make_plan(config).text()
    monkeypatch.setattr(reached, lambda *_: np.where(labels, 0.8, 0.6))
    note, more = (
        "note      anchors reach 0% of the boxes of red at IoU .7",
        "where they are small a larger --size",
    )
    assert f"{note}: more images of them help, or {more}" in make_plan(config).text().splitlines()
    monkeypatch.setattr("resight.training.reach_notes.MOST", 0)
    assert (
        "note      anchors reach 1 more kind of boxes badly; resight data check names all: more"
        in make_plan(config).text()
    )


def test_the_remedy_is_one_that_helps_the_model():
    assert _remedy(model_config({"name": "resnet50", "anchors": "default"})) == "--set model.anchors=fit helps"
    assert _remedy(model_config({"name": TFOD_MODELS[0]})) == "where they are small a larger --size helps"
