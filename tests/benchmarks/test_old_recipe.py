"""The benchmark of the old recipe: its data and its faults are what it says."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import resight
from resight.fpn import specs
from resight.fpn.dialect import default_anchors
from resight.scenes.drives import View
from resight.types import Annotation, Box

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
recipe = importlib.import_module("old_recipe")
average_precision = importlib.import_module("average_precision")

LISA = (
    recipe.HEADER + "\na.png;stop;10;10;30;60;0,0;a.avi;5;s1;1\nb.png;stop;10;10;90;80;0,0;a.avi;9;s1;5\n"
    "b.png;speedLimit25;1;1;99;99;0,0;a.avi;9;s2;5\nc.png;signalAhead;0;0;40;44;0,0;a.avi;80;s3;2\n"
)


@pytest.fixture
def sizes(tmp_path):
    (tmp_path / "all.csv").write_text(LISA)
    return recipe.lisa_tracks(tmp_path / "all.csv")


def test_sizes_are_those_of_lisas_tracks(sizes):
    assert sizes == {"stop": [[20, 70]], "pedestrianCrossing": [], "signalAhead": [[40]]}
    sides = {}
    for number in range(8):
        video = recipe.plan_drive(number, 12, sizes)
        for track in video.tracks:
            assert {sign.label for sign in track.signs} <= {track.signs[0].label}
            boxes = [View(video, track, index).box(track.signs[0]) for index in range(len(track.places))]
            sides.setdefault(track.signs[0].label, []).append([min(b[2] - b[0], b[3] - b[1]) for b in boxes if b])
    assert set(sides) == set(recipe.DRAWN_CLASSES)
    for label, (smallest, largest) in {"stop": (20, 70), "signalAhead": (40, 40)}.items():
        seen = [side for track in sides[label] for side in track]
        assert min(seen) == pytest.approx(smallest, rel=0.25)
        assert max(seen) == pytest.approx(largest, rel=0.25)  # turned a little, and rounded


def test_copies_have_a_box_more_each_time():
    boxes = tuple(Box("stop", 0, 0, 9 + i, 9) for i in range(3))
    items = [Annotation("a.png", boxes, split="train"), Annotation("b.png", boxes, split="test")]
    copies = list(recipe.copied(items))
    assert [(item.split, len(item.boxes)) for item in copies] == [("train", 1), ("train", 2), ("train", 3), ("test", 3)]
    assert len({item.source_id for item in copies}) == len({item.filename for item in copies}) == 4
    assert copies[0].boxes == boxes[:1]
    assert copies[-1] == items[-1]


def test_the_old_evaluation_knew_one_object_of_an_image():
    image = np.array([0, 0, 2, 2, 2])
    none = np.zeros(0, int)
    rows = average_precision.Rows(
        *(np.array(["stop"]), np.array(["a", "b", "c"]), np.array(["a", "b", "c"]), np.full((3, 2), 100)),
        *(image, np.zeros(5, int), np.arange(20, dtype=np.float32).reshape(5, 4)),
        *(none, none, np.zeros(0, np.float32), np.zeros((0, 4), np.float32)),
    )
    counted = recipe.as_counted(rows)
    assert counted.truth_image.tolist() == [0, 2]
    assert counted.truth_box[:, 0].tolist() == [0, 8]
    assert counted.names is rows.names


def test_old_anchors_hold_for_one_training():
    config = resight.load_config()
    before = specs.SPECS.copy()
    with recipe.old_anchors(config):
        assert default_anchors(config.model).sizes == ((41,), (82,), (164,), (328,))  # 64 px x 384 / 600
    assert before == specs.SPECS
