import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resight.drawing import MAX_SIDE, colour_of, contact_sheet, draw, save_picture, tile_side

STOP = np.array(colour_of("stop"))


def grey(height: int, width: int, value: int = 127) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def pixels_of(colour: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (image == colour).all(axis=2)


def test_the_line_runs_around_the_box_and_leaves_its_inside_as_it_was():
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    drawn = draw(image, np.array([[100, 150, 140, 190]], np.float32), ["stop"])
    assert (drawn[150:190, 100:140] == image[150:190, 100:140]).all()
    for strip in (drawn[149, 100:140], drawn[190, 100:140], drawn[150:190, 99], drawn[150:190, 140]):
        assert (strip == STOP).all()


def test_the_input_stays_untouched_and_no_boxes_give_the_same_picture():
    image = grey(60, 80)
    draw(image, np.array([[10, 10, 30, 30]]), ["stop"], [0.5])
    assert (image == 127).all()
    assert (draw(image, np.zeros((0, 4)), []) == image).all()


@pytest.mark.parametrize("corner", [(0, 0), (280, 0), (0, 280), (280, 280)])
@pytest.mark.parametrize("name", ["stop", "a class name that is far longer than any picture of this size can hold"])
def test_labels_at_the_border_stay_whole(corner, name):
    x, y = corner
    boxes = np.array([[x, y, x + 20, y + 20]])
    middle = draw(grey(300, 300), np.array([[140, 140, 160, 160]]), [name])
    at_border = draw(grey(300, 300), boxes, [name])
    # The plate has the size it has in the middle of a picture: none of it is cut off. The outline differs at a border.
    plates = [widest_run(pixels_of(np.array(colour_of(name)), drawn)) for drawn in (middle, at_border)]
    assert plates[0] == plates[1] > 20


def widest_run(mask: np.ndarray) -> int:
    """The longest horizontal run of set pixels."""
    best = 0
    for row in mask:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        best = max([best, *(edges[1::2] - edges[::2])])
    return best


def test_labels_of_neighbours_do_not_cover_each_other_or_the_objects():
    boxes = np.array([[200, 200, 230, 230], [202, 198, 232, 228], [240, 200, 270, 230], [170, 200, 195, 230]])
    names = ["stop", "yield", "merge", "slow"]
    drawn = draw(grey(480, 704), boxes, names)
    plates = [pixels_of(np.array(colour_of(name)), drawn).sum() for name in names]
    alone = [
        pixels_of(np.array(colour_of(n)), draw(grey(480, 704), b[None], [n])).sum()
        for b, n in zip(boxes, names, strict=True)
    ]
    # Outlines cross, so a little of each is lost; a covered label would lose far more.
    assert all(share > 0.8 * whole for share, whole in zip(plates, alone, strict=True))


def test_line_and_text_grow_with_the_picture():
    small, large = (draw(grey(s, s), np.array([[s / 2, s / 2, s * 0.6, s * 0.6]]), ["stop"]) for s in (400, 4000))
    assert 50 < pixels_of(STOP, large).sum() / pixels_of(STOP, small).sum() < 200


def plates(drawn, name="stop"):
    """Pixels of the colour of a name beyond what its outlines have."""
    return int(pixels_of(np.array(colour_of(name)), drawn).sum())


def test_labels_are_left_out_where_they_would_hide_the_objects():
    grid = np.array([[40 * (n % 8) + 5, 40 * (n // 8) + 20, 40 * (n % 8) + 20, 40 * (n // 8) + 30] for n in range(31)])
    for count, labelled in ((30, True), (31, False)):
        image, boxes, names = grey(200, 330), grid[:count], ["stop"] * count
        bare = draw(image, boxes, names, labels=False)
        assert (plates(draw(image, boxes, names)) > plates(bare)) == labelled
        assert plates(bare) > 0


@pytest.mark.parametrize(("width", "height", "most"), [(64, 48, 0.0), (96, 64, 0.0), (160, 120, 0.1), (320, 240, 0.1)])
def test_a_label_covers_little_of_a_small_picture(width, height, most):
    box = np.array([[width * 0.3, height * 0.4, width * 0.6, height * 0.8]])
    bare = draw(grey(height, width), box, ["stop"], [0.9], labels=False)
    covered = (draw(grey(height, width), box, ["stop"], [0.9]) != bare).any(axis=2).mean()
    assert covered <= most


def test_scores_are_written():
    box = np.array([[100, 100, 150, 150]])
    drawings = [draw(grey(300, 300), box, ["stop"], scores) for scores in (None, [0.51], [0.93])]
    assert len({drawing.tobytes() for drawing in drawings}) == 3


def test_any_label_is_legible_on_its_plate():
    def luminance(colour):
        values = np.array(colour) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for number in range(300):
        name = f"class {number}"
        drawn = draw(grey(100, 200), np.array([[20, 50, 60, 90]]), [name])
        plate = luminance(colour_of(name))
        ink = {True: 0.0, False: 1.0}[bool((drawn.reshape(-1, 3) == 0).all(axis=1).any())]
        light, dark = max(plate, ink), min(plate, ink)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2 level AA


def test_a_colour_is_the_same_in_another_process_and_differs_between_names():
    code = "from resight.drawing import colour_of; print(colour_of('signalAhead'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(colour_of("signalAhead"))
    assert len({colour_of(f"class {n}") for n in range(47)}) == 47


def test_a_name_of_any_length_is_cut_to_its_room():
    assert draw(grey(100, 200), np.array([[20, 50, 60, 90]]), ["x" * 10**6]).shape == (100, 200, 3)


def test_a_picture_that_is_longer_than_a_jpeg_can_be_is_written_smaller(tmp_path):
    save_picture(grey(2, MAX_SIDE + 1000), tmp_path / "wide.jpg")
    save_picture(grey(20, 30), tmp_path / "small.jpg", comment=b"mine")
    with Image.open(tmp_path / "wide.jpg") as wide, Image.open(tmp_path / "small.jpg") as small:
        assert wide.width == MAX_SIDE
        assert small.size == (30, 20) and small.info["comment"] == b"mine"


coordinate = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate, st.text(max_size=30)), max_size=4),
    st.booleans(),
)
def test_no_box_and_no_name_breaks_it(height, width, items, scored):
    image = grey(height, width)
    drawn = draw(image, np.array([i[:4] for i in items]), [i[4] for i in items], [0.5] * len(items) if scored else None)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 120), st.integers(1, 120)), min_size=1, max_size=30))
def test_a_contact_sheet_holds_every_picture_whole(sizes):
    tiles = [(f"{n}\x00 {'name' * n}", grey(height, width, 100 + n)) for n, (height, width) in enumerate(sizes)]
    sheet = contact_sheet(tiles, 120)
    for n, (height, width) in enumerate(sizes):
        assert (sheet == 100 + n).all(
            axis=2
        ).sum() >= height * width - 200  # a letter may have its colour, or cover none
    columns = int(np.ceil(np.sqrt(len(sizes))))
    rows = int(np.ceil(len(sizes) / columns))
    wide, high = max(width for _, width in sizes), max(height for height, _ in sizes)
    assert sheet.shape == (rows * (high + 22) + 6, columns * (wide + 6) + 6, 3)


def test_a_large_contact_sheet_has_small_pictures():
    assert [tile_side(count) for count in (1, 32, 400, 10_000)] == [360, 360, 300, 96]
