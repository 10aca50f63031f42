"""Charts as SVG. Each says in words what it shows, and stands in a page, whose style sheet may recolour it by class, or
in a file of its own."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float | None]]  # None: a gap

# Of the lines of a chart, in turn; each is dashed in its own way too, so that none is told by its colour alone.
COLOURS = ("#1f66ad", "#a8480f", "#2e7d32", "#7b4fa8")
DASHES = ("none", "6 3", "2 3", "9 3 2 3")
GREY, FAINT = "#5b6470", "#dde2e7"


@dataclass(frozen=True)
class Axis:
    """What a chart has along one side, from ``low`` to ``high``."""

    label: str
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def around(cls, label: str, values: Sequence[float]) -> Axis:
        """That has room for ``values``, from 0 on where they are not far from it."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        low = 0.0 if 0 <= low < high / 2 else low
        if low == high:
            low, high = low - abs(low) / 2, high + (abs(high) / 2 or 1.0)
        step = cls(label, low, high).step
        return cls(label, math.floor(low / step) * step, math.ceil(high / step) * step)

    @property
    def step(self) -> float:
        """Between two ticks: a round number, of which four or five fit in."""
        least = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(least))
        return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * 0.999)

    @property
    def ticks(self) -> list[float]:
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return [tick * self.step for tick in range(first, last + 1)]


@dataclass(frozen=True)
class _Plot:
    """The area between two axes, in units of the picture."""

    x: Axis
    y: Axis
    width: int
    height: int
    left: int = 44
    right: int = 12
    top: int = 10
    bottom: int = 36

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y.low) / (self.y.high - self.y.low)
        return (
            round(self.left + min(max(across, 0), 1) * (self.width - self.left - self.right), 1),
            round(self.height - self.bottom - min(max(up, 0), 1) * (self.height - self.top - self.bottom), 1),
        )

    def path(self, points: Points) -> str:
        parts, pen = [], "M"
        for index, (x, y) in enumerate(points):
            if y is None:
                pen = "M"
                continue
            if 0 < index < len(points) - 1 and points[index - 1][1] == y == points[index + 1][1]:
                continue  # on a level stretch
            parts.append("{}{:g} {:g}".format(pen, *self.at(x, y)))
            pen = "L"
        return "".join(parts)

    def grid(self, across: bool = True) -> list[str]:
        """Lines and numbers up the side, and ``across``."""
        (left, bottom), (right, top) = self.at(self.x.low, self.y.low), self.at(self.x.high, self.y.high)
        lines, texts = [], []
        for tick in self.y.ticks:
            _, at = self.at(self.x.low, tick)
            lines.append(f"M{left:g} {at:g}H{right:g}")
            texts.append(_text(left - 5, at + 3.5, number(tick), "end"))
        for tick in self.x.ticks if across else ():
            at, _ = self.at(tick, self.y.low)
            lines.append(f"M{at:g} {bottom:g}V{top:g}")
            texts.append(_text(at, bottom + 14, number(tick), "middle"))
        texts.append(_text((left + right) / 2, self.height - 5, self.x.label, "middle"))
        middle = (top + bottom) / 2
        turned = f' transform="rotate(-90 11 {middle:g})"'
        texts.append(_text(11, middle, self.y.label, "middle", turned))
        return [f'<path class="grid" d="{"".join(lines)}" stroke="{FAINT}" fill="none"/>', *texts]


def line_chart(
    title: str, describes: str, lines: Mapping[str, Points], x: Axis, y: Axis, cursor: float | None = None
) -> Markup:
    """One line a name, with their names above where there are several; ``cursor``: an upright line at this x."""
    plot = _Plot(x, y, 400, 240, top=26 if len(lines) > 1 else 10)
    parts = plot.grid()
    for index, (name, points) in enumerate(lines.items()):
        parts.append(_line(plot.path(points), index))
        if len(lines) > 1:
            left = plot.left + index * 110
            parts.append(_line(f"M{left} 12h22", index) + _text(left + 27, 15.5, name))
    if cursor is not None:
        (at, bottom), (_, top) = plot.at(cursor, y.low), plot.at(cursor, y.high)
        parts.append(f'<path class="cursor" d="M{at:g} {bottom:g}V{top:g}" stroke="{GREY}" stroke-width="1.5"/>')
    return _picture(title, describes, plot, parts)


def pr_curve(
    title: str, describes: str, precision: Sequence[float | None], point: tuple[float, float] | None = None
) -> Markup:
    """Precision at each of 101 recalls, and the recall and precision of an operating ``point``."""
    plot = _Plot(Axis("recall"), Axis("precision"), 230, 180)
    points = [(index / 100, value) for index, value in enumerate(precision)]
    at = plot.at(*point) if point else plot.at(0, 0)
    shown = "" if point else ' visibility="hidden"'
    dot = f'<circle class="point" cx="{at[0]:g}" cy="{at[1]:g}" r="4.5" fill="{COLOURS[1]}" stroke="#fff"{shown}/>'
    return _picture(title, describes, plot, [*plot.grid(), _line(plot.path(points), 0), dot])


def reliability_curve(title: str, describes: str, bins: Sequence[tuple[float | None, float | None, int]]) -> Markup:
    """Of each range of the score its mean, the share that is right, and how many detections are in it."""
    plot = _Plot(Axis("mean score"), Axis("share that is right"), 400, 240)
    known = [(score, right, count) for score, right, count in bins if score is not None and right is not None]
    most = max((count for *_, count in known), default=1)
    parts = [*plot.grid(), _line(plot.path([(0, 0), (1, 1)]), 1), _line(plot.path([row[:2] for row in known]), 0)]
    for score, right, count in known:
        x, y = plot.at(score, right)
        size = 2.5 + 5.5 * math.sqrt(count / most)
        parts.append(f'<circle class="fill-0" cx="{x:g}" cy="{y:g}" r="{size:.2g}" fill="{COLOURS[0]}"/>')
    return _picture(title, describes, plot, parts)


def bars(title: str, describes: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """A bar a row, as long as its number: name, number from 0 on, and what stands behind the bar."""
    plot = _Plot(Axis(""), Axis(""), 400, 8 + 26 * len(rows))
    most = max((value for _, value, _ in rows), default=0) or 1
    parts = []
    for index, (name, value, text) in enumerate(rows):
        top, length = 4 + 26 * index, round(210 * max(value, 0) / most, 1)
        parts.append(_text(108, top + 15, name, "end"))
        parts.append(
            f'<rect class="fill-0" x="114" y="{top + 2}" width="{max(length, 1):g}" height="16" fill="{COLOURS[0]}"/>'
        )
        parts.append(_text(120 + max(length, 1), top + 15, text))
    return _picture(title, describes, plot, parts)


def histogram(
    title: str,
    describes: str,
    edges: Sequence[str],
    counts: Sequence[int],
    label: str,
    solid: Sequence[int] | None = None,
    marks: Sequence[float] = (),
) -> Markup:
    """A column a range.

    Args:
        edges: where each column begins, and the last one ends; or as many as columns: what each is of.
        solid: how much of each column is filled; the rest is an outline. None: all of it.
        marks: pointed out below the axis, in columns from the left.
    """
    plot = _Plot(Axis(label, 0, max(len(counts), 1)), Axis.around("", [0, max(counts, default=0) or 1]), 400, 240)
    (_, bottom), parts = plot.at(0, 0), plot.grid(across=False)
    for index, count in enumerate(counts):
        (x, top), (end, _) = plot.at(index, count), plot.at(index + 1, 0)
        _, filled = plot.at(0, count if solid is None else solid[index])
        frame = f'x="{x + 1.5:g}" width="{end - x - 3:g}"'
        parts.append(
            f'<rect class="line-0" {frame} y="{top:g}" height="{bottom - top:g}" fill="none" stroke="{COLOURS[0]}"/>'
            f'<rect class="fill-0" {frame} y="{filled:g}" height="{bottom - filled:g}" fill="{COLOURS[0]}"/>'
        )
    shift = 0.5 if len(edges) == len(counts) else 0
    for index, edge in enumerate(edges):
        parts.append(_text(plot.at(index + shift, 0)[0], bottom + (18 if marks else 14), edge, "middle"))
    for mark in marks:
        x, _ = plot.at(mark, 0)
        parts.append(f'<path class="fill-1" d="M{x:g} {bottom:g}l-3.5 7h7z" fill="{COLOURS[1]}"/>')
    return _picture(title, describes, plot, parts)


def heat_map(title: str, describes: str, rows: Sequence[Sequence[int]]) -> Markup:
    """A cell a number, the more opaque the larger it is; each says its number."""
    plot = _Plot(Axis(""), Axis(""), 400, 300, 1, 1, 1, 1)
    most, tall, wide = max(map(max, rows)) or 1, 298 / len(rows), 398 / len(rows[0])
    parts = [f'<rect class="grid" x="1" y="1" width="398" height="298" fill="none" stroke="{FAINT}"/>']
    for down, row in enumerate(rows):
        for across, count in enumerate(row):
            place = f'x="{1 + across * wide:.6g}" y="{1 + down * tall:.6g}" width="{wide:.6g}" height="{tall:.6g}"'
            shade = f'fill="{COLOURS[0]}" fill-opacity="{count / most:.3g}"'
            if count:
                parts.append(f'<rect class="fill-0" {place} {shade}><title>{count}</title></rect>')
    return _picture(title, describes, plot, parts)


def number(value: float) -> str:
    """Short, for the side of a chart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):.4g}"


def visible(text: str) -> str:
    """``text`` with the characters written out that are not seen, that turn the text around, or that XML has not."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"\\u{ord(one):04x}" if _is_hidden(one) else one for one in text)


def _is_hidden(character: str) -> bool:
    joins = "\n\t\u200c\u200d"  # lines of a text, and what writes letters or signs together
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in "\ufffe\uffff"
    return hidden and character not in joins


def _picture(title: str, describes: str, plot: _Plot, parts: Sequence[str]) -> Markup:
    (left, bottom), (right, top) = plot.at(plot.x.low, plot.y.low), plot.at(plot.x.high, plot.y.high)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {plot.width} {plot.height}"'
        f' data-plot="{left:g} {right:g} {bottom:g} {top:g}" font-family="system-ui, sans-serif" font-size="11">'
        f"<title>{escape(visible(title))}</title><desc>{escape(visible(describes))}</desc>{''.join(parts)}</svg>"
    )


def _line(path: str, index: int) -> str:
    index %= len(COLOURS)
    return (
        f'<path class="line-{index}" d="{path}" fill="none" stroke="{COLOURS[index]}" stroke-width="2"'
        f' stroke-dasharray="{DASHES[index]}" stroke-linejoin="round"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{GREY}"{more}>{escape(visible(text))}</text>'
