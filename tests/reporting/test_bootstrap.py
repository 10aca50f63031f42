import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, scenes
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


def test_of_many_rare_classes_the_number_lies_in_its_interval():
    """Forty of sixty classes are in one image each, where they are missed: a draw lacks a third of these."""
    labels = [*range(40), *(label for label in range(40, 60) for _ in range(10))]
    truths = [objects((label, 0, 0, 50, 50)) for label in labels]
    detections = [found() if label < 40 else found((label, 0.9, 0, 0, 50, 50)) for label in labels]
    rows = rows_of_numbers(truths, detections)
    samples, point = resampled(rows, [""] * len(labels))[:, 0], numbers(rows, np.ones(len(labels)))["mAP"]
    assert point == pytest.approx(1 / 3) and np.quantile(samples, 0.025) > point
    low, high = interval(samples, point)
    assert low < point < high and high - low == pytest.approx(np.diff(np.quantile(samples, [0.025, 0.975]))[0])


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
    low, high = interval(alone[:, 1], point)
    assert low < point < high
    assert len(np.unique(together[:, 1].round(9))) <= 35  # as many ways to draw 4 of 4


def test_an_interval_by_hand_and_none_where_there_is_nothing():
    samples = np.arange(101) / 100
    assert interval(samples, 0.5) == pytest.approx((0.025, 0.975))
    assert interval(samples / 2, 0.4) == pytest.approx((0.1625, 0.6375))  # the draws are too low by .15
    assert interval(samples / 2, 0.1) == pytest.approx((0, 0.3375)) and interval(samples / 2, 0.9)[1] == 1
    assert interval(samples - 0.5, -0.1, (-1, 1)) == pytest.approx((-0.575, 0.375))
    assert interval(np.full(10, np.nan), 0.5) == interval(np.ones(10), None) == (None, None)
    truths, detections = scenes(3, images=2)
    empty = [dataclasses.replace(truth, crowd=np.ones(len(truth.labels), bool)) for truth in truths]
    assert np.isnan(list(numbers(rows_of_numbers(empty, detections), np.ones(2)).values())).all()
