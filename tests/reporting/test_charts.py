from xml.etree import ElementTree

import pytest

from fixtures import findings as made_up
from resight.reporting.charts import at_threshold, operating_index, plots


@pytest.mark.parametrize("name", ["small", "hostile", "empty"])
def test_every_chart_is_a_file_of_its_own(name):
    findings = getattr(made_up, name)()
    files = plots(findings)
    with_objects = [row["name"] for row in findings["classes"] if row["objects"]]
    series = (findings["training"] or {"series": {}})["series"]
    assert len(files) == 3 + len(with_objects) + len(series)
    assert all(file == file.strip("./") and file.isascii() and len(file) < 80 for file in files)
    for text in files.values():
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_names_of_files_tell_what_is_in_them():
    files = plots(made_up.small())
    assert {"thresholds.svg", "tide.svg", "calibration.svg", "training_3_mAP_on_val.svg"} <= files.keys()
    assert "Precision by recall of speed limit" in files["precision_recall_0003_speed_limit.svg"]


def test_counts_at_a_threshold():
    counts = {"objects": 10, "reported": [0] * 50 + [8] + [0] * 50, "right": [0] * 50 + [6] + [0] * 50}
    expected = {"precision": 0.75, "recall": 0.6, "f1": 12 / 18, "found": 6, "missed": 4, "wrong": 2}
    assert at_threshold(counts, 50) == expected
    assert at_threshold(counts, 0)["precision"] is None
    assert at_threshold(counts | {"objects": 0}, 0)["f1"] is None


@pytest.mark.parametrize(("score", "index"), [(0.4, 40), (0.857, 86), (0.0, 0), (1.0, 100)])
def test_the_operating_point_has_its_place_among_the_thresholds(score, index):
    assert operating_index({"operating_point": {"score": score}}) == index
