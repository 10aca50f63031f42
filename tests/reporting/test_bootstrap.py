import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, scenes
from resight.evaluation.coco import coco_metrics
from resight.reporting.bootstrap import NUMBERS, RESAMPLES, groups_of, interval, numbers, resampled, rows_of_numbers


def with_oddities(truths):
    """Every fifth object a crowd, every seventh difficult, some of another area than their box's."""
    for number, truth in enumerate(truths):
        at = np.arange(len(truth.labels)) + 3 * number
        area = np.where(at % 4 == 0, 2000, np.where(at % 4 == 1, 1024, truth.area)).astype(np.float32)
        yield dataclasses.replace(truth, crowd=at % 5 == 0, difficult=at % 7 == 0, area=area)


@pytest.mark.parametrize("ignore_difficult", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_with_every_image_once_they_are_cocos_numbers(seed, ignore_difficult):
    truths, detections = scenes(seed)
    truths = list(with_oddities(truths))
    wanted = coco_metrics(truths, detections, CLASSES, ignore_difficult=ignore_difficult).summary
    found = numbers(rows_of_numbers(truths, detections, ignore_difficult), np.ones(len(truths)))
    assert found == pytest.approx({name: wanted[name] for name in NUMBERS}, abs=1e-9)


def test_an_image_may_be_there_more_often_or_not_at_all():
    truths, detections = scenes(7)
    times = np.random.default_rng(0).integers(0, 3, len(truths))
    drawn = [number for number, count in enumerate(times) for _ in range(count)]
    wanted = coco_metrics([truths[i] for i in drawn], [detections[i] for i in drawn], CLASSES).summary
    found = numbers(rows_of_numbers(truths, detections), times.astype(float))
    assert found == pytest.approx({name: wanted[name] for name in NUMBERS}, abs=1e-9)


def test_groups_are_drawn_whole_so_that_fewer_of_them_say_less():
    truths, detections = scenes(2, images=40)
    rows = rows_of_numbers(truths, detections)
    videos = [f"video {number // 10}" for number in range(40)]
    alone, together = resampled(rows, [""] * 40), resampled(rows, videos)
    assert alone.shape == (RESAMPLES, len(NUMBERS))
    assert np.array_equal(resampled(rows, [""] * 40), alone)
    assert np.isnan(resampled(rows, ["video"] * 40)).all()  # one group says nothing of others
    assert groups_of(["", "a", "", "a"]).tolist() == [0, 1, 2, 1]
    point = numbers(rows, np.ones(40))["AP50"]
    low, high = interval(alone[:, 1])
    assert low < point < high
    assert len(np.unique(together[:, 1].round(9))) <= 35  # as many ways to draw 4 of 4


def test_an_interval_by_hand_and_none_where_there_is_nothing():
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval(np.full(10, np.nan)) is None
    truths, detections = scenes(3, images=2)
    empty = [dataclasses.replace(truth, crowd=np.ones(len(truth.labels), bool)) for truth in truths]
    assert np.isnan(list(numbers(rows_of_numbers(empty, detections), np.ones(2)).values())).all()
