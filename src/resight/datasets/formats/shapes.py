"""The boxes around shapes that annotation tools draw: polygons, ellipses, rotated rectangles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .values import number

Corners = tuple[float, float, float, float]  # xyxy pixels
Size = tuple[int | None, int | None]  # width and height of an image in pixels, where they are known
Point = tuple[float, float]


def point(value: object) -> Point:
    """A point from a list of its two coordinates. Raises ValueError that says what else it is."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"a point is {value!s:.80}, not two numbers")
    return number(value[0], "x"), number(value[1], "y")


def around(points: Iterable[Point], within: Size = (None, None)) -> Corners:
    """The box around points, cut to an image of the size ``within``. Raises ValueError if there is no point."""
    columns, rows = zip(*points, strict=True) if (points := list(points)) else ((), ())
    if not columns:
        raise ValueError("a shape has no points")
    (x1, x2), (y1, y2) = (
        (min(side), max(side)) if limit is None else (max(min(side), 0.0), min(max(side), float(limit)))
        for side, limit in ((columns, within[0]), (rows, within[1]))
    )
    return x1, y1, x2, y2


def around_rotated(corners: Corners, degrees: float, pivot: Point, within: Size) -> Corners:
    """The box around a box that is turned clockwise about ``pivot``."""
    if not degrees:
        return corners
    x1, y1, x2, y2 = corners
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x - pivot[0], y - pivot[1]) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    return around([(pivot[0] + x * cos - y * sin, pivot[1] + x * sin + y * cos) for x, y in offsets], within)


def around_ellipse(centre: Point, radii: Sequence[float], degrees: float, within: Size) -> Corners:
    """The box around an ellipse that is turned about its centre."""
    (x, y), (rx, ry) = centre, radii
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across, down = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return around([(x - across, y - down), (x + across, y + down)], within)
