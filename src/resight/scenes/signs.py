"""US road signs drawn in code: faces with pictograms, and their outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Colour = tuple[int, int, int]
Mark = tuple[Any, ...]  # a method of Pen by its name, and its arguments

RED, WHITE, BLACK = (178, 28, 36), (238, 238, 234), (24, 24, 26)
YELLOW, LIME, GREEN, ORANGE = (244, 186, 24), (196, 222, 44), (30, 140, 70), (236, 120, 30)
MASTER = 256  # side of a face in pixels
REACH = 1.06  # the face's image spans -REACH..REACH in the sign's own units, so that the rim can be smoothed


class Pen:
    """Draws on a face in the sign's own units: x right and y down, both -1..1 across the plate."""

    def __init__(self, side: int) -> None:
        self.image = Image.new("RGBA", (side, side))
        self.draw = ImageDraw.Draw(self.image)
        self.scale = side / (2 * REACH)

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        return [((x + REACH) * self.scale, (y + REACH) * self.scale) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.draw.polygon(self.pixels(points), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.draw.ellipse(self.pixels([(x - radius, y - radius), (x + radius, y + radius)]), fill=fill)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour = BLACK) -> None:
        """A line with round joints and ends."""
        self.draw.line(self.pixels(points), fill=fill, width=round(width * self.scale))
        for x, y in points:
            self.disc(x, y, width / 2, fill)

    def arrow(self, points: Sequence[Point], width: float, fill: Colour = BLACK) -> None:
        """A line whose last point carries a head."""
        self.stroke(points[:-1] if len(points) > 2 else points[:1], width, fill)
        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        neck = (x1 - dx * width * 1.5, y1 - dy * width * 1.5)
        self.draw.line(self.pixels([(x0, y0), neck]), fill=fill, width=round(width * self.scale))
        side = width * 1.25
        self.polygon([(x1, y1), (neck[0] - dy * side, neck[1] + dx * side), (neck[0] + dy * side, neck[1] - dx * side)],
                     fill)  # fmt: skip

    def text(self, words: str, y: float, height: float, fill: Colour, width: float) -> None:
        """Bold capitals of ``height``, narrowed to ``width`` where they are wider, in the middle at ``y``."""
        font = ImageFont.load_default(height * self.scale * 1.35)
        bold = max(1, round(height * self.scale * 0.05))
        left, top, right, bottom = font.getbbox(words, stroke_width=bold)
        mask = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), words, fill=255, font=font, stroke_width=bold)
        mask = mask.resize((min(mask.width, round(width * self.scale)), round(height * self.scale)))
        ((cx, cy),) = self.pixels([(0, y)])
        self.image.paste(fill, (round(cx - mask.width / 2), round(cy - mask.height / 2)), mask)


def _rounded(corners: list[Point], radius: float) -> list[Point]:
    """The convex polygon with rounded corners, stretched so that it still reaches -1..1 both ways."""
    points, t = np.array(corners, np.float64), np.linspace(0, 1, 7)[:, None]
    edges = [np.roll(points, shift, axis=0) - points for shift in (1, -1)]
    start, end = (points + edge * radius / np.hypot(*edge.T)[:, None] for edge in edges)
    # A quadratic curve from edge to edge with the corner as its handle.
    curves = zip(start, points, end, strict=True)
    outline = np.concatenate([(1 - t) ** 2 * a + 2 * t * (1 - t) * corner + t * t * b for a, corner, b in curves])
    low, high = outline.min(axis=0), outline.max(axis=0)
    return [(float(x), float(y)) for x, y in 2 * (outline - low) / (high - low) - 1]


def _ring(count: int, turn: float = 0.0) -> list[Point]:
    return [(math.cos(a), math.sin(a)) for a in 2 * math.pi * (np.arange(count) + turn) / count]


OCTAGON = _rounded(_ring(8, 0.5), 0.05)
DIAMOND = _rounded([(0, -1), (1, 0), (0, 1), (-1, 0)], 0.16)
PLATE = _rounded([(-1, -1), (1, -1), (1, 1), (-1, 1)], 0.14)
TRIANGLE = _rounded([(-1, -1), (1, -1), (0, 1)], 0.16)
HOUSE = _rounded([(0, -1), (1, -0.1), (1, 1), (-1, 1), (-1, -0.1)], 0.08)


def _speed(number: int, head: str = "SPEED LIMIT") -> list[Mark]:
    rows: list[Mark] = [("text", word, -0.66 + 0.34 * row, 0.24, BLACK, 1.5) for row, word in enumerate(head.split())]
    return [*rows, ("text", str(number), 0.42, 0.66, BLACK, 1.3)]


def _words(*rows: str, size: float = 0.3) -> list[Mark]:
    middle = (len(rows) - 1) / 2
    return [("text", word, (row - middle) * size * 1.4, size, BLACK, 1.15) for row, word in enumerate(rows)]


def _shrunk(shape: list[Point], width: float, height: float, down: float, fill: Colour) -> Mark:
    return ("polygon", [(x * width, y * height + down) for x, y in shape], fill)


def _forbidden(mirror: int) -> list[Mark]:
    return [
        ("disc", 0, 0, 0.86, RED),
        ("disc", 0, 0, 0.66, WHITE),
        ("arrow", [(-0.2 * mirror, 0.5), (-0.2 * mirror, -0.12), (0.45 * mirror, -0.12)], 0.18),
        ("stroke", [(-0.5, -0.5), (0.5, 0.5)], 0.16, RED),
    ]


def _child(x: float) -> list[Mark]:
    return [
        ("disc", x, -0.34, 0.13, BLACK),
        ("polygon", [(x - 0.14, -0.18), (x + 0.14, -0.18), (x + 0.26, 0.3), (x - 0.26, 0.3)], BLACK),
        ("stroke", [(x - 0.08, 0.25), (x - 0.12, 0.72)], 0.11),
        ("stroke", [(x + 0.1, 0.25), (x + 0.16, 0.72)], 0.11),
    ]


def _third_of_ring(turn: float) -> Mark:
    cos, sin = math.cos(turn), math.sin(turn)
    ring = [(math.cos(a) * 0.42, math.sin(a) * 0.42) for a in np.linspace(0, 1.75, 8)]
    return ("arrow", [(x * cos - y * sin, x * sin + y * cos) for x, y in ring], 0.12)


PEDESTRIAN: list[Mark] = [
    ("disc", 0.06, -0.56, 0.13, BLACK),
    ("stroke", [(0.03, -0.3), (-0.02, 0.08)], 0.25),
    ("stroke", [(-0.02, 0.08), (0.16, 0.3), (0.2, 0.62)], 0.13),
    ("stroke", [(-0.03, 0.08), (-0.12, 0.34), (-0.32, 0.56)], 0.13),
    ("stroke", [(0.06, -0.32), (0.26, -0.1), (0.4, -0.12)], 0.095),
    ("stroke", [(-0.02, -0.32), (-0.22, -0.14), (-0.3, 0.08)], 0.095),
]
SIGNAL: list[Mark] = [
    _shrunk(PLATE, 0.25, 0.62, 0, BLACK),
    ("disc", 0, -0.38, 0.15, (214, 30, 36)),
    ("disc", 0, 0.0, 0.15, (250, 206, 50)),
    ("disc", 0, 0.38, 0.15, (36, 170, 84)),
]
KEEP_RIGHT: list[Mark] = [
    ("arrow", [(-0.5, -0.75), (-0.5, -0.3), (0.45, 0.15), (0.45, 0.75)], 0.2),
    ("polygon", [(-0.55, 0.1), (0.05, 0.45), (-0.3, 0.75), (-0.65, 0.7)], BLACK),
]
LANE_ENDS: list[Mark] = [
    ("stroke", [(-0.25, 0.55), (-0.25, -0.55)], 0.1),
    ("stroke", [(0.36, 0.5), (0.36, 0.1), (0.12, -0.2), (0.12, -0.55)], 0.1),
    *(("stroke", [(0.05, y), (0.05, y - 0.1)], 0.07) for y in (0.4, 0.1, -0.2)),
]
AHEAD: Mark = ("arrow", [(0, -0.22), (0, -0.72)], 0.15)
BEND = [(-0.15, 0.6), (-0.15, 0.1), (0.05, -0.2), (0.3, -0.55)]
CORNER = [(-0.25, 0.5), (-0.25, -0.15), (0.5, -0.15)]


@dataclass(frozen=True)
class Design:
    """One kind of sign: its class name, shape, size in metres, colours (ground, border) and what is drawn on it."""

    label: str
    outline: list[Point]
    size: tuple[float, float]
    ground: tuple[Colour, ...]
    border: Colour
    marks: list[Mark]


def _diamond(label: str, *marks: Mark, grounds: tuple[Colour, ...] = (YELLOW,)) -> Design:
    return Design(label, DIAMOND, (1.0, 1.0), grounds, BLACK, list(marks))


def _limit(label: str, marks: list[Mark], width: float = 0.62) -> Design:
    return Design(label, PLATE, (width, 0.78), (WHITE,), BLACK, marks)


WANTED = (
    Design("stop", OCTAGON, (0.82, 0.82), (RED,), WHITE, [("text", "STOP", 0, 0.62, WHITE, 1.5)]),
    _diamond("pedestrianCrossing", *PEDESTRIAN, grounds=(YELLOW, LIME)),
    _diamond("signalAhead", *SIGNAL, grounds=(YELLOW, YELLOW, ORANGE)),
)
# What LISA annotates under other names: most share shape, colour or pictogram with one of the three.
OTHERS = (
    *(_limit(f"speedLimit{number}", _speed(number)) for number in (25, 35, 45)),
    _limit("truckSpeedLimit55", _speed(55, "TRUCK SPEED")),
    Design("yield", TRIANGLE, (0.9, 0.82), (RED,), WHITE,
           [_shrunk(TRIANGLE, 0.55, 0.55, -0.17, WHITE), ("text", "YIELD", -0.44, 0.2, RED, 0.62)]),
    _limit("keepRight", KEEP_RIGHT),
    _limit("rightLaneMustTurn", _words("RIGHT", "LANE", "MUST", "TURN", size=0.26), 0.7),
    Design("school", HOUSE, (0.85, 0.85), (LIME, YELLOW), BLACK, [*_child(-0.34), *_child(0.36)]),
    Design("doNotEnter", PLATE, (0.75, 0.75), (WHITE,), WHITE,
           [("disc", 0, 0, 0.92, RED), _shrunk(PLATE, 0.66, 0.15, 0, WHITE)]),
    Design("noLeftTurn", PLATE, (0.7, 0.7), (WHITE,), WHITE, _forbidden(-1)),
    Design("noRightTurn", PLATE, (0.7, 0.7), (WHITE,), WHITE, _forbidden(1)),
    _diamond("stopAhead", _shrunk(OCTAGON, 0.36, 0.36, 0.2, RED), AHEAD),
    _diamond("yieldAhead", _shrunk(TRIANGLE, 0.4, 0.36, 0.24, RED), _shrunk(TRIANGLE, 0.2, 0.18, 0.19, WHITE), AHEAD),
    _diamond("merge", ("arrow", [(-0.1, 0.6), (-0.1, -0.62)], 0.16),
             ("stroke", [(0.34, 0.5), (0.3, 0.26), (-0.06, -0.02)], 0.13)),
    _diamond("addedLane", ("arrow", [(-0.2, 0.55), (-0.2, -0.55)], 0.14),
             ("arrow", [(0.4, 0.45), (0.22, 0.12), (0.22, -0.5)], 0.14)),
    _diamond("laneEnds", *LANE_ENDS),
    _diamond("curveRight", ("arrow", BEND, 0.16)),
    _diamond("curveLeft", ("arrow", [(-x, y) for x, y in BEND], 0.16)),
    _diamond("turnRight", ("arrow", CORNER, 0.16)),
    _diamond("roundabout", *(_third_of_ring(turn * 2 * math.pi / 3) for turn in range(3))),
    _diamond("intersection", ("stroke", [(0, -0.55), (0, 0.55)], 0.17), ("stroke", [(-0.55, 0), (0.55, 0)], 0.17)),
    _diamond("dip", *_words("DIP", size=0.42)),
    _diamond("slow", *_words("SLOW", size=0.36), grounds=(YELLOW, ORANGE)),
)  # fmt: skip
DESIGNS = {design.label: design for design in (*WANTED, *OTHERS)}


def paint_face(label: str, ground: int = 0) -> Image.Image:
    """The face of a sign seen square on: ``[MASTER, MASTER]`` RGBA, transparent around the plate.

    Args:
        label: class name, a key of ``DESIGNS``.
        ground: which of the design's ground colours (counted round).
    """
    design, smooth = DESIGNS[label], 3
    pen = Pen(MASTER * smooth)
    fill = design.ground[ground % len(design.ground)]
    # US warning plates have their ground outside the border line; stop and yield are white at the rim.
    rim = design.border if design.border == WHITE else fill
    for inset, colour in ((1.0, rim), (0.93, design.border), (0.88, fill)):
        pen.polygon([(x * inset, y * inset) for x, y in design.outline], colour)
    for method, *arguments in design.marks:
        getattr(pen, method)(*arguments)
    return pen.image.reduce(smooth)


def warp_face(face: Image.Image, corners: np.ndarray) -> tuple[Image.Image, tuple[int, int]]:
    """Puts a face into a picture's perspective, smoothed at the rim.

    Args:
        face: RGBA as ``paint_face`` gives it.
        corners: ``[4, 2]`` pixels in the picture of the plate's corners (-1,-1), (1,-1), (1,1), (-1,1).

    Returns:
        An RGBA patch and the pixel of the picture where its upper left corner goes.
    """
    smooth = 3
    low, high = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 2
    width, height = (int(side) for side in high - low)
    # Reduced first to the resolution it will be seen at: the transform alone would skip pixels.
    side = min(face.width, max(16, smooth * max(width, height)))
    face = face.resize((side, side), Image.Resampling.BOX)
    edge = side * (1 - 1 / REACH) / 2
    source = [(edge, edge), (side - edge, edge), (side - edge, side - edge), (edge, side - edge)]
    rows, values = [], []
    for (x, y), (u, v) in zip((corners - low) * smooth, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(rows), np.array(values))
    patch = face.transform((width * smooth, height * smooth), Image.Transform.PERSPECTIVE, tuple(coefficients),
                           Image.Resampling.BILINEAR)  # fmt: skip
    return patch.reduce(smooth), (int(low[0]), int(low[1]))
