"""The page as a person has it: in Chromium, from a file, with its script and without."""

import copy
import json
import re

import numpy as np
import pytest

from fixtures import findings as made_up
from fixtures.browser import WIDTHS, check_widths_and_access, violations
from fixtures.thresholds import for_precision, for_recall, rates
from resight.reporting.curves import Counts
from resight.reporting.page import page


@pytest.fixture
def opened(in_browser):
    """``opened(findings, thumbnails)``: its page in the browser."""

    def open_page(findings, thumbnails=None, flipped=(), **options):
        if thumbnails is None:
            thumbnails = made_up.pictures(findings["errors"])
        return in_browser(page(findings, thumbnails, flipped), **options)

    return open_page


@pytest.mark.parametrize("name", ["compared", "empty"])
def test_it_fits_every_width_and_has_nothing_that_shuts_anyone_out(opened, name):
    check_widths_and_access(opened(getattr(made_up, name)()))


def shown(text):
    """As a page shows it: what cannot be seen is written out."""
    for bad in "\0\x1b\u202e\ud800\u2028":
        text = text.replace(bad, f"\\u{ord(bad):04x}")
    return text


def test_no_name_is_more_than_a_text(opened):
    findings = made_up.hostile()
    tab = opened(findings)
    assert tab.evaluate("window.broken") is None
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
    names = tab.eval_on_selector_all("#classes tbody th", "all => all.map(one => one.textContent)")
    assert names == [shown(row["name"]) for row in findings["classes"]]
    assert tab.title() == shown(f"{made_up.HOSTILE[0]}, {made_up.HOSTILE[0]}: where the detector fails")
    files = tab.eval_on_selector_all(".card .file", "all => all.map(one => one.textContent)")
    assert files == [shown(one["file"]) for one in findings["errors"]]
    options = tab.eval_on_selector_all("#errors select:first-child option", "all => all.map(o => [o.value, o.text])")
    assert {(value, text) for value, text in options if value.isdigit()} >= {("0", shown(made_up.HOSTILE[0]))}
    assert tab.text_content("pre") == shown(findings["configuration"])
    assert tab.locator("script").count() == 2 and tab.locator("img").count() == len(findings["errors"])
    tab.locator("#confusion [data-cell]").first.click()  # its name is said
    tab.locator("th button").first.click()
    tab.focus("#threshold")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("window.broken") is None


def test_what_the_script_is_given_cannot_end_its_element():
    findings = made_up.small()
    text = page(findings, [])
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert not set("<>&\u2028\u2029") & set(data)
    assert json.loads(data)["all"] == [findings["all"][key] for key in ("objects", "reported", "right")]


def test_a_page_of_hostile_names_can_be_read_by_everyone(opened):
    findings = made_up.hostile()
    count = 20  # of 1,000 classes, in which axe finds what it finds in these, and takes minutes
    findings["classes"] = findings["classes"][:count]
    findings["confusion"]["cells"] = [one for one in findings["confusion"]["cells"] if max(one[:2]) < count]
    findings["errors"], findings["suspects"] = findings["errors"][:9], findings["suspects"][:9]
    for one in [*findings["errors"], *findings["suspects"]]:
        one |= {"object": 1, "found": 2, "cells": []} if "cells" in one else {"label": 1, "other": 2}
    assert violations(opened(findings, []), rules={"color-contrast": {"enabled": False}}) == []


@pytest.fixture
def counts():
    findings = made_up.small()
    tables = [findings["all"], *(row | {"objects": row["boxes"]} for row in findings["classes"])]
    return findings, [Counts(np.array(one["reported"]), np.array(one["right"]), one["objects"]) for one in tables]


def read(tab, place):
    """The six numbers of a row of the threshold explorer."""
    texts = tab.eval_on_selector_all(f"{place} [data-is]", "all => all.map(one => [one.dataset.is, one.textContent])")
    return dict(texts)


def expected(counts, index):
    up = {name: np.nextafter(values[index], 2) for name, values in rates(counts).items()}  # halves go up
    written = {name: "–" if np.isnan(value) else f"{value:.3f}" for name, value in up.items()}
    right, reported = int(counts.right[index]), int(counts.reported[index])
    return written | {"found": str(right), "missed": str(counts.objects - right), "wrong": str(reported - right)}


def test_the_threshold_explorer_says_what_is_counted(opened, counts):
    findings, (total, *classes) = counts
    tab = opened(findings)
    for index in (0, 40, 41, 73, 99, 100):
        tab.evaluate("value => { const s = document.querySelector('#threshold'); s.value = value; }", index)
        tab.dispatch_event("#threshold", "input")
        tab.wait_for_function("text => document.querySelector('output').textContent === text", arg=f"{index / 100:.2f}")
        assert read(tab, "#reading") == read(tab, "#explore .all") == expected(total, index)
        for label, one in enumerate(classes):
            assert read(tab, f"#explore tr[data-class='{label}']") == expected(one, index)
    # The dot of each curve is at that recall and precision.
    tab.evaluate("document.querySelector('#threshold').value = 60")
    tab.dispatch_event("#threshold", "input")
    tab.wait_for_function("document.querySelector('output').textContent === '0.60'")
    for label, one in enumerate(classes):
        item = f"#curves li[data-class='{label}']"
        left, right, bottom, top = map(float, tab.get_attribute(f"{item} svg", "data-plot").split())
        at = [float(tab.get_attribute(f"{item} .point", key)) for key in ("cx", "cy")]
        across, up = rates(one)["recall"][60], rates(one)["precision"][60]
        assert at == pytest.approx([left + across * (right - left), bottom - up * (bottom - top)])


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.999])
def test_its_advice_is_that_of_python(opened, counts, wanted):
    findings, (total, *_) = counts
    tab = opened(findings, [])
    for kind, threshold in (
        ("f1", total.best_f1()),
        ("precision", for_precision(total, wanted)),
        ("recall", for_recall(total, wanted)),
    ):
        tab.click("[data-advice=own]")
        if kind != "f1":
            tab.fill(f"input[type=number] >> nth={['precision', 'recall'].index(kind)}", str(wanted))
        tab.click(f"[data-advice={kind}]")
        assert tab.text_content("output") == f"{0.4 if threshold is None else threshold:.2f}"
        assert bool(tab.text_content("#advised")) == (threshold is None)


def test_without_its_script_it_says_the_same(opened, counts):
    findings, (total, *_) = counts
    tab = opened(findings, java_script_enabled=False)
    text = tab.content()
    at = expected(total, 40)
    assert f'data-is="precision">{at["precision"]}<' in text and f'data-is="wrong">{at["wrong"]}<' in text
    assert tab.locator(".card:visible").count() == len(findings["errors"])


def test_tables_sort_by_keyboard_and_what_is_no_number_comes_last(opened):
    findings = made_up.small()
    for row, ap in zip(findings["classes"], (0.2, None, 0.9), strict=True):
        row["AP"] = ap
    tab = opened(findings, [])
    column = "#classes tbody td:nth-child(2)"
    orders = []
    for _ in range(2):
        tab.focus("#classes th:nth-child(2) button")
        tab.keyboard.press("Enter")
        orders.append(tab.eval_on_selector_all(column, "all => all.map(one => one.textContent)"))
        orders.append(tab.get_attribute("#classes th:nth-child(2)", "aria-sort"))
    assert orders == [["0.900", "0.200", "–"], "descending", ["0.200", "0.900", "–"], "ascending"]
    tab.click("#classes th:first-child button")
    assert tab.text_content("#classes tbody th") == "speed limit"
    assert tab.get_attribute("#classes th:nth-child(2)", "aria-sort") is None


def test_a_class_that_is_called_background_is_not_taken_for_it():
    findings = made_up.small()
    findings["classes"][0]["name"] = "Background"
    text = page(findings, [])
    assert '<th scope="row"><span class="name" title="(background)">(background)<' in text
    assert "(background)" not in page(made_up.small(), [])


def visible(tab):
    return tab.eval_on_selector_all(".card:not([hidden])", "all => all.map(one => one.dataset.at)")


def test_a_cell_of_the_matrix_filters_the_pictures(opened):
    findings = made_up.small()
    both = [list(cell) for cell in dict.fromkeys(tuple(cell) for one in findings["errors"] for cell in one["cells"])][
        :2
    ]
    findings["errors"][-1]["cells"] = both  # a wrong detection of an object that is missed
    tab = opened(findings)
    everything = visible(tab)
    cell = tab.get_attribute(".matrix [data-cell]", "data-cell")
    tab.focus(".matrix [data-cell]")
    tab.keyboard.press("Enter")
    fitting = [at for at in everything if cell in at.split()]
    assert visible(tab) == fitting != everything
    assert tab.get_attribute(f".matrix [data-cell='{cell}']", "aria-pressed") == "true"
    assert tab.evaluate("document.activeElement.id") == "errors-h"
    assert tab.text_content("#shown").startswith(f"{len(fitting)} of {len(everything)} errors, labelled ")
    tab.click("#every")
    assert visible(tab) == everything
    tab.click("#confusion .link >> nth=0")  # the same from the list
    assert all(tab.get_attribute("#confusion .link >> nth=0", "data-cell") in at.split() for at in visible(tab))
    for row, column in both:
        tab.click("#every")
        tab.locator(f".matrix [data-cell='{row},{column}']").click()
        assert everything[-1] in visible(tab) and len(everything[-1].split()) == 2


def test_pictures_are_filtered_by_class_kind_and_size_and_more_are_shown_when_asked(opened):
    findings = made_up.findings(["stop", "yield"], [90, 40], num_errors=120)
    tab = opened(findings, [])
    assert len(visible(tab)) == 48
    tab.press("#more", "Enter")  # by its key: it moves under a pointer while pictures above it are laid out
    assert len(visible(tab)) == 96 and tab.evaluate("document.activeElement.className") == "card"
    tab.press("#more", "Enter")
    assert len(visible(tab)) == 120 and tab.is_hidden("#more")
    errors = findings["errors"]
    tab.select_option("#errors select >> nth=0", "1")
    assert len(visible(tab)) == sum(1 in (one["object"], one["found"]) for one in errors)
    tab.select_option("#errors select >> nth=1", "false alarm")
    fit = [one for one in errors if one["found"] == 1 and one["kind"] == "false alarm"]
    assert len(visible(tab)) == len(fit) > 0
    tab.select_option("#errors select >> nth=2", "large")
    assert len(visible(tab)) == sum(one["size"] > 96 for one in fit)


def test_boxes_lie_where_they_are_in_the_picture(opened):
    findings = made_up.small()
    tab = opened(findings)
    tab.locator(".card").first.scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelector('.card img').naturalWidth > 0")
    for index, one in enumerate(findings["errors"][:6]):
        card = tab.locator(".card").nth(index)
        frame = card.locator(".frame").bounding_box()
        left, top, right, bottom = one["crop"]
        scale = min(frame["width"] / (right - left), frame["height"] / (bottom - top))  # the whole crop is in the frame
        middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
        for kind, box in (("labelled", one["box"]), ("detected", one["found_box"])):
            drawn = card.locator(f"rect.{kind}")
            assert drawn.count() == (box is not None)
            if box is None:
                continue
            at = drawn.evaluate(
                "one => { const r = one.getBBox(), m = one.getScreenCTM(); "
                "return [r.x * m.a + m.e, r.y * m.d + m.f, r.width * m.a, r.height * m.d] }"
            )
            x = middle[0] + (box[0] - (left + right) / 2) * scale
            y = middle[1] + (box[1] - (top + bottom) / 2) * scale
            assert at == pytest.approx([x, y, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale], abs=0.6)


def test_boxes_that_are_none_are_drawn_without_complaint(opened):
    findings = made_up.small()
    shown = made_up.pictures(findings["errors"])
    for one in findings["errors"]:
        one |= {"box": one["box"] and one["box"][::-1], "found_box": one["found_box"] and one["found_box"][::-1]}
    tab = opened(findings, shown)
    assert set(tab.eval_on_selector_all(".card rect", "all => all.map(one => one.getAttribute('width'))")) == {"0"}


def test_where_the_points_are_lost_is_one_table():
    findings = made_up.large()
    text = page(findings, [])
    section = text[text.index('<section id="lost"') : text.index('<section id="reach"')]
    rows = [re.findall(r"<t[dh][^>]*>(?:<bdi[^>]*>)?([^<]*)", row) for row in section.split("<tr")[1:]]
    count, every = len(findings["classes"]), findings["lost"]["all"]
    assert rows[0] == ["Objects", "Number", "Found, IoU .75", "Found, IoU .5 to .75", "Called another class",
                       "Called background", "No proposal", "No anchor", "Stage not known"]  # fmt: skip
    assert rows[1] == ["All", *(str(every[key]) for key in every)] and every["unknown"] == count
    assert [row[0] for row in rows[2:6]] == ["By size", "medium: to 96 × 96 px", "By aspect", rows[5][0]]
    assert rows[5][0].startswith("tall") and len(rows[7:]) == count
    assert f"Of {count} objects the stage is not known" in section and "are shown" not in section
    findings["lost"] = made_up.lost([f"class {number}" for number in range(25)], range(25))
    text = page(findings, [])
    assert "Of the classes the 20 that lose most objects are shown." in text and "class 24<" in text
    assert "class 5<" not in text[text.index('<section id="lost"') : text.index('<section id="reach"')]


def test_the_head_of_a_table_stays_below_the_sections(opened):
    tab = opened(made_up.small())
    tab.evaluate("document.body.style.paddingBottom = '100vh'")
    tab.locator("#classes th button").first.evaluate("one => scrollBy(0, one.getBoundingClientRect().top)")
    on_top = "({ x, y, width, height }) => document.elementFromPoint(x + width / 2, y + height / 2).closest('nav')"
    box = tab.locator("#classes th button").first.bounding_box()
    assert box["y"] < tab.locator("nav").bounding_box()["height"] and tab.evaluate(
        f"box => Boolean(({on_top})(box))", box
    )


def test_what_another_model_finds_is_said_and_shown(opened):
    findings = made_up.compared()
    (other,) = findings["comparison"]["others"]
    tab = opened(findings, [], made_up.pictures(other["flipped"]))
    rows = tab.eval_on_selector_all(
        "#compared tbody tr", "all => all.map(row => [...row.cells].map(c => c.textContent))"
    )
    assert rows[:4] == [
        ["mAP", "0.651", "0.661", "+0.010", "+0.004 to +0.020", "better"],
        ["AP50", "0.631", "0.641", "+0.010", "−0.010 to +0.030", "can be chance"],
        ["AP75", "0.611", "0.621", "+0.010", "−0.030 to −0.010", "worse"],
        ["AP small", "0.591", "0.601", "+0.010", "–", ""],
    ]
    assert [row[3] for row in rows[12:]] == ["+0.196", "−0.021", "+0.005"]
    tab.click("#compared th:nth-child(4) button")
    difference = "#compared .scroll:nth-child(2) tbody td:last-child"
    texts = tab.eval_on_selector_all(difference, "all => all.map(one => one.textContent)")
    assert texts == ["+0.196", "+0.005", "−0.021"]
    assert tab.locator("#compared .flipped img").count() == 2 * len(other["flipped"])
    assert tab.locator("#compared .flipped rect.detected").count() == sum(
        one is not None for row in other["flipped"] for one in row["says"]
    )
    by_other = tab.locator("#compared details >> nth=0").locator(".flipped").all_text_contents()
    assert len(by_other) == sum(one["found_by"] == "other" for one in other["flipped"])
    assert all(re.search(r"This: no detection\s+Other: score 0.90", text) for text in by_other)


def test_all_of_it_is_reached_by_the_tab_key(opened):
    tab = opened(made_up.small(), [])
    wanted = tab.evaluate("""() => {
        const all = [...document.querySelectorAll("a, button, select, input, summary, [tabindex='0']")];
        const open = all.filter(one => one.checkVisibility());
        open.forEach((one, index) => { one.dataset.number = index; });
        return open.length; }""")
    reached = set()
    for _ in range(wanted + 5):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.dataset.number"))
    assert {str(index) for index in range(wanted)} <= reached


def test_what_a_thousand_images_take():
    """Beside its pictures a page is small: what is left of 15 MB for 400 of them."""
    findings = made_up.large()
    assert len(page(findings, [b""] * 400)) < 1_000_000
    budget = (15_000_000 - 1_000_000) // 400 * 3 // 4
    assert len(page(findings, [bytes(budget)] * 400)) < 15_000_000


def test_pictures_that_are_not_there_are_said_to_be_missing(opened):
    findings = made_up.small()
    del findings["errors"][0]["crop"]
    tab = opened(findings, made_up.pictures(findings["errors"][1:2]))
    assert tab.locator(".card").nth(1).text_content().strip().startswith("no picture")
    assert tab.locator(".card img").count() == 1 and tab.locator(".card rect").count() == 0


def test_what_it_is_given_stays_as_it_is():
    findings = made_up.small()
    before = copy.deepcopy(findings)
    assert page(findings, []) == page(findings, [])
    assert findings == before
