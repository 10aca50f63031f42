"""The report as one HTML page: no other file, no request, and its text and charts are there without its script."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..errors import counted
from . import svg
from .charts import at_threshold, curves, operating_index, reliability, thresholds, tide, training_charts

MOST_CONFUSED = 14  # classes that the confusion matrix shows
CONFUSIONS = 50  # pairs of classes that are listed
FIRST_CURVES = 12  # precision-recall curves that are shown at once
SUSPECTS = 200  # that are listed
MOST_LOST = 20  # classes of which is told where their objects are lost
SMALL, LARGE = 32, 96  # pixels of an object's side, as COCO divides sizes

HEADLINES = {
    "mAP": "mean over IoU .50 to .95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "AP_small": "objects under 32 × 32 px",
}
KINDS = {
    "missed": "no detection found the object",
    "false alarm": "a detection where there is no object",
    "wrong class": "in the right place, called something else",
    "misplaced": "right class, IoU with the object from .1 to .5",
    "double": "the object was already found by a better detection",
    "both": "misplaced, and called something else",
}
FATES = {
    "found": "Found, IoU .75",
    "loose": "Found, IoU .5 to .75",
    "wrong_class": "Called another class",
    "background": "Called background",
    "no_proposal": "No proposal",
    "no_anchor": "No anchor",
    "unknown": "Stage not known",
}
SHAPES = {
    "small": "small: under 32 × 32 px",
    "medium": "medium: to 96 × 96 px",
    "large": "large: over 96 × 96 px",
    "tall": "tall: height / width over 1.5",
    "square": "square: between",
    "wide": "wide: width / height over 1.5",
}


def page(
    findings: dict[str, Any], thumbnails: Sequence[bytes], flipped: Sequence[bytes] = (), csv: str = "suspects.csv"
) -> str:
    """The page of ``findings`` (the content of ``report.json``).

    Args:
        thumbnails: a JPEG of each of ``findings["errors"]`` in their order; b"" or nothing where there is none. What it
            shows of the image, xyxy in pixels, is the error's "crop".
        flipped: likewise of the "flipped" objects of all "others" of ``findings["comparison"]``.
        csv: the name of the file with all suspects.
    """
    counts = findings["all"]
    confusions = _confusions(findings)
    start = operating_index(findings)
    values = {
        **findings,
        "start": start,
        "headlines": HEADLINES,
        "kinds": KINDS,
        "rates": thresholds(findings, start),
        "rows": [_class_row(row, start) for row in findings["classes"]],
        "total": at_threshold(counts, start),
        "curves": curves(findings["classes"], start),
        "first_curves": FIRST_CURVES,
        "matrix": _matrix(findings, confusions),
        "confusions": confusions[:CONFUSIONS],
        "background": _background(row["name"] for row in findings["classes"]),
        "fates": FATES,
        "most_lost": MOST_LOST,
        "lost_rows": _lost(findings["lost"]),
        "cards": _cards(findings["errors"], thumbnails),
        "others": _others(findings.get("comparison"), flipped),
        "pictured_classes": _pictured_classes(findings["errors"]),
        "tide_bars": tide(findings["tide"]["errors"]),
        "reliability": reliability(findings["calibration"]["bins"]),
        "most_suspects": SUSPECTS,
        "csv": csv,
        "training_charts": training_charts(findings["training"]),
        "data": {
            "thresholds": findings["thresholds"],
            "all": [counts["objects"], counts["reported"], counts["right"]],
            "classes": [[row["objects"], row["reported"], row["right"]] for row in findings["classes"]],
        },
    }
    return render("report.html.j2", values)


def render(template: str, values: dict[str, Any]) -> str:
    """A page of ``templates/``. All text in ``values`` is escaped, and of a page that can be written as UTF-8."""
    text = _environment().get_template(template).render(values)
    return text.encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals |= {"svg": svg, "script": Markup((folder / "report.js").read_text(encoding="utf-8"))}
    environment.globals |= {"style": Markup((folder / "report.css").read_text(encoding="utf-8"))}
    filters: dict[str, Callable[..., Any]] = {
        "counted": counted,
        "decimal": _decimal,
        "percent": lambda share: None if share is None else f"{100 * share:.0f} %",
        "json": _json,
        "code": _code,
        "path": _path,
        "plain": lambda value: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value,
        "bar": _bar,
        "signed": lambda value: None if value is None else f"{value:+.3f}".replace("-", "−"),
    }
    environment.filters |= filters
    return environment


def _shown(value: Any) -> Any:
    """What is not there as a dash, and characters that are not seen, or turn the text around, made visible."""
    if value is None:
        return "–"
    return value if isinstance(value, Markup) or not isinstance(value, str) else svg.visible(value)


def _decimal(value: float | None, digits: int = 3) -> str | None:
    """Halves go up, as where the script writes the same number."""
    return None if value is None else str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def _json(value: Any) -> Markup:
    """For a script element: nothing in it can end the element, or a line of an old script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only, so no U+2028 either
    return Markup(re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _code(text: str) -> Markup:
    """`Quoted` parts set as code."""
    parts = [escape(svg.visible(part)) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _path(text: str) -> Markup:
    """May be broken where a path has its parts."""
    return Markup("<wbr>").join(re.split("(?<=/)", svg.visible(text)))


def _bar(share: float | None) -> Markup:
    """A share as a bar beside its number."""
    width = round(100 * min(max(share or 0, 0), 1), 1)
    return Markup('<span class="bar" aria-hidden="true"><span style="width:{}%"></span></span>').format(width)


def _class_row(row: dict[str, Any], start: int) -> dict[str, Any]:
    return {key: row[key] for key in ("name", "AP", "AP50", "AP75", "boxes", "images", "best_score")} | {
        "at": at_threshold(row, start)
    }


def _background(classes: Iterable[str]) -> str:
    """What stands for no object, which is no class's name."""
    name, taken = "background", {one.strip().casefold() for one in classes}
    while name in taken:
        name = f"({name})"
    return name


def _pictured(findings: dict[str, Any]) -> set[tuple[int, int]]:
    return {tuple(cell) for error in findings["errors"] for cell in error["cells"]}


def _confusions(findings: dict[str, Any]) -> list[dict[str, Any]]:
    """What was reported as something else, most often first: classes for each other, then with background."""
    pictured = _pictured(findings)
    rows = [
        {"object": row, "found": column, "count": count, "pictured": (row, column) in pictured}
        for row, column, count in findings["confusion"]["cells"]
        if row != column and count
    ]
    return sorted(rows, key=lambda row: (-1 in (row["object"], row["found"]), -row["count"]))


def _pictured_classes(errors: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({error[key] for error in errors for key in ("object", "found")} - {None})


def _matrix(findings: dict[str, Any], confusions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of cells, of all classes or of those most often confused, each in a row and a column, then background."""
    cells = {(row, column): count for row, column, count in findings["confusion"]["cells"]}
    total: dict[int, int] = {}
    for (row, _), count in cells.items():
        total[row] = total.get(row, 0) + count
    in_order = [label for one in confusions for label in (one["object"], one["found"]) if label >= 0]
    classes = list(dict.fromkeys([*in_order, *range(len(findings["classes"]))]))
    labels = [*sorted(classes[:MOST_CONFUSED]), -1]
    pictured = _pictured(findings)
    rows = [
        [
            {
                "found": column,
                "count": cells.get((row, column), 0),
                "share": round(cells.get((row, column), 0) / total[row], 3) if row in total else 0,
                "pictured": (row, column) in pictured,
            }
            for column in labels
        ]
        for row in labels
    ]
    return {"labels": labels, "rows": list(zip(labels, rows, strict=True)), "whole": len(classes) <= MOST_CONFUSED}


def _lost(lost: dict[str, Any]) -> list[tuple[str, list[tuple[str, dict[str, int]]]]]:
    """Titles and rows of the table of where the points are lost, the classes that lose most first."""
    classes = sorted(lost["class"].items(), key=lambda row: row[1]["found"] - row[1]["objects"])
    shapes = [(f"By {by}", [(SHAPES[name], row) for name, row in lost[by].items()]) for by in ("size", "aspect")]
    return [("", [("All", lost["all"])]), *shapes, ("By class", classes[:MOST_LOST])]


def _cards(errors: Sequence[dict[str, Any]], thumbnails: Sequence[bytes]) -> list[dict[str, Any]]:
    cards = []
    for error, picture in zip(errors, chain(thumbnails, repeat(b"")), strict=False):
        size = error["size"]
        extent = "small" if size < SMALL else "large" if size > LARGE else "medium"
        at = " ".join(f"{row},{column}" for row, column in error["cells"])
        cards.append(error | _framed(error, picture) | {"extent": extent, "at": at})
    return cards


def _framed(row: dict[str, Any], picture: bytes) -> dict[str, Any]:
    """A picture as text, and the boxes to be drawn over it."""
    overlay = over(row["crop"], row["box"], row.get("found_box")) if row.get("crop") else {"rectangles": ()}
    return overlay | {"picture": as_text(picture)}


def as_text(picture: bytes) -> str | None:
    return base64.b64encode(picture).decode() or None


def over(crop: Sequence[float], labelled: Sequence[float] | None, detected: Sequence[float] | None) -> dict[str, Any]:
    """What is drawn over a picture of the part ``crop`` of an image: boxes, all xyxy in pixels of the image."""
    rectangles = [
        (kind, *(round(number, 1) for number in (box[0], box[1], max(box[2] - box[0], 0), max(box[3] - box[1], 0))))
        for kind, box in (("labelled", labelled), ("detected", detected))
        if box is not None
    ]
    left, top, right, bottom = crop
    return {"view": f"{left:g} {top:g} {right - left:g} {bottom - top:g}", "rectangles": rectangles}


def _others(comparison: dict[str, Any] | None, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
    """The other models of a comparison, classes with the greatest difference first."""
    others, left = [], iter(pictures)
    for other in comparison["others"] if comparison else ():
        classes = [row | {"difference": _difference(row["AP"])} for row in other["classes"]]
        classes.sort(key=lambda row: -abs(row["difference"] or 0))
        flipped = [row | {"views": _views(row, next(left, b""))} for row in other["flipped"]]
        others.append(other | {"classes": classes, "flipped": flipped})
    return others


def _views(row: dict[str, Any], picture: bytes) -> list[dict[str, Any]]:
    """Of what has flipped, one for each of both models."""
    return [
        {"says": one, "file": row["file"]} | _framed(row | {"found_box": one and one["box"]}, picture)
        for one in row["says"]
    ]


def _difference(pair: Sequence[float | None]) -> float | None:
    first, other = pair
    return None if first is None or other is None else other - first
