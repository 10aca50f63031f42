import pytest

from fixtures.scenes import found, hotcoco_of, objects, scenes
from resight.reporting.outcomes import Kind, outcomes

A, B = (10, 10, 30, 30), (60, 60, 80, 80)
SHIFTED = (18, 10, 38, 30)  # IoU 12 / 28 with A
# One image of each kind: its objects, its detections, and what is to be said of these: kind, object, by whom found.
TEN = {
    "right": (objects((0, *A)), found((0, 0.9, *A)), [Kind.RIGHT], [0], [0]),
    "missed": (objects((0, *A)), found(), [], [], [-1]),
    "false alarm": (objects((0, *A)), found((0, 0.9, *B)), [Kind.FALSE_ALARM], [-1], [-1]),
    "no object": (objects(), found((1, 0.9, *B)), [Kind.FALSE_ALARM], [-1], []),
    "wrong class": (objects((0, *A)), found((1, 0.9, *A)), [Kind.WRONG_CLASS], [0], [-1]),
    "misplaced": (objects((0, *A)), found((0, 0.9, *SHIFTED)), [Kind.MISPLACED], [0], [-1]),
    "both": (objects((0, *B), (0, *A)), found((1, 0.9, *SHIFTED)), [Kind.BOTH], [1], [-1, -1]),
    "double": (objects((0, *A)), found((0, 0.9, *A), (0, 0.8, *A)), [Kind.RIGHT, Kind.DOUBLE], [0, 0], [0]),
    "crowd": (
        objects((0, *A), (0, *B), crowd=[1]),
        found((0, 0.9, *A), (0, 0.8, 60, 60, 70, 70), (0, 0.7, 70, 70, 80, 80)),
        [Kind.RIGHT, Kind.IGNORED, Kind.IGNORED],
        [0, 1, 1],
        [0, -1],
    ),
    "difficult": (
        objects((0, *A), (1, *B), difficult=[1]),
        found((1, 0.9, *B), (0, 0.8, *A)),
        [Kind.IGNORED, Kind.RIGHT],
        [1, 0],
        [1, -1],
    ),
}


@pytest.mark.parametrize("name", TEN)
def test_each_kind_of_error_by_hand(name):
    truth, detections, kinds, blamed, found_by = TEN[name]
    result = outcomes([truth], [detections], ignore_difficult=True)
    assert [Kind(kind) for kind in result.kind] == kinds
    assert result.object.tolist() == blamed
    assert result.found_by.tolist() == found_by


def test_images_are_counted_through():
    result = outcomes([case[0] for case in TEN.values()], [case[1] for case in TEN.values()], ignore_difficult=True)
    kinds, blamed, found_by, objects_before, detections_before = [], [], [], 0, 0
    for truth, detections, own_kinds, own_blamed, own_found in TEN.values():
        kinds += own_kinds
        blamed += [objects_before + number if number >= 0 else -1 for number in own_blamed]
        found_by += [detections_before + number if number >= 0 else -1 for number in own_found]
        objects_before, detections_before = objects_before + len(truth.labels), detections_before + len(detections)
    assert (result.kind.tolist(), result.object.tolist(), result.found_by.tolist()) == (kinds, blamed, found_by)
    assert result.iou[kinds.index(Kind.MISPLACED)] == pytest.approx(12 / 28)
    assert result.counts.sum() == objects_before - 2  # the crowd and the difficult one


def test_a_difficult_object_counts_unless_it_is_ignored():
    truth, detections, *_ = TEN["difficult"]
    result = outcomes([truth], [detections])
    assert result.kind.tolist() == [Kind.RIGHT, Kind.RIGHT] and result.counts.all()


def test_no_image_at_all():
    result = outcomes([], [])
    assert len(result.kind) == len(result.found_by) == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_counts_are_those_of_hotcocos_tide(seed):
    truths, detections = scenes(seed)
    result = outcomes(truths, detections)
    names = {
        "Cls": Kind.WRONG_CLASS,
        "Loc": Kind.MISPLACED,
        "Both": Kind.BOTH,
        "Dupe": Kind.DOUBLE,
        "Bkg": Kind.FALSE_ALARM,
    }
    counts = hotcoco_of(truths, detections).tide_errors()["counts"]
    assert {name: int((result.kind == kind).sum()) for name, kind in names.items()} == {
        name: counts[name] for name in names
    }
    assert len(set(result.kind.tolist())) >= 5
