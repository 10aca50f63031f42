import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fixtures.browser import check_widths_and_access
from fixtures.photographs import columns, photograph, picture
from resight import Annotation, Box
from resight.dialect import load_config
from resight.reporting import thumbnails
from resight.reporting.data_page import data_page
from resight.reporting.data_report import describe
from resight.reporting.data_suspects import ONCE, SIZE, TWICE

MODEL = load_config().model
HOSTILE = (
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>' + "long" * 500, "</style><b>", "{{ 7 * 7 }}",
    "\u202eabc", "\x00\x1b[31m", "' onmouseover='alert(1)", "line\nbreak", "\ud800",
)  # fmt: skip


class Page(HTMLParser):
    """Elements with their attributes, and the text that is read."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.silent = [], [], 0
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.silent += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)


def made(images, classes=(), near=True):
    data = columns(images, classes)
    numbers = describe(data, "data", MODEL, duplicates=near)
    text = data_page(numbers, data)
    return Page(text), numbers, text


def pictures(page):
    return [attributes for tag, attributes in page.elements if tag == "img"]


def test_what_it_shows():
    stop = Box("stop", 10, 10, 50, 50)
    images = [
        picture(0, stop, Box("stop", 10, 10, 50, 51), split="train", group="drive 1"),
        picture(1, Box("go", 10, 10, 50, 50), split="test", seed=0, group="drive 1"),
        picture(2, split="test"),
    ]
    page, numbers, _ = made(images)
    said = re.sub(" (?=[:,])", "", page.text)
    for words in (
        numbers["sentence"],
        "Labelled differently: 1",
        "go here, stop in 0.jpg, which looks the same",
        "Two boxes on one object: 1",
        "1 image of val or test has",
        "Near-duplicate: test 1.jpg, train 0.jpg",
        "drive 1 2 3 train, test",
        "Images without boxes 1 in all.",
    ):
        assert words in said, words
    # Two of labels, one of the doubled box, two pairs that leak, one without boxes, an example of each box.
    assert len(pictures(page)) == 2 + 1 + 2 + 4 + 1 + 3


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_more_than_text(name):
    images = [
        picture(0, Box(name, 10, 10, 50, 50), Box(name, 10, 10, 50, 51), split="train"),
        Annotation(photograph(0), [Box("b", 10, 10, 50, 50)], 160, 120, name, name, name, "test", name),
    ]
    page, _, text = made(images)
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("script"), tags.count("style")) == (1, 1) and "49" not in page.text.split()
    assert not [(tag, key) for tag, attributes in page.elements for key in attributes if key.startswith("on")]
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in pictures(page))
    assert not re.search("[\x00\x1b\u202e]", text)
    text.encode()


@pytest.mark.parametrize(
    ("images", "classes"),
    [
        ([Annotation(photograph(n), [], 160, 120, f"{n}.jpg") for n in range(2)], ()),
        ([Annotation(photograph(n), [], 160, 120, f"{n}.jpg") for n in range(2)], ("a", "b")),
        ([picture(0, Box("a", 10, 10, 50, 50))], ()),
        ([picture(0, Box("a", 10, 10, 50, 50, crowd=True))], ()),
        ([Annotation(photograph(0, 1, 1), [Box("a", 0, 0, 1, 1)], 1, 1, "dot.jpg")], ()),
        ([Annotation(b"damaged", [Box("a", 10, 10, 50, 50)], 160, 120, "x.jpg")], ()),
    ],
    ids=["no box and no class", "no box", "one class", "crowds alone", "one pixel", "damaged"],
)
def test_of_little_data(images, classes):
    page, numbers, _ = made(images, classes)
    assert numbers["sentence"] in page.text and "nan" not in page.text


def test_a_thousand_classes():
    names = [f"class {n:04}" for n in range(1000)]
    images = [picture(n, *(Box(name, 9, 9, 99, 99) for name in names[n::4]), split="train") for n in range(4)]
    page, numbers, text = made(images)
    assert len(numbers["classes"]) == 1000 and all(name in text for name in names)
    assert len(pictures(page)) == 300 and len(text) < 3e6


def test_pictures_are_within_their_budget(monkeypatch):
    monkeypatch.setattr(thumbnails.thumbnails, "__defaults__", (2_000,))
    rng = np.random.default_rng(0)
    images = [picture(n, *(Box("a", x, 9, x + 20, 29) for x in rng.integers(0, 130, 3))) for n in range(40)]
    page, _, text = made(images)
    shown = sum(len(one["src"]) for one in pictures(page))
    assert 0 < shown < 2_000 * 4 / 3 + 100 * len(pictures(page)) and "no picture" in page.text
    assert len(text) < 150_000


def test_in_a_browser(in_browser):
    """Every part of it, with names that would do something if they were more than text."""
    hostile = HOSTILE[1]
    boxes = [Box(hostile, 10, 10, 50, 50), Box(hostile, 10, 10, 50, 51), Box("b", 1, 1, 30, 30)]
    images = [
        picture(0, *boxes, split="train", group=hostile),
        Annotation(photograph(0), boxes[2:], 160, 120, hostile, hostile, hostile, "test", hostile),
        *(picture(n, Box("c", 10, 10, 30, 30)) for n in range(2, 24)),
        picture(24, Box("c", 10, 10, 110, 110)),
        picture(30),
    ]
    _, numbers, text = made(images)
    assert {row["kind"] for row in numbers["suspects"]} >= {TWICE, ONCE, SIZE}
    tab = in_browser(text)
    check_widths_and_access(tab)
    names = "#classes tbody th .name"
    tab.set_viewport_size({"width": 1280, "height": 800})
    before = tab.eval_on_selector_all(names, "all => all.map(one => one.textContent)")
    tab.get_by_role("button", name="Boxes").first.press("Enter")
    after = tab.eval_on_selector_all(names, "all => all.map(one => one.textContent)")
    assert before == [hostile, "b", "c"] and after == ["c", hostile, "b"]
