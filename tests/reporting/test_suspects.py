import pytest

from fixtures.scenes import found, objects, saved, scenes
from resight.reporting.data_suspects import DIFFERENT, ONCE
from resight.reporting.data_suspects import Suspect as Disagreement
from resight.reporting.outcomes import outcomes
from resight.reporting.suspects import BADLY_PLACED, CONFIDENT, Suspect, suspects

A, B = (10, 10, 30, 30), (60, 60, 80, 80)
NEAR = (10, 10, 30, 22)  # IoU .6 with A
FAR = (18, 10, 38, 30)  # IoU .43


def of(truth, detections, score=0.5):
    evaluation = saved([objects(), truth], [found(), detections])
    result = outcomes(evaluation.truths, evaluation.found)
    return [(one.kind, one.image, one.label, one.other) for one in suspects(evaluation, result, score)]


@pytest.mark.parametrize(
    ("truth", "detections", "expected"),
    [
        (objects((0, *A)), found((0, 0.95, *A)), []),
        (objects((0, *A)), found((0, 0.99, *A), (2, 0.9, *B)), [("missing label", 1, None, 2)]),
        (objects((0, *A)), found((0, 0.99, *A), (2, 0.7, *B)), []),  # not sure enough
        (objects((0, *A), (2, *B), crowd=[1]), found((2, 0.9, *B), (1, 0.9, *B)), []),  # a crowd explains it
        (objects((0, *A)), found((1, 0.9, *A)), [("wrong class", 1, 0, 1)]),
        (objects((0, *A)), found((1, 0.9, *A), (0, 0.85, *A)), []),  # its own class is found as surely
        (objects((0, *A)), found((1, 0.9, *A), (0, 0.3, *A)), [("wrong class", 1, 0, 1)]),
        (objects((0, *A)), found((0, 0.9, *NEAR)), [("badly placed", 1, 0, 0)]),
        (objects((0, *A)), found((0, 0.9, *FAR), (0, 0.85, *FAR)), [("badly placed", 1, 0, 0)]),
        (objects((0, *A)), found((0, 0.95, *A), (0, 0.9, *FAR)), []),
        (objects(), found(), []),
    ],
)
def test_by_hand(truth, detections, expected):
    assert of(truth, detections) == expected


def test_labels_that_two_images_which_look_the_same_have_come_first():
    evaluation = saved([objects((0, *A)), objects((1, *A), (2, *B))], [found((0, 0.99, *A), (2, 0.9, *B)), found()])
    disagreements = [
        Disagreement(DIFFERENT, 0, 1, 1, 0.9, "stop here, yield in 1.jpg"),
        Disagreement(ONCE, 2, -1, 0, 0.0, "merge here, and none in 0.jpg"),
    ]
    result = outcomes(evaluation.truths, evaluation.found)
    first, second = suspects(evaluation, result, 0.5, disagreements)
    assert first == Suspect("labelled differently", 0, tuple(map(float, A)), 0, 1, None, 0.9, 1)
    assert second.kind == "missing label"


def test_no_less_sure_than_the_operating_point():
    truth, detections = objects((0, *A)), found((0, 0.99, *A), (2, 0.9, *B))
    assert of(truth, detections, score=0.95) == []


@pytest.mark.parametrize("seed", range(3))
def test_each_is_sure_and_against_its_label_and_the_surest_comes_first(seed):
    evaluation = saved(*scenes(seed, images=80))
    told = suspects(evaluation, outcomes(evaluation.truths, evaluation.found), 0.5)
    assert {one.kind for one in told} == {"missing label", "wrong class", "badly placed"}
    assert [one.score for one in told] == sorted((one.score for one in told), reverse=True)
    for one in told:
        truth = evaluation.truths[one.image]
        assert one.score >= CONFIDENT
        if one.kind == "missing label":
            assert one.label is None
        else:
            assert list(one.box) in truth.boxes.tolist() and (one.label == one.other) == (one.kind == "badly placed")
            assert one.iou < BADLY_PLACED if one.kind == "badly placed" else one.iou >= 0.5
