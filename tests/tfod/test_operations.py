"""TFOD's augmentations, beside TensorFlow's own (`oracles/image_operations.py`) and by their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resight.config.defaults import OPERATION_DEFAULTS
from resight.config.tree import Operation
from resight.input.augment import Sample, mirror
from resight.tfod.operations import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    apply_operations,
    crop,
    crop_border,
    draw_square,
    draw_window,
    flip_vertical,
    square_crop,
    square_scales,
)

CROP = OPERATION_DEFAULTS["random_crop_image"]
SQUARE = OPERATION_DEFAULTS["random_square_crop_by_scale"]
COLORS = {
    "hue": adjust_hue,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "brightness": adjust_brightness,
}


@pytest.fixture(scope="module")
def tensorflow(kept_answers):
    """What TensorFlow was given, and its answer."""
    return kept_answers("tfod/oracles/image_operations")


def picture(height=24, width=32):
    """Random colours, and of the special ones grey, black, white and pure."""
    image = torch.randint(0, 256, (3, height, width), generator=generator(5)).float()
    image[:, 0, :5] = torch.tensor([[0, 255, 128, 255, 0], [0, 255, 128, 0, 0], [0, 255, 128, 0, 255]])
    return image


def generator(seed):
    return torch.Generator().manual_seed(seed)


@st.composite
def samples(draw):
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append([x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))])
    image = torch.arange(1.0, 1 + 3 * height * width).reshape(3, height, width)
    crowd = torch.tensor([draw(st.booleans()) for _ in boxes], dtype=torch.bool)
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)), crowd)


# Beside TensorFlow


@pytest.mark.parametrize("name", COLORS)
def test_colours_are_those_of_tensorflow(tensorflow, name):
    given, answer = tensorflow
    image = torch.from_numpy(given["picture"]).permute(2, 0, 1)
    for factor, expected in zip(given[f"factors/{name}"].tolist(), answer[f"colours/{name}"], strict=True):
        expected = torch.from_numpy(expected).clamp(0, 255).permute(2, 0, 1)
        torch.testing.assert_close(COLORS[name](image, factor), expected, rtol=0, atol=2e-3)


def test_windows_are_distributed_as_those_of_tensorflow(tensorflow):
    """Of a box side, place, area: the largest distance of the two distributions (Kolmogorov and Smirnov's)."""
    given, answer = tensorflow
    height, width = given["size"].tolist()
    boxes = torch.from_numpy(given["objects"])[:, [1, 0, 3, 2]] * torch.tensor([width, height, width, height])
    ours = np.array([draw_window(boxes, height, width, CROP, generator(seed)) for seed in range(given["draws"])])
    theirs = answer["windows"][:, [1, 0, 3, 2]].astype(int)

    def measures(windows):
        sides = windows[:, 2:] - windows[:, :2]
        return [*windows.T, *sides.T, sides[:, 0] / sides[:, 1], sides.prod(1)]

    for a, b in zip(measures(ours), measures(theirs), strict=True):
        places = np.concatenate([a, b])
        distance = np.abs((a[:, None] <= places).mean(0) - (b[:, None] <= places).mean(0)).max()
        assert distance < 0.06  # two such samples of one distribution differ by more once in 100


def test_squares_have_the_sides_of_tensorflow(tensorflow):
    given, answer = tensorflow
    assert given["scales"].tolist() == [SQUARE["scale_min"], SQUARE["scale_max"], SQUARE["num_scales"]]
    sides = square_scales(SQUARE)[:, None] * torch.arange(*given["sides"].tolist())
    np.testing.assert_array_equal(sides.numpy().astype(int), answer["squares"])


# Draws and pure functions


@given(st.integers(0, 9), st.integers(1, 400), st.integers(2, 3000))
def test_the_border_is_halved_until_it_fits_in_half_of_the_image(seed, most, size):
    border = crop_border(most, size)
    assert 1 <= border <= max(size / 2, 1) and border <= most
    assert border == most or crop_border(most, size - 1) <= border <= most // 2
    side, (x, y) = draw_square(size, 77, {**SQUARE, "max_border": most}, generator(seed))
    assert border <= y <= size - border and crop_border(most, 77) <= x <= 77 - crop_border(most, 77)
    assert 0.6 * max(size, 77) - 1 <= side <= 1.3 * max(size, 77)


def test_the_scales_of_a_square_are_all_drawn_and_no_other():
    sides = {draw_square(105, 50, SQUARE, generator(seed))[0] for seed in range(200)}
    assert len(sides) == 8 and {round(side / 10.5) for side in sides} == set(range(6, 14))
    assert {draw_square(105, 50, {**SQUARE, "num_scales": 1}, generator(seed))[0] for seed in range(20)} == {63}


@given(samples())
def test_two_flips_are_none_and_one_moves_the_pixels_of_a_box_with_it(sample):
    for flip in (mirror, flip_vertical):
        once, twice = flip(sample), flip(flip(sample))
        assert torch.equal(twice.image, sample.image) and torch.equal(twice.boxes, sample.boxes)
        assert torch.equal(once.labels, sample.labels) and torch.equal(once.crowd, sample.crowd)
        for before, after in zip(sample.boxes, once.boxes, strict=True):
            assert same_pixels(pixels(sample.image, before), pixels(once.image, after))


def pixels(image, box):
    x1, y1, x2, y2 = box.to(int).tolist()
    return image[:, y1:y2, x1:x2]


def same_pixels(a, b):
    return torch.equal(a.flatten().sort().values, b.flatten().sort().values)


@given(samples(), st.integers(0, 2**40))
def test_a_crop_keeps_the_boxes_that_overlap_enough_with_their_pixels(sample, seed):
    height, width = sample.image.shape[1:]
    x1, y1, x2, y2 = window = draw_window(sample.boxes, height, width, {**CROP, "min_area": 0.05}, generator(seed))
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    part = crop(sample, window, 0.3)
    assert torch.equal(part.image, sample.image[:, y1:y2, x1:x2])
    # A box is what is 1 in a plane of its own; how much of it is seen tells whether it stays.
    expected = []
    for label, box in enumerate(sample.boxes):
        plane = torch.zeros(1, height, width)
        pixels(plane, box)[:] = 1
        if plane[:, y1:y2, x1:x2].sum() >= 0.3 * plane.sum():
            expected.append(label)
    assert part.labels.tolist() == expected and torch.equal(part.crowd, sample.crowd[part.labels])
    for label, box in zip(part.labels, part.boxes, strict=True):
        assert set(pixels(part.image, box)[0].flatten().tolist()) == set(
            pixels(sample.image, sample.boxes[label])[0].flatten().tolist()
        ) & set(part.image[0].flatten().tolist())
    loose = crop(sample, window, 0.3, clip=False)
    assert torch.equal(loose.boxes, sample.boxes[loose.labels] - torch.tensor([x1, y1, x1, y1]))


@given(samples(), st.integers(0, 2**40))
def test_a_window_holds_a_whole_box_of_the_allowed_shape_or_is_the_image(sample, seed):
    height, width = sample.image.shape[1:]
    x1, y1, x2, y2 = draw_window(sample.boxes, height, width, CROP, generator(seed))
    if (x1, y1, x2, y2) == (0, 0, width, height):
        return
    assert 0.1 <= (x2 - x1) * (y2 - y1) / (width * height) <= 1
    assert 0.75 * (y2 - y1) - 0.5 <= x2 - x1 <= 1.33 * (y2 - y1) + 0.5
    inside = (sample.boxes[:, :2] >= torch.tensor([x1, y1])) & (sample.boxes[:, 2:] <= torch.tensor([x2, y2]))
    assert inside.all(1).any() or not len(sample.boxes)


def test_where_no_window_is_possible_the_image_stays():
    options = {**CROP, "min_area": 1.0}
    assert draw_window(torch.zeros(0, 4), 10, 100, options, generator(0)) == (0, 0, 100, 10)


@given(samples(), st.integers(0, 2**40))
def test_a_square_shows_the_image_about_its_centre_and_black_beside_it(sample, seed):
    height, width = sample.image.shape[1:]
    side, centre = draw_square(height, width, SQUARE, generator(seed))
    square = square_crop(sample, side, centre)
    assert square.image.shape == (3, side, side)
    x, y = (at - side // 2 for at in centre)
    for row in range(side):
        for column in range(0, side, 5):
            # The last row and column of the image are lost, and the last of an odd square's own.
            seen = 0 <= y + row < height - 1 and 0 <= x + column < width - 1 and max(row, column) < side // 2 * 2
            expected = sample.image[0, y + row, x + column] if seen else 0
            assert square.image[0, row, column] == expected
    moved = sample.boxes - torch.tensor([x, y, x, y])
    keep = ((moved[:, 2:] > 0) & (moved[:, :2] < side)).all(1)
    assert torch.equal(square.labels, sample.labels[keep]) and torch.equal(square.crowd, sample.crowd[keep])
    assert torch.equal(square.boxes, moved[keep].clamp(0, side))


# All together


@given(
    samples(), st.lists(st.sampled_from(sorted(OPERATION_DEFAULTS)), max_size=6), st.integers(0, 2**40), st.booleans()
)
def test_whatever_the_order_boxes_stay_inside_with_their_labels(sample, names, seed, often):
    sample = Sample(sample.image % 256, sample.boxes, sample.labels, sample.crowd)
    operations = [
        Operation(name=name, options={"probability": 1} if often and "flip" in name else {}) for name in names
    ]
    after = apply_operations(operations, sample, generator(seed))
    height, width = after.image.shape[1:]
    assert after.image.dtype == torch.float32 and after.image.min() >= 0 and after.image.max() <= 255
    assert len(after.boxes) == len(after.labels) == len(after.crowd)
    assert (after.boxes >= 0).all() and (after.boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert (after.boxes[:, 2:] > after.boxes[:, :2]).all()
    assert torch.equal(after.crowd, sample.crowd[after.labels])
    again = apply_operations(operations, sample, generator(seed))
    assert torch.equal(again.image, after.image) and torch.equal(again.boxes, after.boxes)


def test_operations_are_applied_in_their_order():
    sample = Sample(picture(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    darken = Operation(name="random_adjust_brightness", options={"max_delta": 0.9})
    stretch = Operation(name="random_adjust_contrast", options={"min_delta": 3, "max_delta": 3})
    one, other = (
        apply_operations(order, sample, generator(1)).image for order in ([darken, stretch], [stretch, darken])
    )
    draw = 0.9 * (2 * float(torch.rand((), generator=generator(1), dtype=torch.float64)) - 1)
    torch.testing.assert_close(one, adjust_contrast(adjust_brightness(sample.image, draw), 3))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("name", "option", "share"),
    [
        ("random_horizontal_flip", "probability", 0.3),
        ("random_vertical_flip", "probability", 0.3),
        ("random_crop_image", "random_coef", 0.7),
    ],
)
def test_chances_are_those_of_the_options(name, option, share):
    sample = Sample(picture(), torch.tensor([[3.0, 4, 9, 9]]), torch.tensor([0]), torch.tensor([False]))
    operation = Operation(name=name, options={option: share})
    changed = [apply_operations([operation], sample, generator(seed)).image is not sample.image for seed in range(500)]
    assert 0.25 < np.mean(changed) < 0.35
