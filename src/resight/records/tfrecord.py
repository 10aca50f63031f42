"""The TFRecord container: records one after another, each with the CRC32C of its length and of its bytes.

Layout of a record: length (uint64), masked CRC of the length (uint32), the payload, masked CRC of the payload (uint32),
all little-endian (TensorFlow, `tensorflow/core/lib/io/record_writer.h`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import google_crc32c

from ..errors import ResightError
from ..io.files import open_file

if TYPE_CHECKING:
    import numpy as np

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CRC.size  # bytes of a record beside its payload
_MISMATCH = "damaged: the record does not match its CRC"
_TRUNCATED = "truncated: a record of {} bytes, and {} bytes left in the file"
_LARGE = 64 << 20  # bytes of a payload that is not held before its CRC is known to be right
_MAX_OPEN = 256  # files a reader keeps open


def masked_crc(data: bytes) -> int:
    """CRC32C of ``data`` in the masked form that TFRecord stores."""
    return _masked(google_crc32c.value(data))


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class File(Protocol):
    """Where records are read from; ``size`` is in bytes, ``str`` of it names it in messages."""

    @property
    def size(self) -> int: ...

    def read(self, length: int, offset: int) -> bytes:
        """The bytes there are, fewer than ``length`` at the end."""


AnyFile = str | os.PathLike[str] | File  # a file by its path, or open


class TFRecordWriter(AbstractContextManager["TFRecordWriter"]):
    """Writes records to a new file; a context manager.

    Raises:
        ResightError: the file cannot be written, from any method.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._offset = 0
        with explained("write", self.path):
            self._file = open(path, "wb", buffering=1 << 17)  # noqa: SIM115 (closed by close)

    def write(self, payload: bytes) -> int:
        """Appends one record and returns its byte offset in the file."""
        length = struct.pack("<Q", len(payload))
        with explained("write", self.path):
            self._file.writelines((length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload))))
        self._offset += len(payload) + OVERHEAD
        return self._offset - len(payload) - OVERHEAD

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        with explained("write", self.path):
            self._file.flush()

    def close(self) -> None:
        with explained("write", self.path):
            self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def read_tfrecord(source: AnyFile, *, damaged: list[ResightError] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields ``(offset, payload)`` of every record, CRCs verified. Nothing larger than the file is ever allocated.

    With a list ``damaged``, records whose payload is damaged are added to it and passed over; after a damaged length
    nothing more can be found in the file.

    Raises:
        ResightError: the file cannot be read, is truncated or damaged; names file and byte offset.
    """
    file = _open(source)
    size, offset = file.size, 0
    # One read takes the CRC of a payload and the header of the next record.
    header = file.read(_HEADER.size, 0)
    while header:
        if len(header) < _HEADER.size:
            raise _error(file, f"truncated: the record has {len(header)} of its {_HEADER.size} header bytes", offset)
        length, length_crc = _HEADER.unpack(header)
        if masked_crc(header[:8]) != length_crc:
            message = "damaged: the length of the record does not match its CRC; what follows cannot be found"
            raise _error(file, message, offset)
        if length > size - offset - OVERHEAD:
            raise _error(file, _TRUNCATED.format(length, size - offset), offset)
        tail = file.read(OVERHEAD, offset + _HEADER.size + length)
        if len(tail) < _CRC.size:
            raise _error(file, "truncated while it was read", offset)
        if (payload := _payload(file, length, offset + _HEADER.size, tail[: _CRC.size])) is not None:
            yield offset, payload
        elif damaged is None:
            raise _error(file, _MISMATCH, offset)
        else:
            damaged.append(_error(file, _MISMATCH, offset))
        offset += length + OVERHEAD
        header = tail[_CRC.size :]


@dataclass(eq=False)
class ShardReader:
    """Random access to the records of several files.

    Record ``i`` lies in ``files[shards[i]]`` at byte ``offsets[i]``; ``lengths[i]`` is that of its payload,
    ``crcs[i]`` the CRC32C of this where it is known. Can be pickled and shared by threads, as far as ``files`` can;
    a loader's worker opens anew those that are paths.
    """

    files: Sequence[AnyFile]
    shards: Sequence[int] | np.ndarray
    offsets: Sequence[int] | np.ndarray
    lengths: Sequence[int] | np.ndarray
    crcs: Sequence[int] | np.ndarray = ()
    _open: dict[int, File] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def __getitem__(self, index: int) -> bytes:
        """The payload of a record, CRC verified.

        Raises:
            ResightError: file unreadable, truncated, damaged or changed; names file and byte offset.
        """
        shard, offset, length = int(self.shards[index]), int(self.offsets[index]), int(self.lengths[index])
        file = self._open.get(shard)
        if file is None:
            if len(self._open) >= _MAX_OPEN:
                self._open.clear()  # each closes when the last thread that reads it lets go
            file = self._open[shard] = _open(self.files[shard])
        if offset + length + OVERHEAD > file.size:
            raise _error(file, _TRUNCATED.format(length, max(file.size - offset, 0)), offset)
        tail = file.read(_CRC.size, offset + _HEADER.size + length)
        if len(tail) < _CRC.size or (payload := _payload(file, length, offset + _HEADER.size, tail)) is None:
            raise _error(file, _MISMATCH, offset)
        if len(self.crcs) and tail != _CRC.pack(_masked(int(self.crcs[index]))):
            fix = "Delete its index (records.index), which is then rebuilt."
            raise ResightError("is not the record that the index lists here", where=self.where(index), fix=fix)
        return payload

    def where(self, index: int) -> str:
        """File and byte offset of a record, for messages."""
        return f"{self.files[int(self.shards[index])]}, byte {int(self.offsets[index])}"


class _LocalFile:
    """A file open for positioned reads; closed with its last reference."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open_file(path)
        self.descriptor = self._file.fileno()
        self.size = os.fstat(self.descriptor).st_size

    def __str__(self) -> str:
        return self.path

    def read(self, length: int, offset: int) -> bytes:
        with explained("read", self.path):
            data = more = os.pread(self.descriptor, length, offset)
            while more and len(data) < length:  # one call reads at most 2 GB
                more = os.pread(self.descriptor, length - len(data), offset + len(data))
                data += more
            return data


def _open(file: AnyFile) -> File:
    return _LocalFile(os.fspath(file)) if isinstance(file, str | os.PathLike) else file


def _payload(file: File, length: int, offset: int, crc: bytes) -> bytes | None:
    """The payload of a record, None where its masked ``crc`` is another."""
    if length > _LARGE:  # a sparse file of gigabytes takes no place on the disk, but would in memory
        found = 0
        for start in range(0, length, _LARGE):
            found = google_crc32c.extend(found, file.read(min(_LARGE, length - start), offset + start))
        if _CRC.pack(_masked(found)) != crc:
            return None
    data = file.read(length, offset)
    return data if len(data) == length and _CRC.pack(masked_crc(data)) == crc else None


def _error(file: File, message: str, offset: int) -> ResightError:
    fix = "Copy or download the file again; what lies before this offset is intact."
    if offset == 0:
        fix = "Is this a TFRecord file? Copy or download it again."
    if offset == 0 and file.read(2, 0) == b"\x1f\x8b":
        message, fix = "the file is compressed by gzip: gunzip it first", "Name it *.gz, as gunzip asks for that."
    return ResightError(message, where=f"{file}, byte {offset}", fix=fix)


@contextmanager
def explained(verb: str, path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResightError(f"cannot {verb} the records: {error.strerror}", where=path) from error
