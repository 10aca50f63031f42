"""Boxes and labels drawn into a picture."""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, the last ones included

MAX_LABELS = 30  # of more boxes the labels would hide the objects
MAX_TEXT = 200  # characters; to cut a text to its room takes a while
MAX_SIDE = 65_500  # pixels that libjpeg writes
MIN_TEXT = 8  # pixels of a font that can be read


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
    *,
    labels: bool = True,
) -> np.ndarray:
    """A copy of ``image`` with its boxes and their labels drawn.

    Lines run around a box rather than over it, so that a small object stays visible, and line and text grow with
    the picture. Labels stay inside the picture and avoid each other where there is room; of more than ``MAX_LABELS``
    boxes, and in pictures too small for a text, there are none. Boxes that reach outside are cut at the border, turned
    ones are straightened, those with a NaN are left out.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        boxes: ``[N, 4]`` xyxy, absolute pixels of ``image``.
        names: N class names; a name has one colour, in every picture.
        scores: N numbers in 0..1, written behind the names.
        labels: write names and scores; of a model or a data set of one class they tell little and hide much.
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(image))
    canvas = ImageDraw.Draw(picture)
    line = max(1 if max(width, height) < 200 else 2, round(max(width, height) / 300))
    texts = list(names) if scores is None else [f"{n} {s:.2f}" for n, s in zip(names, scores, strict=True)]
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    outlines = [
        (_outline(box, line, width, height), name, text)
        for box, name, text in zip(corners, names, texts, strict=True)
        if np.isfinite(box).all()
    ]
    # The best score comes first and is drawn last, on top; but its label has the first choice of a place.
    for outline, name, _ in reversed(outlines):
        canvas.rectangle(_grow(outline, 1), outline=_ink(colour_of(name)))
        canvas.rectangle(outline, outline=colour_of(name), width=line)
    if not labels or len(outlines) > MAX_LABELS:
        return np.asarray(picture)
    kept_clear = [outline for outline, _, _ in outlines]
    for outline, name, text in outlines:
        font, text = _fit(text, width, height)
        if text:
            _label(canvas, outline, text, font, colour_of(name), kept_clear)
    return np.asarray(picture)


def tile_side(count: int) -> int:
    """Pixels of the longer side of each of ``count`` pictures in a :func:`contact_sheet`."""
    return max(96, min(360, 6_000 // max(math.isqrt(max(count, 1) - 1) + 1, 1)))


def contact_sheet(tiles: Sequence[tuple[str, np.ndarray]], side: int) -> np.ndarray:
    """Pictures ``[H, W, 3]`` uint8 RGB no larger than ``side`` in rows and columns, each in the middle of its place and
    above its name."""
    columns = math.isqrt(len(tiles) - 1) + 1
    rows, caption, gap = -(-len(tiles) // columns), 16, 6
    # As high as the highest picture: places of photographs that are all wide are not square.
    high, wide = (max(tile.shape[axis] for _, tile in tiles) for axis in (0, 1))
    size = (columns * (wide + gap) + gap, rows * (high + caption + gap) + gap)
    sheet = Image.new("RGB", size, (24, 27, 31))
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (name, tile) in enumerate(tiles):
        left = gap + number % columns * (wide + gap)
        top = gap + number // columns * (high + caption + gap)
        place = (left + (wide - tile.shape[1]) // 2, top + (high - tile.shape[0]) // 2)
        sheet.paste(Image.fromarray(tile), place)
        canvas.text((left, top + high + 1), _cut(name, font, wide), fill=(220, 224, 228), font=font)
    return np.asarray(sheet)


def save_picture(picture: np.ndarray, path: Path, **more: Any) -> None:
    """Writes ``[H, W, 3]`` uint8 RGB as a JPEG, smaller where a JPEG cannot be as large; ``more`` is for Pillow."""
    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(path, quality=92, **more)


def colour_of(name: str) -> Colour:
    """The RGB colour of a class name: the same in every process and whatever other classes there are."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    lightness = (0.42, 0.55, 0.68)[digest[2] % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more with ``colour`` (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _outline(box: np.ndarray, line: int, width: int, height: int) -> Rectangle:
    """The pixels just around ``box``, moved inside where the picture ends."""
    x1, x2 = sorted((box[0], box[2]))
    y1, y2 = sorted((box[1], box[3]))
    left, right = np.clip((np.floor(x1) - line, np.ceil(x2) - 1 + line), 0, width - 1)
    top, bottom = np.clip((np.floor(y1) - line, np.ceil(y2) - 1 + line), 0, height - 1)
    return int(left), int(top), int(right), int(bottom)


def _grow(box: Rectangle, by: int) -> Rectangle:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _fit(text: str, width: int, height: int) -> tuple[Font, str]:
    """A font for this picture and as much of ``text`` as it can hold; nothing where not even a letter fits."""
    text = _printable(text)
    size = min(max(12, round(max(width, height) / 45)), min(width, height) // 10)
    font = ImageFont.load_default(max(size, MIN_TEXT))
    if size < MIN_TEXT:  # it would cover the picture
        return font, ""
    while size > MIN_TEXT and font.getlength(text) > width - size:
        size -= 1
        font = ImageFont.load_default(size)
    return font, _cut(text, font, width - size)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])


def _cut(text: str, font: Font, width: int) -> str:
    """As much of a text as ``width`` pixels hold; nothing where not even a letter fits."""
    text = _printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text and text + "…"


def _label(
    canvas: ImageDraw.ImageDraw, outline: Rectangle, text: str, font: Font, colour: Colour, kept_clear: list[Rectangle]
) -> None:
    """Writes ``text`` at the place around or in ``outline`` that hides least of ``kept_clear``, where it is then added
    with a margin."""
    (x1, y1, x2, y2), (width, height) = outline, canvas.im.size
    # The height of all letters, not of these: labels side by side have equal plates and one base line.
    _, top, _, bottom = canvas.textbbox((0, 0), "Ágj|", font=font)
    pad = max(1, round((bottom - top) / 8))
    tall, wide = round(bottom - top) + 2 * pad, round(canvas.textlength(text, font=font)) + 4 * pad
    places = [
        (min(max(x, 0), width - wide), min(max(y, 0), height - tall))
        for y in (y1 - tall, y2 + 1, y1 + 1, y2 - tall, y1 - 2 * tall, y2 + 1 + tall)
        for x in (x1, x2 + 1 - wide)
    ]
    rooms = [(x, y, x + wide - 1, y + tall - 1) for x, y in places]
    room = rooms[int(np.argmin(_hidden(np.array(rooms), np.array(kept_clear))))]
    canvas.rectangle(room, fill=colour)
    canvas.text((room[0] + 2 * pad, room[1] + pad - top), text, fill=_ink(colour), font=font)
    kept_clear.append(_grow(room, 2))


def _hidden(rooms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``[R]``: how much of ``others [M, 4]`` each of ``rooms [R, 4]`` covers, as a sum of the shares of each."""
    top_left = np.maximum(rooms[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(rooms[:, None, 2:], others[None, :, 2:])
    covered = np.clip(bottom_right - top_left + 1, 0, None).prod(axis=2)
    return (covered / (others[:, 2:] - others[:, :2] + 1).prod(axis=1)).sum(axis=1)
