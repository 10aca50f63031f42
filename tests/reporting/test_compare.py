import dataclasses
import json

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, saved, scenes
from resight.errors import ResightError
from resight.evaluation import report
from resight.evaluation.loop import measure
from resight.reporting.bootstrap import NUMBERS
from resight.reporting.compare import compare
from resight.reporting.matched import Matched

A, B = (10, 10, 30, 30), (60, 60, 80, 80)


def evaluated(truths, detections, model="run", score=None, **options):
    numbers, point = measure(truths, detections, CLASSES, score=score)
    metrics = {**report.as_dict(numbers, point, split="test", data="d"), "model": model}
    return Matched(saved(truths, detections, **metrics, **options))


def changed(one, **change):
    return Matched(dataclasses.replace(one.evaluation, **change))


def weaker(detections, seed=0):
    """Without two thirds of them."""
    draw = np.random.default_rng(seed)
    for one in detections:
        keep = draw.random(len(one)) > 0.66
        yield dataclasses.replace(one, boxes=one.boxes[keep], scores=one.scores[keep], labels=one.labels[keep])


def test_a_run_and_itself_do_not_differ():
    one = evaluated(*scenes(0))
    (other,) = compare([one, one], ["a", "b"])["others"]
    assert all(other["numbers"][name]["low"] == other["numbers"][name]["high"] == 0 for name in NUMBERS)
    assert (other["better"], other["worse"], other["flipped"]) == (0, 0, [])


def test_the_difference_is_of_the_numbers_and_its_interval_is_paired():
    truths, detections = scenes(1, images=80)
    first, second = evaluated(truths, detections, "strong"), evaluated(truths, list(weaker(detections)), "weak")
    told = compare([first, second, first], ["a", "b", "c"])
    assert (told["first"], [one["model"] for one in told["others"]]) == ("strong", ["weak", "strong"])
    row = told["others"][0]["numbers"]["AP50"]
    assert row["values"] == [first.evaluation.metrics["AP50"], second.evaluation.metrics["AP50"]]
    assert row["low"] < row["difference"] == row["values"][1] - row["values"][0] < row["high"] < 0
    # Far narrower than the two intervals by themselves, as both are of the same images.
    assert row["high"] - row["low"] < 0.25
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_objects_that_flip_by_hand():
    truths = [objects((0, *A), (1, *B)), objects((0, *A), (0, *B), crowd=[1])]
    first = evaluated(truths, [found((0, 0.9, *A)), found((0, 0.8, *A), (0, 0.7, *B))], score=0.5)
    second = evaluated(truths, [found((1, 0.95, *B), (0, 0.9, *A)), found((0, 0.3, *A))], score=0.5)
    (told,) = compare([first, second], ["a", "b"])["others"]
    assert (told["better"], told["worse"]) == (1, 1)
    rows = [
        (one["image"], one["object"], one["found_by"], [says and says["score"] for says in one["says"]])
        for one in told["flipped"]
    ]
    assert rows == [
        (0, 1, "other", [None, pytest.approx(0.95)]),
        (1, 0, "first", [pytest.approx(0.8), pytest.approx(0.3)]),
    ]


def test_of_what_has_flipped_both_say_what_they_have_there():
    truths = [objects((0, *A), (0, *B))]
    first = evaluated(truths, [found((0, 0.9, *A), (0, 0.8, *B))], score=0.5)
    second = evaluated(
        truths, [found((1, 0.7, *B), (2, 0.6, 60, 60, 80, 70), (2, 0.3, *A), (1, 0.6, 5, 5, 9, 9))], score=0.5
    )
    (told,) = compare([first, second], ["a", "b"])["others"]
    says = {tuple(one["box"]): one["says"] for one in told["flipped"]}
    assert says[A][1] is None  # what is below its threshold is not reported
    assert says[B][1] == {"label": 1, "score": pytest.approx(0.7), "box": list(B)}
    assert says[B][0] == {"label": 0, "score": pytest.approx(0.8), "box": list(B)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ("stop", "yield", "other")}, "its classes are others"),
        (
            {"names": ("other.jpg", *(f"{number}.jpg" for number in range(1, 30)))},
            "image 1 is other.jpg, and not 0.jpg",
        ),
        ({"metrics": {"ignore_difficult": True}}, "one ignores difficult objects"),
        ({"groups": ("a",) * 30}, "its images are in other groups"),
    ],
)
def test_what_is_not_of_the_same_images_is_refused(change, says):
    one = evaluated(*scenes(2))
    with pytest.raises(ResightError, match=f"runs/b: is not an evaluation of what runs/a is of: {says}"):
        compare([one, changed(one, **change)], ["runs/a", "runs/b"])


def test_other_objects_and_other_numbers_of_images_are_refused():
    one = evaluated(*scenes(2))
    moved = changed(one, objects=one.evaluation.objects | {"boxes": one.evaluation.objects["boxes"] + 1})
    with pytest.raises(ResightError, match="its objects are others"):
        compare([one, moved], ["a", "b"])
    with pytest.raises(ResightError, match="it has 29 images, and not 30"):
        compare([one, evaluated(*scenes(2, images=29))], ["a", "b"])
