import gzip
import pickle
import struct
import threading
from itertools import pairwise

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.records import tfrecord
from resight.records.tfrecord import OVERHEAD, ShardReader, TFRecordWriter, read_tfrecord

PAYLOADS = [b"", b"one", b"two" * 100, bytes(range(256)), b"last"]


def write(path, payloads=PAYLOADS) -> list[int]:
    with TFRecordWriter(path) as writer:
        return [writer.write(payload) for payload in payloads]


def test_crc_is_the_fast_and_the_right_one():
    assert google_crc32c.implementation == "c"
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720's check value of CRC32C


def test_written_records_are_read_in_order_and_at_random(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    shards = [PAYLOADS, [], PAYLOADS[::-1]]
    offsets = [write(path, payloads) for path, payloads in zip(paths, shards, strict=True)]
    for path, payloads, own in zip(paths, shards, offsets, strict=True):
        assert list(read_tfrecord(path)) == list(zip(own, payloads, strict=True))
    everything = [*PAYLOADS, *PAYLOADS[::-1]]
    lengths = [len(payload) for payload in everything]
    reader = ShardReader(paths, [0] * 5 + [2] * 5, [*offsets[0], *offsets[2]], lengths)
    assert [reader[i] for i in (9, 0, 5, 3, 7)] == [everything[i] for i in (9, 0, 5, 3, 7)]
    assert reader.where(6) == f"{paths[2]}, byte {offsets[2][1]}"
    assert [pickle.loads(pickle.dumps(reader))[i] for i in range(10)] == everything


def test_more_shards_than_a_process_may_keep_open(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "_MAX_OPEN", 2)
    paths = [tmp_path / str(i) for i in range(6)]
    for i, path in enumerate(paths):
        write(path, [b"%d" % i])
    reader = ShardReader(paths, range(6), [0] * 6, [1] * 6)
    wrong = []

    def read_all() -> None:
        wrong.extend(i for _ in range(50) for i in range(6) if reader[i] != b"%d" % i)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.data())
def test_one_flipped_bit_is_found_at_its_record(tmp_path_factory, payloads, data):
    path = tmp_path_factory.getbasetemp() / "flipped"
    offsets = write(path, payloads)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    damaged = max(i for i, offset in enumerate(offsets) if offset <= bit // 8)
    read = []
    with pytest.raises(ResightError) as caught:
        read.extend(payload for _, payload in read_tfrecord(path))
    assert read == payloads[:damaged]
    assert caught.value.where == f"{path}, byte {offsets[damaged]}"
    if bit // 8 >= offsets[damaged] + 12:  # the payload or its CRC
        reader = ShardReader([path], [0] * len(payloads), offsets, [len(payload) for payload in payloads])
        with pytest.raises(ResightError, match="CRC") as caught:
            reader[damaged]
        assert caught.value.where == f"{path}, byte {offsets[damaged]}"
        errors: list[ResightError] = []
        rest = [payload for _, payload in read_tfrecord(path, damaged=errors)]
        assert rest == payloads[:damaged] + payloads[damaged + 1 :]
        assert [error.where for error in errors] == [caught.value.where]


@given(st.integers(0))
def test_a_truncated_file_is_found_at_its_last_record(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "truncated"
    offsets = write(path)
    content = path.read_bytes()
    size = cut % len(content)
    path.write_bytes(content[:size])
    whole = [
        payload for payload, (_, end) in zip(PAYLOADS, pairwise([*offsets, len(content)]), strict=True) if end <= size
    ]
    read = []
    if size in (0, *offsets):  # a cut between two records cannot be told from a shorter file
        assert [payload for _, payload in read_tfrecord(path)] == whole
    else:
        with pytest.raises(ResightError, match="truncated") as caught:
            read.extend(payload for _, payload in read_tfrecord(path))
        assert read == whole
        assert caught.value.where == f"{path}, byte {offsets[len(whole)]}"
    reader = ShardReader([path], [0] * len(PAYLOADS), offsets, [len(payload) for payload in PAYLOADS])
    assert [reader[i] for i in range(len(whole))] == whole
    with pytest.raises(ResightError, match="truncated"):
        reader[len(whole)]


@given(st.binary(max_size=200))
def test_any_bytes_give_records_or_our_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    try:
        found = list(read_tfrecord(path))
    except ResightError as error:
        assert str(path) in error.where and "byte" in error.where
    else:
        assert sum(len(payload) + OVERHEAD for _, payload in found) == len(content)


def test_an_absurd_length_is_refused_though_its_crc_is_right(tmp_path):
    header = struct.pack("<Q", 2**63)
    path = tmp_path / "huge"
    path.write_bytes(header + struct.pack("<I", tfrecord.masked_crc(header)) + b"x" * 100)
    with pytest.raises(ResightError, match="a record of 9223372036854775808 bytes, and 112 bytes left"):
        list(read_tfrecord(path))


def test_a_compressed_file_is_named_as_such(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a.gz").write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    with pytest.raises(ResightError) as caught:
        list(read_tfrecord(tmp_path / "a.gz"))
    assert "gunzip" in caught.value.message


def test_files_that_cannot_be_opened_are_our_error(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ResightError, match="cannot be read") as caught:
            list(read_tfrecord(path))
        assert caught.value.where == str(path)
        with pytest.raises(ResightError, match="cannot be read"):
            ShardReader([path], [0], [0], [1])[0]
        with pytest.raises(ResightError, match="cannot write"):
            TFRecordWriter(path / "none" / "file")


def test_a_full_disk_is_our_error():
    with pytest.raises(ResightError, match="No space left"), TFRecordWriter("/dev/full") as writer:
        writer.write(b"x" * (1 << 21))
