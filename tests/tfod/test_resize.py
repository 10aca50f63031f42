"""The resizing of the TFOD dialect, worked by hand; tests/models compares it with TensorFlow's."""

import pytest
import torch

from resight.tfod.config import TfodModelConfig
from resight.tfod.resize import tfod_resize


def config(**options) -> TfodModelConfig:
    return TfodModelConfig(name="faster_rcnn_resnet50_v1", **options)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 500), (800, 800)),
        ((300, 900), (444, 1333)),  # the long side decides
        ((800, 1333), (800, 1333)),
        ((1, 4000), (1, 1333)),  # never without pixels
    ],
)
def test_the_sides_keep_their_proportion(size, expected):
    assert config().fit_size(*size) == expected


def test_a_half_goes_to_the_even_number():
    assert config(min_size=2, max_size=40).fit_size(4, 5) == (2, 2)
    assert config(min_size=2, max_size=40).fit_size(4, 7) == (2, 4)


def test_a_fixed_size_is_the_size():
    fixed = config(tfod={"fixed_size": (320, 200)})
    assert fixed.fit_size(99, 1000) == fixed.fit_size(7, 7) == (320, 200)


def test_new_pixels_begin_at_the_corner_of_the_old():
    image = torch.tensor([[[0.0, 10.0], [40.0, 50.0]]])
    found = tfod_resize(image, (4, 4))
    # Steps of half a pixel from the first; beyond the last one nothing changes any more.
    across = torch.tensor([0.0, 5, 10, 10])
    torch.testing.assert_close(found[0], across + torch.tensor([0.0, 20, 40, 40])[:, None])


def test_an_image_of_the_right_size_stays_as_it_is():
    image = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
    found = tfod_resize(image, (2, 2))
    assert found.dtype == torch.float32 and torch.equal(found, image.float())


def test_shrinking_takes_single_pixels():
    image = torch.arange(8.0).view(1, 1, 8).expand(3, 4, 8)
    torch.testing.assert_close(tfod_resize(image, (1, 2)), torch.tensor([0.0, 4]).expand(3, 1, 2))
