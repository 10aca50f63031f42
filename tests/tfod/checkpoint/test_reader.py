import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.tfod.checkpoint.folder import find_checkpoint_prefix
from resight.tfod.checkpoint.reader import GRAPH, SUFFIX, parse_index, read_checkpoint
from resight.tfod.checkpoint.variables import checkpoint_keys

ARRAYS = {
    "model/first": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "model/fourth": np.array([7, -1], np.int64),
    "model/second": np.array(2.5, np.float32),
    "model/third": np.zeros((0, 5), np.float32),
    "step": np.array(5, np.int64),
    "words": b"graph",
}


def same(found, expected) -> bool:
    if isinstance(expected, bytes):
        return found.item() == expected
    return found.dtype == expected.dtype and found.shape == expected.shape and bool(np.array_equal(found, expected))


def test_what_tensorflow_wrote_is_read(zoo_folder, values, kinds):
    folder = zoo_folder()
    variables = read_checkpoint(folder)
    expected = {v.key: v for v in checkpoint_keys(50, 6)}
    assert variables.keys() == expected.keys() | {GRAPH, f"save_counter{SUFFIX}"}
    assert list(variables) == sorted(variables)
    for key, variable in expected.items():
        assert same(variables[key], values(key, variable.shape)), key
        assert variables.full_names[key] == variable.full_name
    found = dict(read_checkpoint(folder / "kinds"))
    for name, array in kinds.items():
        assert same(found[name + SUFFIX], array), name


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards(tmp_path, write_checkpoint, shards):
    prefix = write_checkpoint(tmp_path / "ckpt-3", ARRAYS, shards, per_block=2)
    for path in (prefix, tmp_path, f"{prefix}.index"):
        variables = read_checkpoint(path)
        assert variables.shards == shards
        assert list(variables) == sorted(ARRAYS)
        assert all(same(variables[key], array) for key, array in ARRAYS.items())
        assert "model/first" in variables and "model" not in variables and len(variables) == len(ARRAYS)


def test_the_latest_of_a_folder(tmp_path, write_checkpoint):
    for number in (2, 9, 10):
        write_checkpoint(tmp_path / f"ckpt-{number}", {"step": np.array(number)})
    assert read_checkpoint(tmp_path)["step"] == 10
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/where/it/was/ckpt-9"\n')
    assert read_checkpoint(tmp_path)["step"] == 9
    for damaged in ('model_checkpoint_path: "ckpt-77"', "}", ""):
        (tmp_path / "checkpoint").write_text(damaged)
        assert read_checkpoint(tmp_path)["step"] == 10


@pytest.mark.parametrize("path", ["nothing", "empty", "ckpt-1.data-00000-of-00001"])
def test_what_is_no_checkpoint(tmp_path, write_checkpoint, path):
    write_checkpoint(tmp_path / "ckpt-1", ARRAYS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResightError, match="is not a TensorFlow checkpoint"):
        read_checkpoint(tmp_path / path)


def test_missing_shards_are_named_with_what_is_in_them(tmp_path, write_checkpoint):
    prefix = write_checkpoint(tmp_path / "ckpt-0", ARRAYS, 3)
    for shard in (0, 2):
        Path(f"{prefix}.data-0000{shard}-of-00003").unlink()
    with pytest.raises(ResightError, match="2 of the checkpoint's 3 data files") as error:
        read_checkpoint(prefix)
    assert "ckpt-0.data-00000-of-00003" in str(error.value) and "ckpt-0.data-00002-of-00003" in str(error.value)
    assert "model/first" in str(error.value) and "model/second" in str(error.value)
    assert "model/fourth" not in str(error.value)


@given(data=st.data())
def test_a_damaged_tensor_is_named(tmp_path_factory, write_checkpoint, data):
    prefix = write_checkpoint(tmp_path_factory.mktemp("damaged") / "ckpt-0", ARRAYS)
    shard = Path(f"{prefix}.data-00000-of-00001")
    intact = shard.read_bytes()
    offset = data.draw(st.integers(0, len(intact) - 1))
    damaged = bytearray(intact)
    damaged[offset] ^= data.draw(st.integers(1, 255))
    shard.write_bytes(damaged)
    variables = read_checkpoint(prefix)
    for key, entry in variables.entries.items():
        if entry.offset <= offset < entry.offset + entry.size:
            with pytest.raises(ResightError, match=f"'{key}' is damaged") as error:
                variables[key]
            assert error.value.where == f"{shard}, byte {entry.offset}"
        else:
            assert same(variables[key], ARRAYS[key])


def test_truncated_tensors_are_named(tmp_path, write_checkpoint):
    prefix = write_checkpoint(tmp_path / "ckpt-0", ARRAYS)
    shard = Path(f"{prefix}.data-00000-of-00001")
    whole = shard.read_bytes()
    before = read_checkpoint(prefix)
    shard.write_bytes(whole[:100])
    with pytest.raises(ResightError, match="truncated: of 6 tensors 5 lie beyond the end: model/fourth") as error:
        read_checkpoint(prefix)
    assert "100 bytes" in error.value.where
    with pytest.raises(ResightError, match="truncated: 'model/fourth'"):
        before["model/fourth"]


def test_a_truncated_index(tmp_path, write_checkpoint):
    index = Path(f"{write_checkpoint(tmp_path / 'ckpt-0', ARRAYS)}.index")
    whole = index.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(ResightError):
            parse_index(whole[:length], "ckpt-0.index")


@given(position=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_flipped_byte_of_the_index_is_noticed(table, position, flip):
    intact = table(items())
    damaged = bytearray(intact)
    damaged[position % len(intact)] ^= flip
    try:
        found = parse_index(bytes(damaged))
    except ResightError:
        return
    # The metadata's handle and block and the padding are not looked at.
    assert found == parse_index(intact)


@given(data=st.data())
def test_any_block_is_a_value_or_our_error(table, data):
    """Damage that the checksums do not show."""

    def damage(block: bytes) -> bytes:
        block = bytearray(block)
        for _ in range(data.draw(st.integers(1, 4))):
            position = data.draw(st.integers(0, len(block)))
            length = data.draw(st.integers(0, 3))
            block[position : position + length] = data.draw(st.binary(max_size=6))
        return bytes(block)

    _bounded(table(items(), per_block=data.draw(st.sampled_from([2, 16])), damage=damage))


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=40)), max_size=12))
def test_any_table_is_a_value_or_our_error(table, entries):
    header = (b"", b"\x08\x02")
    _bounded(table([header, *sorted(entries)]))
    _bounded(table(entries))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_our_error(data):
    _bounded(data)
    _bounded(data + struct.pack("<Q", 0xDB4775248B80FB57))


def items() -> list[tuple[bytes, bytes]]:
    entry = b"\x08\x01\x12\x04\x12\x02\x08\x03\x20\x0c\x28\x0c\x35abcd"  # float32, [3], offset 12, 12 bytes
    return [(b"", b"\x08\x01"), *((f"model/layer-{i:02}/kernel".encode(), entry) for i in range(20))]


def _bounded(data: bytes) -> None:
    tracemalloc.start()
    try:
        shards, entries = parse_index(data, "x.index")
        assert shards >= 0 and all(entry.size >= 0 for entry in entries.values())
    except ResightError as error:
        assert str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200_000 + 500 * len(data)


def test_keys_that_share_their_beginning_do_not_fill_the_memory(table):
    long = b"k" * 4000
    keys = [long + number.to_bytes(4, "big") for number in range(500)]
    _bounded(table([(b"", b"\x08\x01"), *((key, items()[1][1]) for key in keys)], per_block=1000))
    with pytest.raises(ResightError, match="a key has 5000 bytes"):
        parse_index(table([(b"", b"\x08\x01"), (b"k" * 5000, b"")]))


def test_names_of_bytes_that_are_no_text_do_not_fill_the_memory(table):
    """Each of them is written as four characters."""
    entries = [b"\0\0\2\x08\x01", b"\0\xa4\x1f\0" + b"\xff" * 4000 + b"\0" * 4]  # the header, a name of 4004 bytes,
    entries += [b"\xa0\x1f\4\0" + number.to_bytes(4, "big") for number in range(1, 2000)]  # and 4000 of them again
    block = b"".join(entries) + struct.pack("<II", 0, 1)
    index = table([(b"", b"")], damage=lambda _: block)
    assert len(index) < 30_000
    with pytest.raises(ResightError, match="longer than 16 MB together"):
        parse_index(index)


@pytest.mark.parametrize(
    "entry, message",
    [
        (b"\x08\x01\x12\x0c\x12\x0a\x08" + b"\xff" * 8 + b"\x7f" + b"\x28\x0c", "shape is absurd"),
        (b"\x08\x01\x12\x04\x12\x02\x08\x04\x28\x0c", "12 bytes cannot be of shape"),
        (b"\x08\x07\x12\x04\x12\x02\x08\x7f\x28\x0c", "12 bytes cannot be of shape"),
        (b"\x08\x01\x12\x04\x12\x02\x08\x03\x28\x0c\x18\x01", "place or shape is impossible"),
        (b"\x08\x01\x12" + b"\xb8\x02" + b"\x12\x02\x08\x01" * 78 + b"\x28\x04", "shape is absurd"),
        (b"\x08", "is damaged"),
    ],
)
def test_impossible_entries_are_named(table, entry, message):
    with pytest.raises(ResightError, match=message) as error:
        parse_index(table([(b"", b"\x08\x01"), (b"model/kernel", entry)]), "ckpt-0.index")
    assert error.value.where == "ckpt-0.index: model/kernel"


def test_a_size_beyond_the_file_allocates_nothing(tmp_path, table):
    entry = b"\x08\x04\x12\x07\x12\x05\x08\x80\x80\x80\x20\x28\x80\x80\x80\x20"  # 64 MB of uint8
    (tmp_path / "a.index").write_bytes(table([(b"", b"\x08\x01"), (b"huge", entry)]))
    (tmp_path / "a.data-00000-of-00001").write_bytes(b"12")
    tracemalloc.start()
    with pytest.raises(ResightError, match=r"truncated.*huge"):
        read_checkpoint(tmp_path / "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("kind, name", [(1, "Snappy"), (4, "method 4")])
def test_compressed_blocks_are_refused_by_name(table, kind, name):
    with pytest.raises(ResightError, match=f"compressed \\({name}\\)"):
        parse_index(table(items(), kind=kind))


@pytest.mark.parametrize(
    "fields, message",
    [(b"\x08\x63", "type 99, which is not supported"), (b"\x08\x01\x3a\x00", "'odd' is a partitioned variable")],
)
def test_what_cannot_be_read_is_listed_and_named_when_asked_for(tmp_path, table, fields, message):
    (tmp_path / "a.index").write_bytes(table([(b"", b"\x08\x01"), (b"odd", fields + b"\x28\x02")]))
    (tmp_path / "a.data-00000-of-00001").write_bytes(b"12")
    variables = read_checkpoint(tmp_path / "a")
    assert list(variables) == ["odd"]
    with pytest.raises(ResightError, match=message):
        variables["odd"]


def test_big_endian_and_header(table):
    with pytest.raises(ResightError, match="big-endian"):
        parse_index(table([(b"", b"\x08\x01\x10\x01")]))
    with pytest.raises(ResightError, match="does not begin with a header"):
        parse_index(table(items()[1:]))
    with pytest.raises(ResightError, match="not sorted"):
        parse_index(table([items()[0], *reversed(items()[1:])]))


@given(st.binary(max_size=60))
def test_any_object_graph(tmp_path_factory, write_checkpoint, graph):
    prefix = write_checkpoint(tmp_path_factory.mktemp("graph") / "ckpt-0", {GRAPH: graph})
    try:
        assert read_checkpoint(prefix).full_names == {}
    except ResightError as error:
        assert GRAPH in error.where


if os.environ.get("RESIGHT_TFOD"):
    FOLDER = Path(os.environ["RESIGHT_TFOD"])

    def test_the_index_of_somebody():
        index = FOLDER / "resnet50_640_6classes_ckpt-0.index"
        shards, entries = parse_index(index.read_bytes(), str(index))
        assert shards == 1 and len(entries) == 277
        bookkeeping = {GRAPH, f"save_counter{SUFFIX}"}
        found = {key: entry.shape for key, entry in entries.items() if key not in bookkeeping}
        assert found == {v.key: v.shape for v in checkpoint_keys(50, 6, share_boxes=True)}

    def test_the_zoo_layout():
        lines = (FOLDER / "r101_zoo_ckpt-0.variables.txt").read_text().splitlines()
        rows = [line.split("\t") for line in lines if line.startswith("model/")]
        expected = {key: (kind, shape) for key, kind, shape in rows}
        assert expected == {v.key: ("float32", str(list(v.shape))) for v in checkpoint_keys(101, 90)}
        lines = (FOLDER / "r101_key_to_keras_name.txt").read_text().splitlines()
        names = dict(line.split("\t")[:2] for line in lines)
        assert names == {v.key.removesuffix(SUFFIX): f"{v.full_name}:0" for v in checkpoint_keys(101, 90)}


@pytest.mark.parametrize("name", [".index", "x/.index", ".", ""])
def test_a_name_that_is_nothing_but_the_suffix_is_no_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint_prefix(name) is None
