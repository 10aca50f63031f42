import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resight.datasets.inspect import inspect, judge
from resight.datasets.near_duplicates import perceptual_hash
from resight.types import Annotation, Box

WIDTH, HEIGHT = 300, 120


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def encoded(image: Image.Image, format: str = "JPEG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, exif=exif.tobytes() if orientation != 1 else b"")
    return buffer.getvalue()


def annotation(*boxes: Box, image: bytes | str | None = None, **fields: int | None) -> Annotation:
    data = encoded(picture()) if image is None else image
    return Annotation(data, boxes, filename="a.jpg", where="a.xml:7", **fields)  # type: ignore[arg-type]


def kinds(item: Annotation, *classes: str, deep: bool = False) -> list[str]:
    return [problem.kind for problem in inspect(item, classes, deep=deep).problems]


def test_what_is_right_stays_as_it_is() -> None:
    boxes = (Box("stop", 0, 0, WIDTH, HEIGHT, difficult=True), Box("stop", 1.5, 2, 3, 4.25, area=3.0))
    found = inspect(annotation(*boxes, width=WIDTH, height=HEIGHT), ["stop"])
    assert found.annotation is not None and found.annotation.boxes == boxes
    assert (found.problems, found.clipped, found.rotated) == ((), 0, False)


def test_the_size_is_the_images_where_the_annotation_states_none() -> None:
    for width, height in ((None, None), (0, 0)):
        found = inspect(annotation(width=width, height=height)).annotation
        assert found is not None and (found.width, found.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(WIDTH + 1, HEIGHT), (HEIGHT, WIDTH), (600, 240)])
def test_a_size_that_disagrees_is_named(size: tuple[int, int]) -> None:
    found = inspect(annotation(Box("stop", 1, 1, 5, 5), width=size[0], height=size[1]))
    (problem,) = found.problems
    assert found.annotation is None and (problem.level, problem.kind) == ("error", "size_mismatch")
    assert problem.where == "a.xml:7" and f"{size[0]} x {size[1]}" in problem.message and "300 x 120" in problem.message


sides = st.one_of(
    st.floats(-20, 320),
    st.integers(-20, 320).map(float),
    st.sampled_from([math.nan, math.inf, -math.inf, -2.0, 302.0, 303.0, 122.0]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(sides, sides, sides, sides), max_size=4))
def test_boxes_are_kept_clipped_or_named(corners: list[tuple[float, float, float, float]]) -> None:
    boxes = [Box(f"class {i}", *box) for i, box in enumerate(corners)]
    found = inspect(annotation(*boxes, image=PNG))
    assert found.annotation is not None
    kept = {box.label: box for box in found.annotation.boxes}
    named = [problem.kind for problem in found.problems]
    expected_named, clipped = [], 0
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        if not all(map(math.isfinite, box.xyxy)) or x2 <= x1 or y2 <= y1:
            expected_named.append("bad_box")
        elif (  # 1 % of 300 is 3 pixels, 1 % of 120 is less than 2
            min(x1 + 3, y1 + 2, 303 - x2, 122 - y2) < 0 or x1 >= 300 or y1 >= 120 or x2 <= 0 or y2 <= 0
        ):
            expected_named.append("outside_box")
        else:
            inside = (max(x1, 0), max(y1, 0), min(x2, 300), min(y2, 120))
            assert kept.pop(box.label).xyxy == inside
            clipped += inside != box.xyxy
    assert named == expected_named and not kept
    assert found.clipped == clipped


PNG = encoded(picture(), "PNG")


def test_the_slack_is_one_per_cent_of_large_images() -> None:
    large = encoded(picture(1000, 900), "PNG")
    assert kinds(annotation(Box("stop", -10, -9, 1010, 909), image=large)) == []
    assert kinds(annotation(Box("stop", -10.1, 0, 100, 100), image=large)) == ["outside_box"]
    assert kinds(annotation(Box("stop", 0, 0, 100, 909.1), image=large)) == ["outside_box"]


def test_repeated_boxes_are_kept_once() -> None:
    box = Box("stop", 1, 1, 5, 5)
    found = inspect(annotation(box, box, Box("yield", 1, 1, 5, 5), box))
    assert found.annotation is not None and len(found.annotation.boxes) == 2
    assert [(problem.level, problem.kind) for problem in found.problems] == [("warning", "duplicate_box")] * 2


def test_a_box_needs_a_class() -> None:
    assert kinds(annotation(Box(" ", 1, 1, 5, 5), Box("", 1, 1, 5, 5))) == ["unknown_class"] * 2


def test_unknown_classes_are_named_with_the_nearest() -> None:
    found = inspect(annotation(Box("stopp", 1, 1, 5, 5), Box("stop", 1, 1, 5, 5)), ["stop", "yield"])
    assert found.annotation is not None and [box.label for box in found.annotation.boxes] == ["stop"]
    (problem,) = found.problems
    assert problem.kind == "unknown_class" and "Did you mean 'stop'?" in problem.message


def test_boxes_of_a_rotated_image_wait_for_their_frame() -> None:
    item = annotation(Box("stop", 200, 10, 290, 40), image=encoded(picture(), "JPEG", 6), width=WIDTH, height=HEIGHT)
    found = inspect(item)
    assert found.undecided and found.rotated and (found.annotation, found.problems) == (None, ())
    found = judge(item, found.image, frame="stored")
    assert found.annotation is not None and not found.undecided and found.problems == ()
    assert found.annotation.boxes == (Box("stop", 80, 200, 110, 290),)
    assert (found.annotation.width, found.annotation.height) == (HEIGHT, WIDTH)
    assert inspect(annotation(image=encoded(picture(), "JPEG", 6))).annotation is not None


def test_missing_and_unreadable_images_are_told_apart(tmp_path: Path) -> None:
    assert kinds(annotation(image=str(tmp_path / "none.jpg"))) == ["missing_image"]
    assert kinds(annotation(image=str(tmp_path / "none.jpg")), deep=True) == ["missing_image"]
    assert kinds(annotation(image=str(tmp_path))) == ["unreadable_image"]
    (tmp_path / "text.jpg").write_text("not an image")
    assert kinds(annotation(image=str(tmp_path / "text.jpg"))) == ["unreadable_image"]
    assert kinds(annotation(image=b"")) == ["unreadable_image"]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_truncated_image_is_found_by_looking_deep(format: str) -> None:
    data = encoded(picture(), format)
    cut = annotation(image=data[: len(data) * 2 // 3])
    assert kinds(cut) == []
    found = inspect(cut, deep=True)
    assert found.annotation is None and [problem.kind for problem in found.problems] == ["unreadable_image"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_images_are_named_or_read(format: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(picture(40, 30), format))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)):
        whole[at] = value
    found = inspect(annotation(image=bytes(whole)), deep=True)
    assert found.annotation is not None or [problem.kind for problem in found.problems] == ["unreadable_image"]


def test_looking_deep_gives_the_hash_of_the_pixels() -> None:
    found = inspect(annotation(image=PNG), deep=True)
    assert found.hash == perceptual_hash(np.asarray(picture())) is not None
    assert inspect(annotation(image=PNG)).hash is None
    assert inspect(annotation(image=encoded(Image.new("RGB", (30, 20)), "PNG")), deep=True).hash is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_looked_into(mode: str) -> None:
    grey = np.asarray(picture().convert("L"))
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else picture().convert(mode)
    found = inspect(annotation(image=encoded(image, "TIFF")), deep=True)
    assert found.problems == () and found.hash is not None


@pytest.mark.parametrize(
    ("corners", "says"),
    [
        ((-30, 10, 40, 40), "reaches 30 pixels out of the image of 100 x 80 pixels"),
        ((10, 10, 40, 92.5), "reaches 12.5 pixels out of"),
        ((10, -5, 140, 40), "reaches 40 pixels out of"),
        ((100, 10, 140, 40), "lies wholly outside the image of 100 x 80 pixels"),
        ((10, -9, 40, -0.5), "lies wholly outside"),
        ((101, 10, 101.5, 40), "lies wholly outside"),
    ],
)
def test_partly_and_wholly_outside_are_told_apart(corners, says):
    (problem,) = inspect(annotation(Box("stop", *corners), image=encoded(picture(100, 80), "PNG"))).problems
    assert problem.kind == "outside_box" and says in problem.message
