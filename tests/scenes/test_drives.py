"""Drives that are planned and not drawn have LISA's sizes, classes and tracks."""

from itertools import pairwise

import numpy as np

from resight.scenes.drives import View

THREE = {"stop", "pedestrianCrossing", "signalAhead"}


def views(drives):
    for video in drives:
        for track in video.tracks:
            for index in range(len(track.frames)):
                yield View(video, track, index), track


def test_sizes_are_lisas(drives):
    boxes = [box for view, track in views(drives) for sign in track.signs if (box := view.box(sign))]
    short = [min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
    assert np.abs(np.percentile(short, [25, 50, 75]) - (23, 30, 42)).max() <= 3


def test_signs_a_frame_and_their_classes_are_lisas(drives, lisa):
    shown = [[sign for sign in track.signs if view.box(sign)] for view, track in views(drives)]
    assert len(shown) == 480
    assert 1.1 <= np.mean([len(signs) for signs in shown]) <= 1.3
    labels = [sign.label for signs in shown for sign in signs]
    assert 0.3 <= np.mean([label not in THREE for label in labels]) <= 0.5
    assert all(labels.count(label) >= 80 for label in THREE)
    assert len(set(labels)) >= 20 and set(labels) <= lisa


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
