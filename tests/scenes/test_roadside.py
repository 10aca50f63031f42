"""What surrounds the signs."""

import numpy as np

from resight.scenes.roadside import draw_look


def test_every_kind_of_picture_is_among_them(drives):
    looks = [draw_look(np.random.default_rng((*video.seed, 2))) for video in drives]
    assert 2 <= sum(look.grey for look in looks) <= 14
    assert {look.place for look in looks} == {"town", "suburb", "country"}
    assert any(look.dusk for look in looks) and any(look.rain for look in looks) and any(look.sun for look in looks)
