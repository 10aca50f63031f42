import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.scenes import CLASSES, found, hotcoco_of, objects, scenes
from fixtures.thresholds import for_precision, for_recall, rates
from resight.evaluation.coco import coco_metrics
from resight.reporting.curves import (
    RECALLS,
    THRESHOLDS,
    Counts,
    calibration,
    count_by_threshold,
    precision_at_recalls,
    thresholds_with,
)
from resight.reporting.outcomes import Kind, outcomes


def columns(truths, detections):
    scores, labels = (np.concatenate([getattr(one, name) for one in detections]) for name in ("scores", "labels"))
    return outcomes(truths, detections), scores, labels, np.concatenate([truth.labels for truth in truths])


@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_what_counting_again_at_each_threshold_gives(seed):
    truths, detections = scenes(seed)
    table = count_by_threshold(*columns(truths, detections), len(CLASSES))
    for step in (0, 1, 30, 50, 77, 100):
        above = [one.above(float(THRESHOLDS[step])) for one in detections]
        again, _, labels, object_labels = columns(truths, above)
        for number, counts in enumerate(table[:-1]):
            mine = (labels == number) & (again.kind != Kind.IGNORED)
            assert counts.reported[step] == mine.sum()
            assert counts.right[step] == (again.kind[mine] == Kind.RIGHT).sum()
            assert counts.objects == (object_labels == number).sum()
    assert table[-1].reported.tolist() == sum(row.reported for row in table[:-1]).tolist()
    assert table[-1].objects == sum(row.objects for row in table[:-1])


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_a_curve_is_cocos_ap50(seed):
    truths, detections = scenes(seed)
    metrics = coco_metrics(truths, detections, CLASSES)
    result, scores, labels, object_labels = columns(truths, detections)
    for number, name in enumerate(CLASSES):
        rows = np.flatnonzero(labels == number)
        right = result.kind[rows[np.argsort(-scores[rows], kind="stable")]] == Kind.RIGHT
        curve = precision_at_recalls(right, int((object_labels == number).sum()))
        assert curve.mean() == pytest.approx(metrics.per_class[name]["AP50"], abs=1e-9)
        assert (np.diff(curve) <= 0).all() and len(curve) == len(RECALLS)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_hotcocos(seed):
    truths, detections = scenes(seed)
    result, scores, *_ = columns(truths, detections)
    found, wanted = calibration(result, scores), hotcoco_of(truths, detections).calibration()
    assert found["error"] == pytest.approx(wanted["ece"], abs=1e-6)
    for mine, row in zip(found["bins"], wanted["bins"], strict=True):
        assert mine["count"] == row["count"]
        if row["count"]:
            assert (mine["score"], mine["right"]) == pytest.approx(
                (row["avg_confidence"], row["avg_accuracy"]), abs=1e-6
            )


def test_a_score_counts_at_its_own_threshold():
    """Scores are float32: .29 is a little less than the threshold .29, and is reported there all the same."""
    truths = [objects((0, 0, 0, 9, 9))]
    for step in range(101):
        detections = [found((0, step / 100, 0, 0, 9, 9))]
        right = count_by_threshold(*columns(truths, detections), len(CLASSES))[0].right
        assert right.tolist() == [1] * (step + 1) + [0] * (100 - step)
        assert len(detections[0].above(step / 100)) == 1


@pytest.mark.parametrize("score", [0.0037, 0.5, 0.80371, 0.999])
def test_one_of_the_thresholds_is_the_operating_point(score):
    truths, detections = scenes(1)
    thresholds = thresholds_with(score)
    assert np.abs(thresholds - THRESHOLDS).max() <= 0.005 and (np.diff(thresholds) > 0).all()
    at = thresholds.tolist().index(score)
    table = count_by_threshold(*columns(truths, detections), len(CLASSES), thresholds)
    again = count_by_threshold(*columns(truths, [one.above(score) for one in detections]), len(CLASSES))
    assert [(row.reported[at], row.right[at]) for row in table] == [(row.reported[0], row.right[0]) for row in again]


def test_advice_by_hand():
    # Ten objects; from .8 on 4 of 4 are right, from .5 on 7 of 8, from .2 on 9 of 20.
    steps = np.searchsorted([0.2, 0.5, 0.8], THRESHOLDS, side="left")
    counts = Counts(np.array([20, 8, 4, 0])[steps], np.array([9, 7, 4, 0])[steps], 10)
    assert counts.best_f1() == 0.5
    assert for_precision(counts, 0.95) == pytest.approx(0.51) and for_precision(counts, 0.8) == pytest.approx(0.21)
    assert for_recall(counts, 0.4) == 0.8 and for_recall(counts, 0.9) == 0.2
    assert for_recall(counts, 0.95) is None


def test_no_advice_where_nothing_is_found_or_nothing_was_there():
    nothing = np.zeros(101, np.int64)
    assert Counts(nothing, nothing, 5).best_f1() is None and for_recall(Counts(nothing, nothing, 5), 0.1) is None
    assert for_precision(Counts(nothing, nothing, 0), 0.5) is None
    assert np.isnan(rates(Counts(nothing, nothing, 0))["recall"]).all()


@given(st.integers(0, 10_000), st.floats(0.05, 1))
def test_the_advised_threshold_keeps_what_it_promises_and_no_other_is_better(seed, wanted):
    truths, detections = scenes(seed, images=6)
    counts = count_by_threshold(*columns(truths, detections), len(CLASSES))[-1]
    recall, precision = for_recall(counts, wanted), for_precision(counts, wanted)
    reaches = THRESHOLDS[rates(counts)["recall"] >= wanted]
    assert recall == (reaches.max() if len(reaches) else None)
    if precision is not None:
        onwards = rates(counts)["precision"][precision <= THRESHOLDS]
        assert (onwards[~np.isnan(onwards)] >= wanted).all() and not np.isnan(onwards[0])
        assert precision == 0 or rates(counts)["precision"][np.searchsorted(THRESHOLDS, precision) - 1] < wanted
    else:
        assert not counts.reported.any() or rates(counts)["precision"][counts.reported > 0][-1] < wanted
