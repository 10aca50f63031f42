import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.label_map import LabelItem, LabelMap, parse_label_map, read_label_map, to_pbtxt

MESSY = """\ufeff# signs
item
 {    id : 1
    name : 'stop'
}
item{\tname:"fünfzig"; id:2, display_name: 'Tempo 50' }
item {
  id: 5
  name: 'it\\'s a \\"yield\\"'
  keypoints { id: 3 label: "corner" color { r: 0.5 } }
  unknown: [1, 2]
}
"""


def kinds(label_map: LabelMap) -> list[tuple[str, str]]:
    return [(problem.level, problem.kind) for problem in label_map.problems]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_messy_map_is_read(tmp_path, newline, encoding):
    path = tmp_path / "map.pbtxt"
    path.write_bytes(MESSY.replace("\n", newline).encode(encoding))
    found = read_label_map(path)
    assert found.items == (
        LabelItem(1, "stop"),
        LabelItem(2, "fünfzig", "Tempo 50"),
        LabelItem(5, 'it\'s a "yield"'),
    )
    assert kinds(found) == [("warning", "label_map_gap")]
    assert found.names[2] == 'it\'s a "yield"'
    assert [found.index_of(name) for name in ("fünfzig", "Tempo 50", "Stop", "")] == [1, 1, None, None]
    assert [found.index_of_id(id) for id in (1, 2, 3, 5)] == [0, 1, None, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("item { id: 0 name: 'a' } item { id: 1 name: 'b' }", [("warning", "label_map_id_0")]),
        ("item { id: 1 name: 'a' } item { id: 1 name: 'b' }", [("error", "label_map_repeated_id")]),
        ("item { id: 1 name: 'a' } item { id: 2 name: 'a' }", [("error", "label_map_repeated_name")]),
        ("item { id: 1 name: 'a' } item { id: 4 name: 'b' }", [("warning", "label_map_gap")]),
        ("item { name: 'a' } item { name: 'b' }", [("warning", "label_map_no_id")] * 2),
        ("item { id: 1 }", [("error", "label_map_no_name")]),
        ("item { id: 1 name: 'a' } item { id: 0 name: 'background' }", [("warning", "label_map_background")]),
        ("item { id: 1 name: 'a' } version: 2", [("warning", "label_map_field")]),
        ("item { id: 2 name: 'b' } item { id: 1 name: 'a' }", []),
    ],
)
def test_oddities_are_read_and_reported(text, expected):
    assert kinds(parse_label_map(text, "m.pbtxt")) == expected


def test_background_with_id_0_is_no_class():
    assert parse_label_map("item { id: 0 name: 'background' } item { id: 1 name: 'a' }").names == ("a",)


def test_the_order_of_the_file_is_the_order_of_classes():
    found = parse_label_map("item { id: 2 name: 'b' } item { id: 1 name: 'a' }")
    assert found.names == ("b", "a")
    assert found.index_of_id(1) == 1


def test_name_counts_over_display_name():
    found = parse_label_map("item { id: 1 name: 'a' display_name: 'b' } item { id: 2 name: 'b' display_name: 'a' }")
    assert (found.index_of("a"), found.index_of("b")) == (0, 1)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "m.pbtxt"),
        ("# nothing\n", "m.pbtxt"),
        ("item {\n id: 1.5 name: 'a' }", "m.pbtxt, line 1, column 2"),
        ("item { id: 3000000000 name: 'a' }", "m.pbtxt, line 1, column 8"),
        ("item { id: { x: 1 } }", "m.pbtxt, line 1, column 8"),
        ("item { id: 1 name { } }", "m.pbtxt, line 1, column 14"),
        ("item {\n id 1 }", "m.pbtxt, line 2, column 5"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(text, where):
    with pytest.raises(ResightError) as caught:
        parse_label_map(text, "m.pbtxt")
    assert caught.value.where == where


def test_of_an_endless_name_a_message_has_the_ends():
    name = "x" * 10**6
    with pytest.raises(ResightError, match=r"line 1, column 8: id 'xxx.* \.\.\. x+' is not a 32-bit number") as error:
        parse_label_map(f"item {{ id: {name} }}")
    assert len(str(error.value)) < 2_100
    nameless, twice = f"item {{ name: '{name}' }}", f"item {{ id: 1 name: '{name}' }}" * 2
    for text in (nameless, twice):
        lengths = [len(problem.message) for problem in parse_label_map(text).problems]
        assert lengths and max(lengths) <= 2_000


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ResightError, match="No such file"):
        read_label_map(tmp_path / "none.pbtxt")
    latin = tmp_path / "latin.pbtxt"
    latin.write_bytes("item { id: 1 name: 'fünf' }".encode("latin-1"))
    with pytest.raises(ResightError, match="not UTF-8") as caught:
        read_label_map(latin)
    assert caught.value.where.endswith("byte 21")


@given(st.lists(st.tuples(st.integers(1, 2**31 - 1), st.text(min_size=1), st.text()), min_size=1))
def test_what_is_written_reads_back(rows):
    label_map = LabelMap(tuple(LabelItem(*row) for row in rows))
    assert parse_label_map(to_pbtxt(label_map)).items == label_map.items


def test_ids_count_from_one():
    assert [item.id for item in LabelMap.from_names(["a", "b"]).items] == [1, 2]


@given(st.data())
def test_a_damaged_file_gives_a_map_or_our_error(tmp_path_factory, data):
    content = bytearray(MESSY.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "damaged.pbtxt"
    path.write_bytes(content)
    try:
        assert len(read_label_map(path)) > 0
    except ResightError as error:
        assert str(path) in error.where


def test_importing_labels_imports_no_framework():
    code = (
        "import sys, resight.label_map, resight.io.textproto; print({'torch', 'tensorflow', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_classes_by_id_leave_a_place_for_ids_that_no_item_has():
    labels = parse_label_map("item { id: 4 name: 'd' } item { id: 2 name: 'b' } item { id: 2 name: 'second' }")
    assert labels.by_id().names == ("class 1", "b", "class 3", "d")
    assert labels.by_id(5).names[3:] == ("d", "class 5") and labels.by_id().index_of("d") == 3
    with pytest.raises(ResightError, match="has the id 4, the model 3 classes"):
        labels.by_id(3)
