import pytest
from google.protobuf import struct_pb2, text_format
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.io.textproto import MAX_BYTES, Field, Word, _Parser, parse, quote
from resight.label_map import read_label_map
from resight.tfod.pipeline.config import examine_pipeline


def plain(fields: list[Field]) -> list[tuple]:
    return [(f.name, plain(f.value) if isinstance(f.value, list) else f.value) for f in fields]


def test_all_that_a_config_holds():
    text = """
    # a comment { with : marks "
    model { rcnn < num: 3, scales: [0.25, 0.5f, 1e0,] >; flag: true }
    name: "a\\tb" 'c' path: 'it"s'
    [ext.one/two-x] { id: -0x1F } octal: 017 low: -inf words: [A, B] empty: [] e {} spaced: [1 2]
    """
    assert plain(parse(text)) == [
        (
            "model",
            [("rcnn", [("num", 3), ("scales", 0.25), ("scales", 0.5), ("scales", 1.0)]), ("flag", "true")],
        ),
        ("name", "a\tbc"),
        ("path", 'it"s'),
        ("[ext.one/two-x]", [("id", -31)]),
        ("octal", 15),
        ("low", "-inf"),
        ("words", "A"),
        ("words", "B"),
        ("e", []),
        ("spaced", 1),
        ("spaced", 2),
    ]
    assert isinstance(parse("a: true")[0].value, Word)
    assert not isinstance(parse("a: 'true'")[0].value, Word)


def test_positions_count_from_one_in_any_line_ending():
    for newline in ("\n", "\r\n", "\r"):
        found = parse(newline.join(["\ufeff# first", "a: 1", "  b {", "    c: 2 }"]))
        assert [(f.line, f.column) for f in found] == [(2, 1), (3, 3)]
        assert (found[1].value[0].line, found[1].value[0].column) == (4, 5)


def test_a_string_in_many_pieces_is_not_copied_for_each(monkeypatch):
    copied = 0

    class Counted(bytes):
        def __add__(self, other):
            nonlocal copied
            copied += len(self)
            return Counted(bytes(self) + other)

    whole = _Parser.string
    monkeypatch.setattr(_Parser, "string", lambda self, token: Counted(whole(self, token)))
    (field,) = parse("a: " + '"ab"' * 1000)
    assert field.value == "ab" * 1000 and copied <= 2000


def test_a_file_larger_than_people_write_is_not_read(tmp_path):
    for name, call in (("map.pbtxt", read_label_map), ("pipeline.config", examine_pipeline)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(MAX_BYTES + 1)
        with pytest.raises(ResightError, match="is too large"):
            call(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: 1\nb: 'open\n", "line 2, column 4", "quote not closed"),
        ("a {\n b: 1", "line 2, column 6", "'}' is expected"),
        ("a 1", "line 1, column 3", "':' is expected after 'a'"),
        ("a: }", "line 1, column 4", "a value is expected"),
        ("a: [1 : 2]", "line 1, column 7", "a value is expected"),
        ("a: [1, 2", "line 1, column 9", "a value is expected"),
        ("a: '\\q'", "line 1, column 4", "unknown escape"),
        ("a: '\\377'", "line 1, column 4", "not UTF-8"),
        ("a: 089", "line 1, column 4", "octal"),
        ("a: 12abc", "line 1, column 4", "unexpected"),
        ("a: -x", "line 1, column 5", "a value is expected"),
        ("12: 1", "line 1, column 1", "a field name"),
        ("[a:b]: 1", "line 1, column 3", "']' is expected"),
        ("a: " + "9" * 5000, "line 1, column 4", "too long"),
        ("a {" * 200, "line 1, column 303", "nested"),
    ],
)
def test_errors_name_line_and_column(text, place, says):
    with pytest.raises(ResightError, match=says) as caught:
        parse(text, "x.pbtxt")
    assert caught.value.where == f"x.pbtxt, {place}"


@given(st.text(st.characters(codec="utf-8")))
def test_a_quoted_string_reads_back_here_and_in_protobuf(text):
    assert parse(f"a: {quote(text)}")[0].value == text
    assert text_format.Parse(f"string_value: {quote(text)}", struct_pb2.Value()).string_value == text


@given(st.text(st.characters(codec="utf-8")))
def test_what_protobuf_prints_is_read(text):
    printed = text_format.MessageToString(struct_pb2.Struct(fields={"key": struct_pb2.Value(string_value=text)}))
    assert plain(parse(printed)) == [("fields", [("key", "key"), ("value", [("string_value", text)])])]


@given(st.floats(allow_nan=False))
def test_numbers_that_protobuf_prints_are_read(number):
    value = parse(text_format.MessageToString(struct_pb2.Value(number_value=number)))[0].value
    assert float(value) == number


@given(st.text(alphabet="ab:{}<>[],;'\"\\#-.0x9 \n\xe9\U0001f600\ud800", max_size=60) | st.text())
def test_any_text_gives_fields_or_our_error(text):
    try:
        assert all(isinstance(field, Field) for field in parse(text))
    except ResightError as error:
        assert "line" in error.where
