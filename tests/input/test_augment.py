import dataclasses
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from resight.config.tree import AugmentConfig
from resight.input.augment import FlipRule, Sample, augment, crop, flip, jitter_color, resize, suggest_flip_pairs

PLAIN = AugmentConfig(flip=0, color=0)


def painted(height, width, boxes, crowd=None):
    """An image in which box i is what is white in channel i, so that boxes may overlap."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[channel, round(y1) : round(y2), round(x1) : round(x2)] = 255
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    crowded = torch.tensor(crowd if crowd else [False] * len(boxes), dtype=torch.bool)
    return Sample(image, tensor, torch.arange(len(boxes)), crowded)


def seen(image, channel):
    """The box ``[x1, y1, x2, y2]`` of what is bright in a channel, and its area; None where nothing is.

    Along each axis it is as long as its brightness makes it, about its centre of gravity: finer than a pixel, so that
    the filter of a resize, which blurs what is thin over two pixels and more, does not count as a shift.
    """
    brightest = int(image[channel].max())
    if brightest < 16:
        return None, 0
    box = []
    for across in (0, 1):
        weights = image[channel].amax(across).double() / brightest
        centre = (weights * (torch.arange(len(weights)) + 0.5)).sum() / weights.sum()
        box.append((float(centre - weights.sum() / 2), float(centre + weights.sum() / 2)))
    (x1, x2), (y1, y2) = box
    return [x1, y1, x2, y2], int((image[channel] > brightest / 2).sum())


@st.composite
def scenes(draw, most=3):
    height, width = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    boxes = []
    for _ in range(draw(st.integers(0, most))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
    return height, width, boxes


def generator(seed):
    return torch.Generator().manual_seed(seed)


# Flips


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (["turnLeft", "stop", "turnRight"], {"turnLeft": "turnRight"}),
        (["LEFT_TURN", "RIGHT_TURN"], {"LEFT_TURN": "RIGHT_TURN"}),
        (["Left", "Right", "left", "right"], {"Left": "Right", "left": "right"}),
        (
            ["keep left of right lane", "keep right of left lane"],
            {"keep left of right lane": "keep right of left lane"},
        ),
        (["turnLeft", "turnright"], {}),
        (["turnLeft", "stop"], {}),
        ([], {}),
    ],
)
def test_pairs_are_suggested_from_names(classes, pairs):
    found = suggest_flip_pairs(classes)
    # A pair of two names that both say left stands once in each direction.
    assert {frozenset(pair) for pair in found.items()} == {frozenset(pair) for pair in pairs.items()}


def test_a_flip_mirrors_the_picture_and_exchanges_left_and_right():
    classes = ["turnLeft", "stop", "turnRight"]
    rule = FlipRule.of(classes, suggest_flip_pairs(classes))
    sample = painted(20, 30, [(1, 2, 5, 9), (10, 0, 30, 20), (7, 3, 8, 4)], crowd=[False, True, False])
    flipped = flip(sample, rule)
    assert flipped.labels.tolist() == [2, 1, 0]
    assert flipped.crowd.tolist() == [False, True, False]
    for channel, box in enumerate(flipped.boxes.tolist()):
        assert seen(flipped.image, channel)[0] == box


@given(scenes())
def test_two_flips_are_none(scene):
    rule = FlipRule.of(["left", "right", "up"], {"left": "right"})
    sample = painted(*scene)
    back = flip(flip(sample, rule), rule)
    assert all(torch.equal(getattr(back, field), getattr(sample, field)) for field in vars(sample))


@pytest.mark.parametrize(
    ("classes", "pairs", "partner"),
    [
        (["turnLeft", "stop"], {}, (-1, 1)),
        (["turnLeft", "stop"], {"turnLeft": "turnRight"}, (-1, 1)),
        (["a", "b", "c"], {"a": "b"}, (1, 0, 2)),
        (["keepLeft", "keepRight"], {}, (-1, -1)),
    ],
)
def test_a_handed_class_without_partner_has_no_mirror_class(classes, pairs, partner):
    assert FlipRule.of(classes, pairs).partner == partner


def test_an_image_with_a_handed_class_without_partner_is_not_flipped():
    rule = FlipRule.of(["turnLeft", "stop"], {})
    handed, plain = painted(8, 9, [(1, 1, 3, 3), (2, 2, 8, 8)]), painted(8, 9, [])
    assert flip(handed, rule) is handed
    only_stop = dataclasses.replace(handed, labels=torch.tensor([1, 1]))
    assert not torch.equal(flip(only_stop, rule).boxes, only_stop.boxes)
    assert flip(plain, rule).boxes.shape == (0, 4)


# Crops


@given(scenes(), st.floats(0.1, 1), st.floats(0.1, 1), st.integers(0, 2**31))
def test_a_crop_says_of_each_box_what_is_left_of_it_in_the_picture(scene, share_y, share_x, seed):
    height, width, boxes = scene
    sample = painted(height, width, boxes)
    window = crop(sample, share_y, share_x, generator(seed))
    rows, columns = max(round(height * share_y), 1), max(round(width * share_x), 1)
    assert window.image.shape == (3, rows, columns)
    left = dict(
        zip(window.labels.tolist(), zip(window.boxes.tolist(), window.crowd.tolist(), strict=True), strict=True)
    )
    whole = 0
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        box, area = seen(window.image, number)
        share = area / ((x2 - x1) * (y2 - y1))
        whole += share == 1
        if share < 0.1 - 1e-6:
            assert number not in left
        elif share > 0.1 + 1e-6:
            assert left[number][0] == box
            if abs(share - 0.75) > 1e-6:
                assert left[number][1] == (share < 0.75)
    if any(x2 - x1 <= columns and y2 - y1 <= rows for x1, y1, x2, y2 in boxes):
        assert whole >= 1


@given(st.data())
def test_a_box_between_pixels_stays_whole_too(data):
    sides = st.floats(1, 20, width=32)
    corners = st.floats(0, 39, width=32)
    x, y, w, h = (data.draw(s) for s in (corners, corners, sides, sides))
    sample = painted(40, 40, [(x, y, min(x + w, 40), min(y + h, 40))])
    window = crop(sample, 0.6, 0.6, generator(data.draw(st.integers(0, 2**31))))
    before, (after,) = sample.boxes[0], window.boxes
    assert torch.allclose(after[2:] - after[:2], before[2:] - before[:2], atol=1e-4)
    assert not window.crowd.any()


def test_a_crowd_stays_a_crowd_and_is_not_what_the_crop_keeps():
    sample = painted(80, 80, [(0, 0, 20, 20), (60, 60, 80, 80)], crowd=[True, False])
    for seed in range(20):
        window = crop(sample, 0.4, 0.4, generator(seed))
        assert window.labels.tolist() == [1]
        assert window.crowd.tolist() == [False]
    assert crop(sample, 0.99, 0.99, generator(0)).crowd.tolist() == [True, False]


# Everything together


@example((8, 86, [(82, 0, 83, 1), (0, 0, 1, 1)]), 0.453125, 0.0, 1.0, 0)  # a third of a pixel wide in the end
@given(scenes(), st.floats(0.4, 2), st.sampled_from([0.0, 1.0]), st.floats(0.5, 1), st.integers(0, 2**31))
def test_boxes_follow_the_picture_through_crop_resize_and_flip(scene, scale, flip_probability, crop_share, seed):
    height, width, boxes = scene
    size = (48, 64)
    config = AugmentConfig(flip=flip_probability, color=0, crop=crop_share)
    rule = FlipRule.of(["a", "b", "c"], {})
    result = augment(painted(height, width, boxes), size, scale, config, rule, generator(seed))
    limits = [max(math.ceil(side * crop_share), 32) for side in size]
    assert all(side <= limit for side, limit in zip(result.image.shape[1:], limits, strict=True))
    assert result.image.dtype == torch.uint8 and result.boxes.dtype == torch.float32
    for number, box in zip(result.labels.tolist(), result.boxes.tolist(), strict=True):
        x1, y1, x2, y2 = box
        assert 0 <= x1 < x2 <= result.image.shape[2] + 1e-3 and 0 <= y1 < y2 <= result.image.shape[1] + 1e-3
        found, _ = seen(result.image, number)
        if found is None:
            assert (x2 - x1) * (y2 - y1) < 0.5
        else:
            assert all(abs(a - b) <= 1 for a, b in zip(found, box, strict=True))


def test_the_same_generator_gives_the_same_sample():
    sample = painted(40, 60, [(5, 5, 20, 20), (30, 10, 50, 30)])
    sample.image.add_(torch.arange(60, dtype=torch.uint8))
    rule = FlipRule.of(["a", "b"], {})
    first, second, third = (augment(sample, (48, 72), 1.4, AugmentConfig(), rule, generator(s)) for s in (3, 3, 4))
    assert torch.equal(first.image, second.image) and torch.equal(first.boxes, second.boxes)
    assert not torch.equal(first.image, third.image)


def test_nothing_is_changed_where_nothing_is_asked_for():
    sample = painted(48, 64, [(5, 5, 20, 20)])
    same = augment(sample, (48, 64), 1.0, PLAIN, FlipRule.of(["a"], {}), generator(0))
    assert torch.equal(same.image, sample.image) and torch.equal(same.boxes, sample.boxes)
    assert resize(sample, 48, 64) is sample


def test_colours_change_within_bounds_and_strength_0_leaves_them():
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    assert jitter_color(image, 0, generator(0)) is image
    results = [jitter_color(image, 0.5, generator(seed)) for seed in range(60)]
    # Contrast, saturation and hue leave a grey area alone but for rounding; brightness changes it by a factor of up
    # to 1.5.
    values = {int(value) for result in results for value in result.unique()}
    assert min(values) >= 100 / 1.5 - 2 and max(values) <= 150 + 1
    assert len(values) > 10
    assert sum(result is image for result in results) in range(4, 24)  # a fifth stays as it is


def test_left_and_right_inside_other_words_are_no_hands():
    assert FlipRule.of(["brightLight", "upright", "cleft"], {}).partner == (0, 1, 2)


def test_a_box_that_ends_at_the_border_does_so_at_any_size():
    sample = Sample(
        torch.zeros(3, 8, 17, dtype=torch.uint8),
        torch.tensor([[0.0, 0, 17, 8]]),
        torch.zeros(1).long(),
        torch.zeros(1).bool(),
    )
    for side in range(9, 60):
        assert resize(sample, side, side + 3).boxes.tolist() == [[0, 0, side + 3, side]]
