import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fixtures.scenes import found, objects, saved
from resight.reporting.errors import Error
from resight.reporting.gallery import MOST, OF_A_KIND, pictures, shown


def errors(kind, count, cost):
    return [Error(kind, number, 0, None, 0.0, cost - number * 1e-6, ()) for number in range(count)]


def test_of_each_cell_of_the_matrix_some_are_shown():
    many = [Error("missed", number, 0, None, 0.0, 1 - number * 1e-6, ((number // 500, -1),)) for number in range(1500)]
    count = Counter(one.cells for one in shown(many))
    assert count == {((0, -1),): MOST - 4, ((1, -1),): 2, ((2, -1),): 2}


def test_the_costliest_are_shown_and_some_of_every_kind():
    many = [*errors("missed", 500, 1.0), *errors("double", 100, 0.1), *errors("both", 3, 0.01)]
    told = shown(many)
    assert len(told) == MOST
    count = {kind: sum(one.kind == kind for one in told) for kind in ("missed", "double", "both")}
    assert count == {"missed": MOST - OF_A_KIND - 3, "double": OF_A_KIND, "both": 3}
    assert [one.cost for one in told] == sorted((one.cost for one in told), reverse=True)
    assert told[:300] == many[:300]
    assert shown(many[:7]) == many[:7]


@pytest.fixture
def split(shapes):
    from resight.records.reader import open_records

    return open_records(shapes(val=3, broken=1)).splits["val"]


def test_an_image_that_cannot_be_read_has_no_picture_and_is_named(split):
    count = len(split)
    evaluation = saved([objects((0, 5, 5, 20, 20))] * count, [found()] * count)
    for name, axis in (("width", 0), ("height", 1)):
        evaluation.images[name][:] = split.sizes[:, axis]
    rows = [{"image": number, "box": [5.0, 5.0, 20.0, 20.0], "found_box": None} for number in range(count)]
    given, problems = pictures(rows, evaluation, split)
    assert [bool(one) for one in given].count(False) == len(problems) == 1
    assert str(split.shards[0]) in problems[0]
    shown = np.asarray(Image.open(io.BytesIO(next(filter(None, given)))))
    left, top, right, bottom = rows[0]["crop"]
    assert shown.shape[:2] == (bottom - top, right - left)


def test_without_the_records_the_crops_are_told_all_the_same():
    evaluation = saved([objects((0, 5, 5, 20, 20))], [found()])
    rows = [{"image": 0, "box": None, "found_box": [5.0, 5.0, 20.0, 20.0]}]
    assert pictures(rows, evaluation, None) == ([b""], []) and len(rows[0]["crop"]) == 4
