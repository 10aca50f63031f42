import csv
import io

import pytest

from fixtures import findings as made_up
from resight.errors import ResightError
from resight.reporting.charts import tide
from resight.reporting.files import ReportFiles, csv_text, is_ours
from resight.reporting.page import page


def test_its_own_files_are_known(tmp_path):
    for name, content, ours in (
        ("a.html", page(made_up.small(), []), True),
        ("a.htm", '<!doctype html><meta name="generator" content="resight data report">', True),
        ("b.html", "<!doctype html><p>", False),
        ("c.json", '{\n "version": 1,\n "resight": "0.1.0",', True),
        ("d.json", '{"version": 1}', False),
        ("e.csv", "kind,file,split,label,xmin,ymin\r\n", True),
        ("f.csv", "filename,class\n", False),
        ("f.svg", tide([]), True),
        ("g.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>', False),
        ("g", "", False),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert is_ours(tmp_path / name) == ours, name
    assert not is_ours(tmp_path)


@pytest.mark.parametrize("name", ["page", "page.json", "page.csv"])
def test_what_is_no_page_is_refused(tmp_path, name):
    with pytest.raises(ResightError, match=rf"{name}: is no name of an HTML page(.|\n)*Name it {name}.html"):
        ReportFiles.at(tmp_path / name, False)


def test_names_are_no_formulas_in_a_spreadsheet():
    names = ["=1+1", "+a", "-a", "@a", "\tb", "-1.5", "-", "a=b", 'x"y,z', None, -2.5]
    text = csv_text(("name", "other"), [{"name": name, "other": 1, "more": 2} for name in names])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    shown = ["'=1+1", "'+a", "'-a", "'@a", "'\tb", "-1.5", "'-", "a=b", 'x"y,z', "", "-2.5"]
    assert rows == [["name", "other"], *([name, "1"] for name in shown)]


def test_an_address_in_a_store_is_told_as_it_is():
    with pytest.raises(ResightError, match=r"^s3://bucket/page\.html: this output must be local"):
        ReportFiles.at("s3://bucket/page.html", False)


def test_files_of_others_beside_the_page_are_not_replaced_either(tmp_path):
    files = ReportFiles.at(tmp_path / "page.html", False)
    (tmp_path / "page.json").write_text("{}")
    for force, says in ((False, "page.json: exists already"), (True, "page.json: was not written by Resight")):
        with pytest.raises(ResightError, match=says):
            ReportFiles.at(tmp_path / "page.html", force)
    (tmp_path / "page.json").unlink()
    files.write(
        '<!doctype html><meta name="generator" content="resight report">',
        {"version": 1, "resight": "1"},
        "kind,file,group,",
    )
    assert ReportFiles.at(tmp_path / "page.html", True) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page-suspects.csv", "page.html", "page.json"]
