import dataclasses

import numpy as np
import pytest

from fixtures.scenes import CLASSES, found, objects, saved, scenes
from resight.evaluation.coco import coco_metrics
from resight.reporting.matched import Matched
from resight.reporting.slices import slices


def tables(evaluation, score=0.0):
    told = slices(Matched(evaluation), score)
    return {table["by"]: {row["name"]: row for row in table["rows"]} for table in told}


def test_rows_by_hand():
    truths = [objects((0, 0, 0, 10, 10), (0, 20, 20, 60, 60), (0, 70, 0, 75, 40)), objects((0, 0, 0, 50, 50))]
    detections = [found((0, 0.9, 20, 20, 60, 60), (0, 0.4, 0, 0, 10, 10)), found((0, 0.8, 0, 0, 50, 50))]
    table = tables(saved(truths, detections, groups=["a", "b"]), score=0.5)
    assert {name: (row["objects"], row["found"]) for name, row in table["size"].items()} == {
        "under 16 px": (2, 0.0),
        "32 to 96 px": (2, 1.0),
    }
    assert {name: row["objects"] for name, row in table["aspect"].items()} == {"taller than 2:1": 1, "between": 3}
    assert {name: row["found"] for name, row in table["group"].items()} == {"a": pytest.approx(1 / 3), "b": 1.0}
    assert {name: row["objects"] for name, row in table["crowding"].items()} == {"1 object": 1, "2 to 5 objects": 3}
    assert "occluded" not in table and "difficult" not in table  # of a single row


def test_sizes_are_those_at_the_network():
    truths, detections = [objects((0, 0, 0, 10, 10), (0, 20, 20, 90, 90))], [found()]
    assert set(tables(saved(truths, detections, scale=2.0))["size"]) == {"16 to 32 px", "96 px and more"}


def test_sizes_are_told_also_where_all_are_of_one():
    assert set(tables(saved([objects((0, 0, 0, 10, 10))], [found()]))) == {"size"}


def test_the_objects_of_each_table_are_all_objects():
    truths, detections = scenes(4, images=40)
    truths = [dataclasses.replace(t, difficult=np.arange(len(t.labels)) % 3 == 0) for t in truths]
    evaluation = saved(truths, detections, groups=[f"g{number % 4}" for number in range(40)])
    count = sum(len(truth.labels) for truth in truths)
    for rows in tables(evaluation).values():
        assert sum(row["objects"] for row in rows.values()) == count


def test_a_groups_ap_is_that_of_its_images_alone():
    truths, detections = scenes(5, images=40)
    table = tables(saved(truths, detections, groups=[f"g{number % 2}" for number in range(40)]))
    for number in (0, 1):
        alone = coco_metrics(truths[number::2], detections[number::2], CLASSES).summary
        assert table["group"][f"g{number}"]["AP"] == pytest.approx(alone["mAP"])
        assert table["group"][f"g{number}"]["AP50"] == pytest.approx(alone["AP50"])


def test_no_object_no_table():
    assert tables(saved([objects()], [found((0, 0.5, 1, 1, 9, 9))])) == {}
    assert tables(saved([], [])) == {}
