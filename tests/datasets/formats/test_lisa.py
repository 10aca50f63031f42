"""LISA's tables: one annotation per frame, groups of tracks, and every bad line named."""

from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight.datasets.formats import lisa, read_source
from resight.datasets.formats.dataset_dir import DatasetDir
from resight.datasets.inspect import inspect
from resight.errors import ResightError

HEADER = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
    "Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number"
)


def row(frame, label="stop", box=(1, 2, 30, 40), flags="0,0", video="vid0/a.avi", number=10, track="stop_1.avi"):
    return ";".join(map(str, [frame, label, *box, flags, video, number, track, 2]))


def table(*rows):
    return "\n".join([HEADER, *rows, ""])


def test_one_annotation_per_frame_with_all_its_boxes(tmp_path, put, images):
    images("vid0/ann/f0.png", "vid0/ann/f1.png")
    put("allAnnotations.csv", table(
        row("vid0/ann/f0.png"), row("vid0/ann/f1.png"), row("vid0/ann/f0.png", "yield", (5, 6, 7.5, 8))
    ))  # fmt: skip
    source = read_source(tmp_path)
    assert source.format == "lisa" and "allAnnotations.csv" in source.note
    assert not source.problems and not source.has_split
    first, second = source.annotations
    assert first.image == str(tmp_path / "vid0/ann/f0.png") and first.source_id == "vid0/ann/f0.png"
    assert [(box.label, box.xyxy) for box in first.boxes] == [("stop", (1, 2, 30, 40)), ("yield", (5, 6, 7.5, 8))]
    assert len(second.boxes) == 1 and second.where == f"{tmp_path}/allAnnotations.csv:3"
    assert (first.width, first.height) == (None, None)


@pytest.mark.parametrize(
    ("flags", "occluded", "difficult"),
    [("0,0", False, False), ("1,0", True, True), ("0,1", False, True), ("1,1", True, True)],
)
def test_the_comma_in_the_seventh_column(tmp_path, put, images, flags, occluded, difficult):
    images("f.png")
    put("allAnnotations.csv", table(row("f.png", flags=flags)))
    (box,) = read_source(tmp_path).annotations[0].boxes
    assert (box.occluded, box.difficult) == (occluded, difficult)


def test_a_table_in_each_folder_names_its_own_frames(tmp_path, put, images):
    for video in ("vid0/one", "vid1/one"):
        images(f"{video}/f.png")
        put(f"{video}/frameAnnotations.csv", table(row("f.png", video="cmp.avi")))
    source = read_source(tmp_path)
    assert {a.image for a in source.annotations} == {str(tmp_path / v / "one/f.png") for v in ("vid0", "vid1")}
    # Both videos are called cmp.avi: the folders keep them apart.
    assert len({a.group for a in source.annotations}) == 2
    assert not source.problems


def test_the_table_of_all_frames_counts_and_not_its_copies_below(tmp_path, put, images):
    images("vid0/one/f.png")
    put("allTrainingAnnotations.csv", table(row("vid0/one/f.png")))
    put("vid0/one/frameAnnotations.csv", table(row("f.png", box=(1, 2, 30, 41))))
    (annotation,) = read_source(tmp_path).annotations
    assert [box.ymax for box in annotation.boxes] == [40]


def test_two_tables_of_one_folder_are_joined_without_repeats(tmp_path, put, images):
    images("f.png", "g.png")
    put("allAnnotations.csv", table(row("f.png"), row("f.png")))
    put("allTrainingAnnotations.csv", table(row("f.png"), row("f.png", "yield"), row("g.png")))
    source = read_source(tmp_path)
    assert [[box.label for box in a.boxes] for a in source.annotations] == [["stop", "stop", "yield"], ["stop"]]


def test_one_table_is_a_source_and_windows_lines_and_marks_do_no_harm(tmp_path, put, images):
    images("f.png")
    path = put("mine.csv", "\ufeff" + table(row("f.png")).replace("\n", "\r\n") + "\r\n")
    source = read_source(path)
    assert source.path == str(path) and len(source.annotations) == 1 and not source.problems


def test_bad_lines_are_all_named_and_their_frames_left_out(tmp_path, put, images):
    images("a.png", "b.png", "c.png", "d.png")
    put("allAnnotations.csv", table(
        row("a.png"), row("a.png", box=("x", 2, 3, 4)), "b.png;stop;1;2", row("b.png"),
        row("c.png", ""), row("d.png"), row(""),
    ))  # fmt: skip
    source = read_source(tmp_path)
    assert [a.filename for a in source.annotations] == ["d.png"]
    found = {p.where.rpartition(":")[2]: p.message for p in source.problems if p.kind == "malformed"}
    assert sorted(found) == ["3", "4", "6", "8"]
    assert "upper left corner x is 'x'" in found["3"] and "4 columns instead of 11" in found["4"]
    assert all(p.level == "error" and "allAnnotations.csv" in p.where for p in source.problems)


def test_frames_of_a_track_may_lack_their_number(tmp_path, put, images):
    images("a.jpg", "b.jpg", "c.jpg")
    put("allAnnotations.csv", table(row("a.jpg", number=""), row("b.jpg", number=7), row("c.jpg", number=400)))
    source = read_source(tmp_path)
    assert not source.problems and {a.group for a in source.annotations} == {"vid0/a.avi#0"}


def test_missing_frames_stay_in_to_be_found_missing(tmp_path, put, images):
    images("a.png")
    put("allAnnotations.csv", table(row("a.png"), row("vid0/b.png"), row("vid0/c.png")))
    source = read_source(tmp_path)
    assert len(source.annotations) == 3
    found = [problem for annotation in source.annotations for problem in inspect(annotation).problems]
    assert [problem.kind for problem in found] == ["missing_image"] * 2
    assert found[0].message == f"b.png: not found: {tmp_path}/vid0/b.png"


def test_frames_that_no_table_lists_are_counted(tmp_path, put, images):
    images("a.png", "b.png")
    put("allAnnotations.csv", table(row("a.png")))
    (problem,) = read_source(tmp_path).problems
    assert (problem.kind, problem.level) == ("unlisted_image", "warning") and "b.png" in problem.message


def test_not_utf8_says_where_and_what_to_do(tmp_path, put):
    put("allAnnotations.csv", table(row("a.png")).encode() + b"\xff")
    with pytest.raises(ResightError, match="UTF-8"):
        read_source(tmp_path)


TRACKS = st.dictionaries(
    st.tuples(st.sampled_from(["v/a.avi", "v/b.avi"]), st.integers(0, 9)),
    st.tuples(st.integers(0, 3000), st.integers(0, 400)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TRACKS)
def test_groups_are_the_tracks_within_150_frames(tmp_path, tracks):
    rows = []
    for (video, track), (first, length) in tracks.items():
        for frame in (first + length, first):
            rows.append(row(f"{video}{track}_{frame}.png", video=video, number=frame, track=f"t{track}"))
    (tmp_path / "allAnnotations.csv").write_text(table(*rows))
    group = {}
    for annotation in lisa.read(DatasetDir(str(tmp_path))).annotations:
        group[annotation.filename.rpartition("_")[0]] = annotation.group
        assert annotation.group.partition("#")[0] in ("v/a.avi", "v/b.avi")
    # By pairs, joined until nothing changes.
    cluster = {key: {key} for key in tracks}
    for _ in tracks:
        for one, two in combinations(tracks, 2):
            (start, length), (begin, duration) = tracks[one], tracks[two]
            if one[0] == two[0] and start <= begin + duration + 150 and begin <= start + length + 150:
                union = cluster[one] | cluster[two]
                cluster.update(dict.fromkeys(union, union))
    for one, two in combinations(tracks, 2):
        same = group[f"{one[0][2:]}{one[1]}"] == group[f"{two[0][2:]}{two[1]}"]
        assert same == (two in cluster[one])


def test_a_track_without_frame_numbers_is_a_group_of_its_own(tmp_path, put):
    put("allAnnotations.csv", table(
        row("a.png", number="", track="x"), row("b.png", number="", track="y"), row("c.png", video="", track="")
    ))  # fmt: skip
    assert [a.group for a in read_source(tmp_path).annotations] == ["vid0/a.avi#x", "vid0/a.avi#y", None]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_tables(tmp_path, damage, survives, data):
    healthy = table(row("a.png"), row("a.png", "yield"), row("vid0/b.png", number=300, track="z")).encode()
    (tmp_path / "allAnnotations.csv").write_bytes(data.draw(damage)(healthy))
    survives(tmp_path, "lisa")
    survives(tmp_path / "allAnnotations.csv", "auto")
