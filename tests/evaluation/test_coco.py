"""The COCO numbers against pycocotools."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resight.evaluation.coco import MEASURES, GroundTruth, coco_metrics
from resight.types import Detections

CLASSES = ("stop", "yield", "merge")


def scene(objects, found):
    """One image: rows ``(x1, y1, x2, y2, label, crowd, difficult, area)``, ``(x1, y1, x2, y2, label, score)``."""
    objects = np.array(objects, np.float64).reshape(-1, 8)
    found = np.array(found, np.float64).reshape(-1, 6)
    truth = GroundTruth(
        objects[:, :4].astype(np.float32),
        objects[:, 4].astype(np.int64),
        objects[:, 5].astype(bool),
        objects[:, 6].astype(bool),
        objects[:, 7],
    )
    boxes, labels = found[:, :4].astype(np.float32), found[:, 4].astype(np.int64)
    return truth, Detections(boxes, found[:, 5].astype(np.float32), labels, CLASSES, 640, 480)


@st.composite
def images(draw, max_images=5):
    """Images whose boxes lie on a coarse grid, so that equal overlaps, equal scores and empty boxes are common."""
    corner, side = st.integers(0, 5).map(lambda n: 12 * n), st.sampled_from([0, 6, 12, 24, 32, 36, 60, 96, 120])
    label = st.sampled_from([0, 0, 1])  # the third class has no object
    area = st.sampled_from([np.nan, np.nan, 10.0, 1024.0, 5000.0, 9216.0, 40000.0])
    rare = st.sampled_from([False, False, False, True])
    score = st.sampled_from([0.1, 0.2, 0.5, 0.50000006, 0.7, 0.9, 1.0])

    def box():
        x, y = draw(corner), draw(corner)
        return (x, y, x + draw(side), y + draw(side))

    result = []
    for _ in range(draw(st.integers(0, max_images))):
        objects = [
            (*box(), draw(label), draw(rare), draw(rare), draw(area))
            for _ in range(draw(st.sampled_from([0, 1, 2, 6])))
        ]
        found = [(*box(), draw(st.integers(0, 2)), draw(score)) for _ in range(draw(st.sampled_from([0, 1, 4, 12])))]
        # Boxes near the objects, so that many are found at some of the ten overlaps.
        for row in objects:
            if draw(st.booleans()):
                shift = draw(st.sampled_from([0, 0, 1, 3, 6]))
                found.append((row[0] + shift, row[1], row[2] + shift, row[3], row[4], draw(score)))
        result.append(scene(objects, found))
    return result


def agree(ours, theirs):
    expected = None if theirs == -1 or np.isnan(theirs) else theirs
    assert ours == (expected if expected is None else pytest.approx(expected, abs=1e-9, rel=0))


def mean(counted):
    return counted[counted > -1].mean() if (counted > -1).any() else -1


@settings(max_examples=150, deadline=None)
@given(images(), st.booleans())
@example([scene([], [])], False)
@example([scene([], [(0, 0, 9, 9, 0, 0.5)])], False)
@example([scene([(0, 0, 9, 9, 0, 1, 0, np.nan)], [(1, 1, 4, 4, 0, 0.5)])], False)
@example([scene([(0, 0, 9, 9, 0, 0, 1, np.nan)], [(0, 0, 9, 9, 0, 0.5), (0, 0, 9, 9, 0, 0.4)])], True)
def test_equals_pycocotools(reference, pairs, ignore_difficult):
    truths, detections = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ours = coco_metrics(truths, detections, CLASSES, ignore_difficult=ignore_difficult)
    if not pairs:
        assert set(ours.summary.values()) == {None}
        return
    theirs = reference(pairs, ignore_difficult)
    for measure, value in zip(MEASURES, theirs.stats, strict=True):
        agree(ours.summary[measure.key], value)
    for index, name in enumerate(CLASSES):
        agree(ours.per_class[name]["AP"], mean(theirs.eval["precision"][:, :, index, 0, 2]))
        agree(ours.per_class[name]["AP50"], mean(theirs.eval["precision"][0, :, index, 0, 2]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(*[st.integers(0, 500)] * 2, *[st.integers(1, 300)] * 2, st.integers(0, 2)))))
def test_ground_truth_fed_back_scores_exactly_one(rows):
    pairs = []
    for image in rows:
        objects = [(x, y, x + w, y + h, label, 0, 0, np.nan) for x, y, w, h, label in image]
        pairs.append(scene(objects, [(*row[:5], 1.0) for row in objects]))
    metrics = coco_metrics([pair[0] for pair in pairs], [pair[1] for pair in pairs], CLASSES)
    expected = {1.0} if any(rows) else set()
    # AR_1 and AR_10 allow an image fewer detections than it may have objects.
    measured = {value for key, value in metrics.summary.items() if key not in ("AR_1", "AR_10")}
    assert measured - {None} == expected
    assert {row["AP"] for row in metrics.per_class.values()} - {None} == expected
    assert metrics.num_boxes == sum(map(len, rows))


def test_one_object_an_image_scores_one_throughout():
    sides = (10, 50, 200)
    pairs = [scene([(0, 0, side, side, 0, 0, 0, np.nan)], [(0, 0, side, side, 0, 0.3)]) for side in sides]
    metrics = coco_metrics([pair[0] for pair in pairs], [pair[1] for pair in pairs], CLASSES)
    assert metrics.summary == {measure.key: 1.0 for measure in MEASURES}


def test_a_size_without_objects_is_none():
    truth, found = scene([(0, 0, 20, 20, 1, 0, 0, np.nan)], [])
    metrics = coco_metrics([truth], [found], CLASSES)
    assert metrics.summary["AP_small"] == 0
    assert metrics.summary["AP_medium"] is None and metrics.summary["AR_large"] is None
    assert metrics.per_class["yield"] == {"AP": 0.0, "AP50": 0.0, "boxes": 1}
    assert metrics.per_class["stop"] == {"AP": None, "AP50": None, "boxes": 0}


def test_stored_area_decides_the_size():
    truth, found = scene([(0, 0, 20, 20, 0, 0, 0, 20000.0)], [(0, 0, 20, 20, 0, 0.5)])
    summary = coco_metrics([truth], [found], CLASSES).summary
    assert (summary["AP_small"], summary["AP_large"]) == (None, 1.0)


def test_nothing_at_all():
    for pairs in ([], [scene([], [])], [scene([], [(0, 0, 9, 9, 2, 0.9)])]):
        for classes in (CLASSES, CLASSES[:0]):
            if pairs and len(pairs[0][1]) and not classes:
                continue
            metrics = coco_metrics([pair[0] for pair in pairs], [pair[1] for pair in pairs], classes)
            assert set(metrics.summary.values()) == {None}
            assert (metrics.num_images, metrics.num_boxes) == (len(pairs), 0)


def test_difficult_objects_are_ordinary_unless_ignored():
    rows = [(0, 0, 50, 50, 0, 0, 0, np.nan), (100, 0, 150, 50, 0, 0, 1, np.nan)]
    missed_it = scene(rows, [(0, 0, 50, 50, 0, 0.9)])
    found_it = scene(rows, [(0, 0, 50, 50, 0, 0.8), (100, 0, 150, 50, 0, 0.9)])
    for pair in (missed_it, found_it):
        ignoring = coco_metrics([pair[0]], [pair[1]], CLASSES, ignore_difficult=True)
        assert ignoring.summary["mAP"] == 1.0
        assert (ignoring.num_boxes, ignoring.num_ignored, ignoring.per_class["stop"]["boxes"]) == (1, 1, 1)
    ordinary = coco_metrics([missed_it[0]], [missed_it[1]], CLASSES)
    assert ordinary.summary["AR_100"] == 0.5
    assert (ordinary.num_boxes, ordinary.num_ignored) == (2, 0)


def test_images_and_detections_must_pair():
    truth, found = scene([], [])
    with pytest.raises(ValueError, match="2 images"):
        coco_metrics([truth, truth], [found], CLASSES)


def test_prints_nothing(capfd):
    truth, found = scene([(0, 0, 9, 9, 0, 0, 0, np.nan)], [(0, 0, 9, 9, 0, 0.5)])
    coco_metrics([truth], [found], CLASSES)
    assert capfd.readouterr() == ("", "")


def crowded_scene(generator, objects=160, found=230):
    """More objects and detections of one class than COCO's numbers count, and some of another class."""
    corner = generator.uniform(0, 400, (objects, 2))
    boxes = np.hstack([corner, corner + generator.uniform(8, 60, (objects, 2))])
    rows = [(*box, index % 5 == 0, 0, index % 11 == 0, np.nan) for index, box in enumerate(boxes)]
    seen = generator.integers(0, objects, found)
    guesses = boxes[seen] + generator.normal(0, 2, (found, 4))
    scores = generator.choice(np.linspace(0.1, 1, 60), found)  # many are equal
    return scene(rows, [(*box, seen[index] % 5 == 0, scores[index]) for index, box in enumerate(guesses)])


@pytest.mark.parametrize("most", [101, 150, 300])
@pytest.mark.parametrize("ignore_difficult", [False, True])
def test_numbers_at_more_detections_equal_pycocotools_and_cocos_own_stay(reference, most, ignore_difficult):
    generator = np.random.default_rng(most)
    pairs = [crowded_scene(generator), crowded_scene(generator, 20, 30)]
    truths, detections = zip(*pairs, strict=True)
    usual = coco_metrics(truths, detections, CLASSES, ignore_difficult=ignore_difficult)
    ours = coco_metrics(truths, detections, CLASSES, ignore_difficult=ignore_difficult, max_detections=most)
    assert {key: ours.summary[key] for key in usual.summary} == usual.summary
    assert list(ours.summary) == [*usual.summary, f"mAP_{most}", f"AR_{most}"]
    theirs = reference(pairs, ignore_difficult, most)
    agree(ours.summary[f"mAP_{most}"], mean(theirs.eval["precision"][..., 0, 2]))
    agree(ours.summary[f"AR_{most}"], mean(theirs.eval["recall"][..., 0, 2]))
    assert ours.summary[f"AR_{most}"] > ours.summary["AR_100"]
    for index, name in enumerate(CLASSES):
        agree(ours.per_class[name][f"AP_{most}"], mean(theirs.eval["precision"][:, :, index, 0, 2]))
        assert ours.per_class[name]["AP"] == usual.per_class[name]["AP"]


def test_numbers_at_100_or_fewer_are_cocos_alone():
    truth, found = scene([(0, 0, 20, 20, 0, 0, 0, np.nan)], [(0, 0, 20, 20, 0, 0.5)])
    for most in (20, 100):
        assert coco_metrics([truth], [found], CLASSES, max_detections=most).summary.keys() == {m.key for m in MEASURES}
