"""The generated road scenes: LISA's layout, honest boxes, LISA's sizes, the same bytes every time."""

import csv
import hashlib
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resight import scenes
from resight.errors import ResightError
from resight.scenes import make_scenes
from resight.scenes.drives import View, plan_video
from resight.scenes.painting import Scenery, compose
from resight.scenes.roadside import draw_look
from resight.scenes.signs import DESIGNS, OTHERS, WANTED, paint_face

HEADER = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
    "Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number"
)
LISA = {
    "addedLane", "curveLeft", "curveRight", "dip", "doNotEnter", "doNotPass", "intersection", "keepRight",
    "laneEnds", "merge", "noLeftTurn", "noRightTurn", "pedestrianCrossing", "rampSpeedAdvisory20",
    "rampSpeedAdvisory35", "rampSpeedAdvisory40", "rampSpeedAdvisory45", "rampSpeedAdvisory50",
    "rampSpeedAdvisoryUrdbl", "rightLaneMustTurn", "roundabout", "school", "schoolSpeedLimit25", "signalAhead",
    "slow", "speedLimit15", "speedLimit25", "speedLimit30", "speedLimit35", "speedLimit40", "speedLimit45",
    "speedLimit50", "speedLimit55", "speedLimit65", "speedLimitUrdbl", "stop", "stopAhead", "thruMergeLeft",
    "thruMergeRight", "thruTrafficMergeLeft", "truckSpeedLimit55", "turnLeft", "turnRight", "yield",
    "yieldAhead", "zoneAhead25", "zoneAhead45",
}  # fmt: skip
THREE = {"stop", "pedestrianCrossing", "signalAhead"}


@pytest.fixture(scope="module")
def drives():
    """The default set, planned but not drawn."""
    return [plan_video(index, frames=12, seed=42) for index in range(40)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes") / "lisa", videos=3, frames=5, seed=5)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "allAnnotations.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def views(drives):
    for video in drives:
        for track in video.tracks:
            for index in range(len(track.frames)):
                yield View(video, track, index), track


def test_the_annotations_are_written_as_lisa_writes_them(written):
    assert (written / "allAnnotations.csv").read_text().splitlines()[0] == HEADER
    rows = rows_of(written)
    assert len(rows) >= 12
    for row in rows:
        name, video, track = row["Filename"], row["Origin file"], row["Origin track"]
        folder, file = video.split("/")
        assert name.startswith(f"{folder}/frameAnnotations-{file}_annotations/{track}_image") and name.endswith(".png")
        assert row["Annotation tag"] in LISA
        assert row["Occluded,On another road"] in ("0,0", "0,1", "1,0", "1,1")
        x1, y1, x2, y2 = (int(row[f"{end} corner {axis}"]) for end in ("Upper left", "Lower right") for axis in "XY")
        assert 0 <= x1 < x2 <= 704 and 0 <= y1 < y2 <= 480
        assert int(row["Origin frame number"]) > int(row["Origin track frame number"]) > 0


def test_the_frames_on_disk_are_those_annotated(written):
    frames = {str(path.relative_to(written)) for path in written.rglob("*.png")}
    assert frames == {row["Filename"] for row in rows_of(written)}
    for frame in frames:
        with Image.open(written / frame) as picture:
            assert picture.size == (704, 480) and picture.mode in ("RGB", "L")


def test_same_seed_same_bytes_whatever_the_number_of_processes(written, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert digests(make_scenes(tmp_path / "again", videos=3, frames=5, seed=5)) == digests(written)
    other = digests(make_scenes(tmp_path / "other", videos=1, frames=1, seed=6))
    assert not set(other.values()) & set(digests(written).values())


def test_sizes_are_lisas(drives):
    boxes = [box for view, track in views(drives) for sign in track.signs if (box := view.box(sign))]
    short = [min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
    assert np.abs(np.percentile(short, [25, 50, 75]) - (23, 30, 42)).max() <= 3


def test_signs_a_frame_and_their_classes_are_lisas(drives):
    shown = [[sign for sign in track.signs if view.box(sign)] for view, track in views(drives)]
    assert len(shown) == 480
    assert 1.1 <= np.mean([len(signs) for signs in shown]) <= 1.3
    labels = [sign.label for signs in shown for sign in signs]
    assert 0.3 <= np.mean([label not in THREE for label in labels]) <= 0.5
    assert all(labels.count(label) >= 80 for label in THREE)
    assert len(set(labels)) >= 20 and set(labels) <= LISA


def test_every_kind_of_picture_is_among_them(drives):
    looks = [draw_look(np.random.default_rng((*video.seed, 2))) for video in drives]
    assert 2 <= sum(look.grey for look in looks) <= 14
    assert {look.place for look in looks} == {"town", "suburb", "country"}
    assert any(look.dusk for look in looks) and any(look.rain for look in looks) and any(look.sun for look in looks)


def test_signs_grow_along_their_tracks_and_tracks_do_not_touch(drives):
    for video in drives:
        for track in video.tracks:
            boxes = [View(video, track, index).box(track.signs[0]) for index in range(len(track.frames))]
            heights = [box[3] - box[1] for box in boxes]
            assert all(later >= earlier - 1 for earlier, later in pairwise(heights))
            assert heights[-1] > heights[0]
            assert list(track.frames) == sorted(set(track.frames))
        spans = [(track.frames[0], track.frames[-1]) for track in video.tracks]
        assert all(after[0] - before[1] > 150 for before, after in pairwise(spans))
    assert len({track.name for video in drives for track in video.tracks}) == 120


def test_boxes_hug_the_drawn_sign(drives):
    """The pixels that change when a sign's face is left out end where its box ends."""
    checked = 0
    for video in drives[:5]:
        scenery = Scenery(video)
        for track in video.tracks:
            index = checked % len(track.frames)
            picture, found = compose(video, scenery, track, index)
            for sign, box, hidden in found:
                bare, rest = compose(video, scenery, track, index, without=sign)
                assert sign not in [other for other, _, _ in rest]
                change = np.abs(np.asarray(picture, np.int32) - np.asarray(bare, np.int32)).sum(-1) > 30
                rows, columns = np.flatnonzero(change.any(1)), np.flatnonzero(change.any(0))
                drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                if hidden:
                    assert (drawn[:2] >= np.array(box[:2]) - 1).all() and (drawn[2:] <= np.array(box[2:]) + 1).all()
                else:
                    assert np.abs(drawn - box).max() <= 1, (sign, box, drawn)
                    checked += 1
    assert checked >= 12


def test_the_occluded_flag_follows_what_is_hidden(drives):
    video = drives[3]
    scenery, flags = Scenery(video), {}
    for hidden_by in ("", "branch", "pole"):
        flags[hidden_by] = []
        for track in video.tracks:
            track = replace(track, signs=(replace(track.signs[0], hidden_by=hidden_by),))
            for index in range(len(track.frames)):
                flags[hidden_by] += [hidden for _, _, hidden in compose(video, scenery, track, index)[1]]
    assert np.mean(flags["branch"]) > np.mean(flags[""]) + 0.4
    assert np.mean(flags["pole"]) > np.mean(flags[""]) + 0.4


def test_no_two_faces_are_alike():
    faces = {label: np.asarray(paint_face(label).convert("L"), np.float32) for label in DESIGNS}
    for label, face in faces.items():
        assert face.max() > 100
        assert all(np.abs(face - other).mean() > 1 for name, other in faces.items() if name != label)


def test_designs_name_the_three_classes_and_what_confuses_with_them():
    assert {design.label for design in WANTED} == THREE
    assert {design.label for design in OTHERS} <= LISA - THREE


def test_an_output_that_holds_something_is_refused(written, tmp_path):
    before = digests(written)
    with pytest.raises(ResightError, match="already holds something"):
        make_scenes(written, videos=1, frames=1)
    assert digests(written) == before
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResightError):
            make_scenes(out, videos=1, frames=1)
    with pytest.raises(ResightError, match="no scenes"):
        make_scenes(tmp_path / "none", videos=0)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(videos, out):
        (out / "vid0").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_render_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "out", videos=1, frames=1)
    assert list(tmp_path.iterdir()) == []
