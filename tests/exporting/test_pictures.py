"""The pictures that an export is compared on."""

import numpy as np
import pytest

from resight.errors import ResightError
from resight.exporting.pictures import RATIOS, pictures_of


class Finder:
    """Finds something unless the picture is grey."""

    def detect_whole(self, image):
        return [] if (image == 128).all() else [1]


def test_they_are_the_users_own_in_three_shapes_and_two_plain_ones(shapes):
    records = shapes(train=8, val=3)
    found = pictures_of("model", records, Finder())
    assert str(records) in found.source and "'val'" in found.source
    ratios = {round(image.shape[1] / image.shape[0], 1) for image in found.images}
    assert len(ratios) >= RATIOS
    assert not found.images[-2].any() and (found.images[-1] == 128).all()
    assert all(image.dtype == np.uint8 and image.any() for image in found.images[:-2])


def test_without_records_they_are_generated_and_it_says_so():
    found = pictures_of("model", None, Finder())
    assert "--data" in found.source and len(found.images) >= 6
    with pytest.raises(ResightError):
        pictures_of("model", "nowhere", Finder())
