import json

import pytest

from resight.errors import ResightError
from resight.io.parts import Part, all_parts, find_part, part_data, part_of, settings_of, writing


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """``environment(NAME=value)``, with nothing of an array of jobs beside it."""
    import os

    def put(**values):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "AWS_BATCH", "RANK", "WORLD_SIZE"))]:
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    put()
    return put


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("total", [0, 1, 6, 7, 100, 1001])
def test_parts_are_all_of_it_in_order_and_equally_long(count, total):
    spans = [Part(number, count).of(total) for number in range(1, count + 1)]
    assert [index for span in spans for index in span] == list(range(total))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"AWS_BATCH_JOB_ARRAY_INDEX": 0, "AWS_BATCH_JOB_ARRAY_SIZE": 7}, (1, 7)),
        ({"SLURM_ARRAY_TASK_ID": 6, "_MIN": 0, "_MAX": 6, "_COUNT": 7}, (7, 7)),
        ({"SLURM_ARRAY_TASK_ID": 3, "_MIN": 1, "_MAX": 7, "_COUNT": 7}, (3, 7)),
        ({"SLURM_ARRAY_TASK_ID": 14, "_MIN": 10, "_MAX": 16, "_COUNT": 4}, (3, 4)),
        ({"SLURM_ARRAY_TASK_ID": 5, "_MIN": 5, "_MAX": 5, "_COUNT": 1}, (1, 1)),
        ({"RANK": 2, "WORLD_SIZE": 3}, (3, 3)),
        ({"RANK": 0, "WORLD_SIZE": 1, "AWS_BATCH_JOB_ARRAY_INDEX": 4, "AWS_BATCH_JOB_ARRAY_SIZE": 7}, (5, 7)),
        ({"RANK": 0, "WORLD_SIZE": 1}, (1, 1)),
    ],
)
def test_an_array_of_jobs_says_which_part_it_is(environment, variables, part):
    environment(**{f"SLURM_ARRAY_TASK{name}" if name[0] == "_" else name: value for name, value in variables.items()})
    assert part_of("auto") == Part(*part)
    assert part_of("2/9") == Part(2, 9)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "nothing in the environment"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": 0}, "AWS_BATCH_JOB_ARRAY_SIZE is not set"),
        ({"RANK": "x", "WORLD_SIZE": 3}, "RANK is 'x'"),
        ({"RANK": 3, "WORLD_SIZE": 3}, "no part 4 of 3"),
        (
            {"RANK": 0, "WORLD_SIZE": 2, "AWS_BATCH_JOB_ARRAY_INDEX": 4, "AWS_BATCH_JOB_ARRAY_SIZE": 7},
            "contradicts itself: RANK says 1/2, AWS_BATCH_JOB_ARRAY_INDEX says 5/7",
        ),
        ({"SLURM_ARRAY_TASK_ID": 9, "_MIN": 1, "_MAX": 9, "_COUNT": 3}, ""),  # 1, 5, 9
        ({"SLURM_ARRAY_TASK_ID": 2, "_MIN": 1, "_MAX": 9, "_COUNT": 3}, "not evenly spaced"),  # 1, 2, 9
        ({"SLURM_ARRAY_TASK_ID": 9, "_MIN": 1, "_MAX": 10, "_COUNT": 3}, "not evenly spaced"),
    ],
)
def test_an_array_of_jobs_that_cannot_be_divided_is_refused(environment, variables, words):
    environment(**{f"SLURM_ARRAY_TASK{name}" if name[0] == "_" else name: value for name, value in variables.items()})
    if not words:
        assert part_of("auto") == Part(3, 3)
        return
    with pytest.raises(ResightError, match=words):
        part_of("auto")


def leave(place, number, count=3, text="", **settings):
    part = Part(number, count)
    settings = settings_of("test", part, **settings)
    with writing(str(place), part, ".txt", settings) as (path, about):
        path.write_text(text or f"part {number}\n")
        about["lines"] = 1
    return find_part(str(place), part, ".txt", settings, False)


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "parts")
    return f"s3://{request.getfixturevalue('s3').bucket}/parts"


def test_what_is_left_is_found(place):
    assert find_part(place, Part(1, 3), ".txt", {}, False) is None
    heads = [leave(place, number, model="a") for number in (2, 3, 1)]
    assert [head["part"][-10:] for head in heads] == ["2-of-00003", "3-of-00003", "1-of-00003"]
    parts = all_parts(place, "test")
    assert parts == sorted(heads, key=lambda head: head["part"]) and parts[0]["lines"] == 1
    text = ""
    for head in parts:
        with part_data(place, head, ".txt") as path:
            text += path.read_text()
    assert text == "part 1\npart 2\npart 3\n"


def test_missing_and_foreign_parts_are_named(place):
    with pytest.raises(ResightError, match=r"holds no part|cannot be read"):
        all_parts(place, "test")
    leave(place, 1, model="a")
    leave(place, 3, model="a")
    with pytest.raises(ResightError, match="1 of the 3 parts are not done: part-00002-of-00003"):
        all_parts(place, "test")
    leave(place, 2, model="b")
    with pytest.raises(ResightError, match="several jobs: part-00002-of-00003 of another model"):
        all_parts(place, "test")
    leave(place, 2, model="a")
    leave(place, 4, 5, model="a")
    with pytest.raises(ResightError, match="several jobs: part-00004-of-00005"):
        all_parts(place, "test")
    with pytest.raises(ResightError, match="holds parts of another command than `resight another`"):
        all_parts(place, "another")


def test_what_lies_deeper_is_no_part_of_it(place):
    leave(f"{place}/older", 1, 2, model="a")
    leave(place, 1, 1, model="b")
    assert [head["part"] for head in all_parts(place, "test")] == ["part-00001-of-00001"]


def test_a_part_whose_data_are_not_those_that_were_written_is_none(tmp_path):
    head = leave(tmp_path, 1)
    settings = head["settings"]
    (tmp_path / "part-00001-of-00003.txt").write_text("part 2\n")
    with pytest.raises(ResightError, match="is damaged"), part_data(str(tmp_path), head, ".txt"):
        pass
    (tmp_path / "part-00001-of-00003.txt").unlink()
    assert find_part(str(tmp_path), Part(1, 3), ".txt", settings, False) is None
    with pytest.raises(ResightError, match="cannot be read"), part_data(str(tmp_path), head, ".txt"):
        pass


HUGE = json.dumps({"part": "part-00001-of-00003", "settings": {"parts": 10**9}, "bytes": 1, "sha256": ""})


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", json.dumps({"part": 1}), "[" * 100_000, HUGE])
def test_a_head_of_something_else_is_told(tmp_path, text):
    (tmp_path / "part-00001-of-00003.json").write_text(text)
    for ask in (lambda: find_part(str(tmp_path), Part(1, 3), ".txt", {}, False), lambda: all_parts(str(tmp_path), "x")):
        with pytest.raises(ResightError, match=r"part-00001-of-00003\.json"):
            ask()
