"""Boxes end where the drawn signs end, and the occluded flag says what is hidden."""

from dataclasses import replace

import numpy as np

from resight.scenes.painting import Scenery, compose


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
