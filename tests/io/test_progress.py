import io
import json
import logging
import re
import sys

import pytest

from resight.io import progress
from resight.io.progress import duration, listen, meter, track


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


def test_a_loop_that_knows_better_tells_what_is_left_and_the_share_of_its_time(talkative, monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    listen()
    with meter("training", total=60) as bar:
        bar.advance(30, "step 30/60")  # goes on where another one stopped
        now[0] += 15
        bar.advance(1, "step 31/60", left=45.0)
        now[0] += 5
        bar.advance(0, "step 31/60, evaluating 1/9", left=60.0)
    shown = capsys.readouterr().err.splitlines()
    assert shown[1] == "training: 62%, 0:45 left, step 31/60"
    assert shown[2].startswith("training: 62%, 1:00 left, step 31/60, evaluating")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_keeps_to_one_line(width, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    listen()
    with meter("training", total=5000) as bar:
        bar.advance(1234, "step 1,234/5,000, epoch 12.3/40, loss 0.312, rate 2.5e-04, 12.3 images/s", left=3723.0)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sys.stderr.getvalue()).replace("\r", "\n").splitlines()
    shown = [line for line in lines if line.strip()]
    assert all(len(line) <= width for line in shown)
    assert "1:02:03 left step 1,234/5,000" in shown[-1] or width == 60


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (57060, "15 h 51 min"), (7200, "2 h"), (185000, "2 d 3 h")],
)
def test_a_duration_is_said_as_people_say_it(seconds, said):
    assert duration(seconds) == said


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
