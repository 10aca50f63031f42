"""The operating point against pycocotools' matching and a search over every threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.evaluation.coco import GroundTruth
from resight.evaluation.operating_point import OperatingPoint, match, operating_point, sentence
from resight.types import Detections

CLASSES = ("stop", "yield")


def random_boxes(generator, count):
    corner = generator.integers(0, 6, (count, 2)) * 8.0
    return np.hstack([corner, corner + generator.choice([8, 16, 24, 48], (count, 2))]).astype(np.float32)


def random_pairs(seed):
    """Images with many equal scores and equal overlaps; most objects have a detection near."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(generator.integers(1, 6)):
        count, extra = generator.integers(0, 7), generator.integers(0, 8)
        boxes, labels = random_boxes(generator, count), generator.integers(0, 2, count)
        rare = generator.random((2, count)) < 0.2
        truth = GroundTruth(boxes, labels, rare[0], rare[1], np.full(count, np.nan))
        near = generator.random(count) < 0.8
        found = np.concatenate(
            [boxes[near] + generator.integers(-3, 4, (near.sum(), 1)), random_boxes(generator, extra)]
        )
        scores = generator.choice([0.1, 0.3, 0.30000003, 0.6, 0.8, 0.95], len(found)).astype(np.float32)
        found_labels = np.concatenate([labels[near], generator.integers(0, 2, extra)])
        pairs.append((truth, Detections(found.astype(np.float32), scores, found_labels, CLASSES)))
    return pairs


def outcomes_by_pycocotools(counting):
    """Scores and hits of what counts, and the number of objects, at IoU .5 over all sizes."""
    scores, hits, objects = [], [], 0
    everything = [item for item in counting.evalImgs if item and item["aRng"] == counting.params.areaRng[0]]
    for item in everything:
        counts = ~item["dtIgnore"][0].astype(bool)
        scores += list(np.array(item["dtScores"])[counts])
        hits += list(item["dtMatches"][0][counts] > 0)
        objects += int((1 - np.array(item["gtIgnore"])).sum())
    return np.array(scores), np.array(hits, bool), objects


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_best_of_all_thresholds(reference, seed, ignore_difficult):
    pairs = random_pairs(seed)
    truths, detections = zip(*pairs, strict=True)
    scores, hits, objects = outcomes_by_pycocotools(reference(pairs, ignore_difficult))
    point = operating_point(truths, detections, ignore_difficult=ignore_difficult)
    if not objects:
        assert point == OperatingPoint(0.5)
        return
    best = max(
        ((2 * hits[scores >= score].sum() / ((scores >= score).sum() + objects), score) for score in scores),
        default=(0, 0),
    )
    assert point.f1 == pytest.approx(best[0])
    if not best[0]:
        assert (point.score, point.precision, point.recall) == (0.5, 0, 0)
        return
    kept = scores >= best[1]
    assert point.precision == pytest.approx(hits[kept].sum() / kept.sum())
    assert point.recall == pytest.approx(hits[kept].sum() / objects)
    below = scores[~kept]
    assert (below.max() if len(below) else 0) < point.score <= best[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.99]))
def test_the_point_at_a_score(reference, seed, ignore_difficult, score):
    pairs = random_pairs(seed)
    truths, detections = zip(*pairs, strict=True)
    scores, hits, objects = outcomes_by_pycocotools(reference(pairs, ignore_difficult))
    point = operating_point(truths, detections, score=score, ignore_difficult=ignore_difficult)
    if not objects:
        assert point == OperatingPoint(score)
        return
    kept = scores >= np.float32(score)
    right, reported = hits[kept].sum(), kept.sum()
    assert point.score == score
    assert point.precision == pytest.approx(right / max(reported, 1))
    assert point.recall == pytest.approx(right / objects)
    assert point.f1 == pytest.approx(2 * right / (reported + objects))
    assert point.f1 <= operating_point(truths, detections, ignore_difficult=ignore_difficult).f1 + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_best_point_is_the_point_at_its_score(seed):
    truths, detections = zip(*random_pairs(seed), strict=True)
    best = operating_point(truths, detections)
    if best.f1:
        assert operating_point(truths, detections, score=best.score) == best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_shown_at_the_score_is_what_was_promised(seed):
    truths, detections = zip(*random_pairs(seed), strict=True)
    point = operating_point(truths, detections)
    if not point.f1:
        return
    outcome = np.concatenate(
        [match(truth, found.above(point.score))[0] for truth, found in zip(truths, detections, strict=True)]
    )
    right, wrong = (outcome == 1).sum(), (outcome == 0).sum()
    assert point.precision == pytest.approx(right / (right + wrong))
    assert point.recall == pytest.approx(right / sum((~truth.crowd).sum() for truth in truths))


def found(boxes, scores, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels), CLASSES
    )


BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


def test_score_lies_halfway_to_the_next_lower():
    truth = GroundTruth.of(np.array([BOX], np.float32), np.array([0]))
    point = operating_point([truth], [found([BOX, FAR], [0.75, 0.25], [0, 0])])
    assert point == OperatingPoint(0.5, 1.0, 1.0, 1.0)
    assert operating_point([truth], [found([BOX], [0.75], [0])]).score == 0.75


def test_neighbouring_scores_are_parted():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    truth = GroundTruth.of(np.array([BOX], np.float32), np.array([0]))
    detections = found([BOX, FAR], [high, low], [0, 0])
    point = operating_point([truth], [detections])
    assert len(detections.above(point.score)) == 1


def test_of_two_equal_overlaps_the_later_object_is_taken(reference):
    truth = GroundTruth.of(np.array([(0, 0, 10, 10), (4, 0, 14, 10)], np.float32), np.array([0, 0]))
    between_and_right = found([(2, 0, 12, 10), (6, 0, 16, 10)], [0.9, 0.8], [0, 0])
    assert match(truth, between_and_right)[0].tolist() == [1, 0]
    assert outcomes_by_pycocotools(reference([(truth, between_and_right)]))[1].tolist() == [True, False]


def test_a_detection_of_another_class_is_wrong():
    truth = GroundTruth.of(np.array([BOX], np.float32), np.array([0]))
    assert match(truth, found([BOX], [0.9], [1]))[0].tolist() == [0]


@pytest.mark.parametrize(
    ("truths", "detections", "expected"),
    [
        ([], [], (0.5, None, None, None)),
        ([GroundTruth.of(np.zeros((0, 4)), np.zeros(0, int))], [found([BOX], [0.9], [0])], (0.5, None, None, None)),
        ([GroundTruth.of(np.array([BOX]), np.array([0]))], [found([], [], [])], (0.5, 0.0, 0.0, 0.0)),
        ([GroundTruth.of(np.array([BOX]), np.array([0]))], [found([FAR], [0.9], [0])], (0.5, 0.0, 0.0, 0.0)),
    ],
)
def test_nothing_to_find_or_nothing_found(truths, detections, expected):
    point = operating_point(truths, detections)
    assert (point.score, point.precision, point.recall, point.f1) == expected
    assert "only the default" in sentence(point, of_model=False)
    of_model = {"There was no object to find.", "It finds none of the objects at score .50."}
    assert sentence(point) in of_model


def test_sentence():
    words = "At score .43 it finds 91 % of the objects; 6 % of what it reports is wrong."
    assert sentence(OperatingPoint(0.431, 0.94, 0.912, 0.926)) == words
    own = "The model has no score of its own. At score .43, the best on these images, it finds 91 % of the objects; "
    assert sentence(OperatingPoint(0.431, 0.94, 0.912, 0.926), of_model=False).startswith(own)
    almost = sentence(OperatingPoint(1.0, 0.999, 0.9999, 0.99))
    assert "At score 1.00 it finds more than 99 %" in almost and "less than 1 % of what" in almost
    perfect = sentence(OperatingPoint(0.5, 1.0, 1.0, 1.0))
    assert "finds 100 %" in perfect and " 0 % of what" in perfect
