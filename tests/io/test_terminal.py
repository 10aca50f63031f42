import io

import pytest

from resight.io.terminal import fitted


class Terminal(io.StringIO):
    def isatty(self):
        return True


NOTE = "note      18% of the boxes are smaller than 16 px at training size: --size 768,1280 helps"


@pytest.fixture
def at(monkeypatch):
    def of(width, text):
        monkeypatch.setenv("COLUMNS", str(width))
        return fitted(text, Terminal()).split("\n")

    return of


@pytest.mark.parametrize("width", [40, 60, 80])
def test_lines_break_between_words_and_go_on_under_their_text(at, width):
    lines = at(width, f"head\n{NOTE}")
    assert all(len(line) <= width for line in lines)
    assert lines[0] == "head" and all(line.startswith(" " * 10) for line in lines[2:])
    assert " ".join(" ".join(lines[1:]).split()) == " ".join(NOTE.split())


def test_a_line_that_fits_a_long_word_and_a_command_stay_whole(at):
    for text in ("a  table   of numbers", "/a/path/" * 20, f"Next: resight train --data {'records ' * 9}"):
        assert at(60, text) == [text]
    assert at(60, f"  resight train --resume -o {'x' * 60}") == [f"  resight train --resume -o {'x' * 60}"]


def test_what_is_no_terminal_or_has_no_width_gets_the_text_as_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert fitted(NOTE, io.StringIO()) == fitted(NOTE, None) == NOTE
    monkeypatch.delenv("COLUMNS")
    assert fitted(NOTE, Terminal()) == NOTE  # it has no descriptor
