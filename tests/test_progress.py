import io
import json
import logging
import sys

import pytest

from resight import progress
from resight.console import listen
from resight.progress import meter, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def logging_as_before():
    log = logging.getLogger("resight")
    before = (log.handlers, log.propagate, log.level)
    yield
    log.handlers, log.propagate = before[0], before[1]
    log.setLevel(before[2])


@pytest.fixture
def talkative(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


def test_items_pass_unchanged_however_it_speaks(talkative, capsys):
    for settings in ({}, {"quiet": True}, {"as_json": True}):
        listen(**settings)
        assert list(track(iter("abc"), "reading")) == ["a", "b", "c"]


def test_lines_say_how_far_it_is(talkative, capsys):
    listen()
    list(track(range(4), "reading"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"reading: {n} of 4 ({n / 4:.0%})" for n in (1, 2, 3, 4)]
    assert lines[-1].endswith("0:00 left")


def test_an_unknown_total_is_only_counted(talkative, capsys):
    listen()
    list(track(iter(range(2)), "reading"))
    assert capsys.readouterr().err.splitlines() == ["reading: 1", "reading: 2"]


def test_json_lines_carry_the_numbers_even_on_a_terminal(talkative, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    listen(as_json=True)
    with meter("training", total=10) as bar:
        bar.advance(5, note="loss 0.3")
    (line,) = [json.loads(text) for text in sys.stderr.getvalue().splitlines()]
    assert {"progress": "training", "done": 5, "total": 10, "note": "loss 0.3", "level": "info"}.items() <= line.items()


def test_short_loops_and_quiet_ones_say_nothing(monkeypatch, capsys):
    listen()
    list(track(range(3), "reading"))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    listen(quiet=True)
    list(track(range(3), "reading"))
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_with_messages_above_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    listen()
    with meter("training [1/2]", total=4) as bar:
        bar.advance(4, note="loss [0.3]")
        logging.getLogger("resight.training").info("saved")
    shown = sys.stderr.getvalue()
    assert "training [1/2]" in shown and "100%" in shown and "loss [0.3]" in shown
    assert "saved\n" in shown


def test_an_error_in_the_loop_passes_through(talkative, capsys):
    listen()
    with pytest.raises(ZeroDivisionError):
        for item in track([1, 0], "reading"):
            1 / item
