"""What annotations say: numbers, sizes, names, flags; and the boxes around polygons, ellipses, rotated rectangles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ...errors import shown

Corners = tuple[float, float, float, float]  # xyxy pixels
Size = tuple[int | None, int | None]  # width and height of an image in pixels, where they are known
Point = tuple[float, float]


def number(value: object, name: str) -> float:
    """``value`` as a float, infinite and NaN ones too. Raises ValueError that speaks of ``name``."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and "_" not in value:  # Python would read 1_0 as 10
            return float(value.strip(" \t\r\n\ufeff"))
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{name} is {shown(value)}, not a number")


def size(value: object, name: str) -> int | None:
    """An image side in pixels; None where it is not stated (absent, blank or 0)."""
    if value is None or value == "":
        return None
    side = number(value, name)
    if not math.isfinite(side) or side < 0:
        raise ValueError(f"{name} is {shown(value)}, not a size in pixels")
    return round(side) or None


def text(value: object, name: str) -> str:
    """A non-empty string that can be stored. Raises ValueError that speaks of ``name``."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or not is_text(value):
        raise ValueError(f"{name} is {shown(value)}, not a name")
    return value.strip()


def flag(value: str | None) -> bool:
    return (value or "").strip().lower() in ("1", "true", "yes")


def is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
