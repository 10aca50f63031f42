"""The three files of a report, a page, its numbers and suspicious labels: where they lie, and whose they are."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ResightError
from ..io.files import open_file
from ..io.outputs import atomic_folder, check_file, check_local, check_output, write_text

_PAGE = re.compile(r'.{0,500}<meta name="generator" content="resight (data )?report">', re.S)
# How each file begins, by its suffix.
_OURS = {
    ".html": _PAGE,
    ".htm": _PAGE,
    ".json": re.compile(r'\{\s*"version": 1,\s*"resight":'),
    ".svg": re.compile(r'<svg xmlns="[^"]*" role="img" [^>]* data-plot="'),
    ".csv": re.compile("kind,file,(group|split),"),
}
# What spreadsheets take for a formula, but for a negative number.
_FORMULA = re.compile(r"[=+@\t\r]|-(?![\d.]+$)")


class ReportFiles(NamedTuple):
    """The page, and beside it under its name the numbers and the suspects."""

    page: Path
    numbers: Path
    suspects: Path

    @classmethod
    def at(cls, page: str | os.PathLike[str], force: bool) -> ReportFiles:
        """Raises ResightError: ``page`` is no name of a page; a file exists and ``force`` is off, or is not ours; or it
        cannot be written."""
        check_local(page)
        page = Path(page)
        if page.suffix.lower() not in (".html", ".htm"):
            name = page.name or "report"
            raise ResightError("is no name of an HTML page", where=page, fix=f"Name it {name}.html, for example.")
        files = cls(page, page.with_suffix(".json"), page.with_name(f"{page.stem}-suspects.csv"))
        for path in files:
            check_file(path, force, is_ours)
        return files

    def write(self, page: str, numbers: Mapping[str, Any], suspects: str) -> None:
        """Each file whole or not at all, the page last. Raises ResightError."""
        write_text(self.numbers, json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        write_text(self.suspects, suspects)
        write_text(self.page, page)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table for spreadsheets: names that would be formulas there, which other people chose, begin with an apostrophe.
    What ``rows`` have besides ``columns`` is left out."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: f"'{cell}" if _FORMULA.match(str(cell)) else cell for key, cell in row.items()})
    return text.getvalue()


def check_charts(folder: str | os.PathLike[str] | None, force: bool) -> None:
    """Raises ResightError: the folder for charts, if there is to be one, holds something and ``force`` is off, or what
    is not ours."""
    if folder is not None:
        check_output(folder, force, is_ours)


def write_charts(folder: str | os.PathLike[str] | None, force: bool, charts: Mapping[str, str]) -> None:
    """Writes SVG files by their names. Raises ResightError."""
    if folder is not None:
        with atomic_folder(folder, force, is_ours) as partial:
            for name, chart in charts.items():
                (partial / name).write_text(chart, encoding="utf-8", errors="backslashreplace")


def is_ours(path: Path) -> bool:
    """Whether Resight wrote the file as a page, the numbers, the suspects or a chart of a report."""
    try:
        with open_file(path) as file:
            head = file.read(2000).decode("utf-8", "replace")
    except (ResightError, OSError):
        return False
    beginning = _OURS.get(path.suffix.lower())
    return beginning is not None and beginning.match(head) is not None
