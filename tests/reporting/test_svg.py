import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.reporting import svg
from resight.reporting.svg import Axis

SPACE = "{http://www.w3.org/2000/svg}"
HOSTILE = """<script>alert("1")</script>&'"""


def parts(chart, name, of_class=None):
    found = ElementTree.fromstring(chart).iter(SPACE + name)
    return [one for one in found if of_class is None or one.get("class") == of_class]


def corners(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path.get("d"))]


def frame(chart):
    return [float(number) for number in ElementTree.fromstring(chart).get("data-plot").split()]


@pytest.mark.parametrize(
    "chart",
    [
        svg.line_chart(HOSTILE, HOSTILE, {HOSTILE: [(0, 1)], "b": []}, Axis(HOSTILE), Axis("y"), cursor=0.5),
        svg.pr_curve(HOSTILE, HOSTILE, [None] * 101),
        svg.reliability_curve(HOSTILE, HOSTILE, [(None, None, 0)]),
        svg.bars(HOSTILE, HOSTILE, [(HOSTILE, 0.0, HOSTILE)]),
        svg.bars(HOSTILE, HOSTILE, []),
    ],
)
def test_a_chart_is_a_file_that_says_in_words_what_it_shows(chart):
    root = ElementTree.fromstring(chart)
    assert (root.tag, root.get("role")) == (SPACE + "svg", "img")
    assert [root[0].tag, root[0].text, root[1].tag, root[1].text] == [SPACE + "title", HOSTILE, SPACE + "desc", HOSTILE]
    assert not list(root.iter(SPACE + "script")) and all(node.get("href") is None for node in root.iter())


def test_what_xml_has_no_character_for_is_written_out():
    name = "a\0b\x1b\ud800\u202e\uffff"
    chart = svg.pr_curve(name, name, [1.0] * 101)
    shown = "a\\u0000b\\u001b\\ud800\\u202e\\uffff"
    assert [ElementTree.fromstring(chart)[number].text for number in (0, 1)] == [shown, shown]
    assert svg.visible("naïve 名前\n\tשם 👩\u200d🚒") == "naïve 名前\n\tשם 👩\u200d🚒"


def test_a_line_goes_through_its_points_and_has_gaps():
    points = [(0, 0), (2, 0.5), (4, None), (6, 1), (8, 0)]
    chart = svg.line_chart("t", "d", {"a": points}, Axis("x", 0, 8), Axis("y"))
    left, right, bottom, top = frame(chart)
    (line,) = parts(chart, "path", "line-0")
    expected = [(left + x / 8 * (right - left), bottom - y * (bottom - top)) for x, y in points if y is not None]
    assert corners(line) == [pytest.approx(point, abs=0.06) for point in expected]
    assert line.get("d").count("M") == 2


def test_what_lies_outside_ends_at_the_border():
    chart = svg.line_chart("t", "d", {"a": [(-1, 2), (3, -4)]}, Axis("x"), Axis("y"))
    left, right, bottom, top = frame(chart)
    assert corners(parts(chart, "path", "line-0")[0]) == [(left, top), (right, bottom)]


def test_lines_differ_by_more_than_their_colour():
    chart = svg.line_chart("t", "d", {name: [(0, 0), (1, 1)] for name in "abc"}, Axis("x"), Axis("y"))
    dashes = [{one.get("stroke-dasharray") for one in parts(chart, "path", f"line-{index}")} for index in range(3)]
    assert all(len(one) == 1 for one in dashes) and len(set.union(*dashes)) == 3
    assert {"a", "b", "c"} <= {one.text for one in parts(chart, "text")}


def test_the_cursor_and_the_operating_point_are_where_they_are_asked_for():
    chart = svg.line_chart("t", "d", {"a": []}, Axis("x"), Axis("y"), cursor=0.25)
    left, right, _, _ = frame(chart)
    (cursor,) = parts(chart, "path", "cursor")
    assert cursor.get("d").startswith(f"M{left + (right - left) / 4:g} ")
    chart = svg.pr_curve("t", "d", [1.0] * 51 + [0.0] * 50, (0.5, 0.75))
    left, right, bottom, top = frame(chart)
    (point,) = parts(chart, "circle")
    at = left + (right - left) / 2, bottom - 0.75 * (bottom - top)
    assert [float(point.get(key)) for key in ("cx", "cy")] == pytest.approx(at, abs=0.06)
    assert parts(svg.pr_curve("t", "d", [1.0] * 101), "circle")[0].get("visibility") == "hidden"


def test_level_stretches_are_drawn_by_their_ends():
    (line,) = parts(svg.pr_curve("t", "d", [1.0] * 51 + [0.0] * 50), "path", "line-0")
    assert len(corners(line)) == 4


def test_reliability_leaves_out_empty_ranges_and_draws_larger_what_counts_more():
    chart = svg.reliability_curve("t", "d", [(0.1, 0.2, 5), (None, None, 0), (0.9, 0.7, 500)])
    small, large = parts(chart, "circle")
    assert float(small.get("r")) < float(large.get("r"))


def test_bars_are_as_long_as_their_numbers():
    chart = svg.bars("t", "d", [("a", 0.4, "+0.4"), ("b", 0.1, "+0.1"), ("c", -0.2, "-0.2")])
    lengths = [float(one.get("width")) for one in parts(chart, "rect")]
    assert lengths[0] == 4 * lengths[1] and lengths[2] == 1
    assert {"a", "+0.4", "c", "-0.2"} <= {one.text for one in parts(chart, "text")}


finite = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9)


@given(st.lists(finite, max_size=5))
def test_an_axis_has_room_for_its_values_and_few_round_ticks(values):
    axis = Axis.around("x", values)
    span = axis.high - axis.low
    assert span > 0
    assert all(axis.low - span * 1e-6 <= value <= axis.high + span * 1e-6 for value in values)
    assert 2 <= len(axis.ticks) <= 7


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.02, 2.2], [0, 0.5, 1, 1.5, 2, 2.5]),
        ([18.7, 23.1], [18, 20, 22, 24]),
        ([5, 5], [2, 4, 6, 8]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_of_ordinary_numbers(values, ticks):
    axis = Axis.around("x", values)
    assert axis.ticks == pytest.approx(ticks)
    assert (axis.low, axis.high) == pytest.approx((ticks[0], ticks[-1]))


@pytest.mark.parametrize(
    ("value", "text"), [(0.1 + 0.2, "0.3"), (0, "0"), (1e-5, "1e-05"), (2000, "2,000"), (-0.25, "-0.25")]
)
def test_numbers_are_short(value, text):
    assert svg.number(value) == text


def test_a_histogram():
    chart = svg.histogram("A <title>", "says", ["0", "4", "8"], [3, 10], "px", solid=[1, 10], marks=[0.5])
    assert "A &lt;title&gt;" in chart and chart.count("<rect") == 4 and chart.count("l-3.5 7h7z") == 1
    outline, filled = (float(height) for height in re.findall(r'height="([\d.]+)"', chart)[:2])
    assert filled == pytest.approx(outline / 3, abs=0.1)
    centred = svg.histogram("t", "d", ["a", "b"], [0, 0], "px")
    assert ">a</text>" in centred and "nan" not in centred


def test_a_heat_map():
    chart = svg.heat_map("Title", "says", [[0, 2], [4, 0]])
    assert re.findall(r'fill-opacity="([\d.]+)"><title>(\d)', chart) == [("0.5", "2"), ("1", "4")]
    assert svg.heat_map("Title", "says", [[0]]).count("fill-opacity") == 0
