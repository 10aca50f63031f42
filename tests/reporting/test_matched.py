import numpy as np

from fixtures.scenes import found, objects, saved
from resight.reporting.matched import Matched


def test_of_a_class_in_an_image_the_best_100_are_what_coco_counts():
    scores = np.linspace(0.1, 0.9, 120)
    rows = [(0, score, 0, 0, 9, 9) for score in scores]
    evaluation = saved([objects((0, 0, 0, 9, 9))] * 2, [found(*rows), found((1, 0.05, 0, 0, 9, 9), *rows[:3])])
    assert Matched(evaluation).standard.tolist() == [False] * 20 + [True] * 100 + [True] * 4
