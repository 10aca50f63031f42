"""What the cells of annotations say: numbers, sizes, names, flags."""

from __future__ import annotations

import math

from ...errors import shown


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
    """An image side in pixels; None where it is not told (absent, blank or 0)."""
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
