"""TensorFlow's checkpoints, read without TensorFlow.

A table ``PREFIX.index`` in LevelDB's format maps sorted names to places in the shards ``PREFIX.data-00000-of-0000N``,
which are tensors end to end. Everything is guarded by a masked CRC-32C.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import tensor_shape_pb2
from tensorboard.compat.proto.trackable_object_graph_pb2 import TrackableObjectGraph

from ...errors import ResightError, listed, reading
from ...io.files import SMALL, open_file, read_file
from .folder import find_checkpoint_prefix

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # two block handles padded to 40 bytes, then the magic number
_TRAILER = struct.Struct("<BI")  # of a block: kind of compression, masked CRC of contents and kind
# Keys share prefixes: without bounds a small file could stand for endless ones.
_LONGEST_KEY = 4096
_MAX_TEXT = 16 << 20  # characters of all names
_MAX_DIMS = 64  # numpy's limit
# TensorFlow's numbers of types.
STRING = 7
KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?", 17: "<u2", 18: "<c16",
          19: "<f2", 22: "<u4", 23: "<u8"}  # fmt: skip
_FIX = "Copy or download the checkpoint again."


def _message_classes() -> tuple[Any, Any]:
    """Header and entry of `tensor_bundle.proto`, which TensorBoard does not ship, as far as they are needed."""
    messages = {
        "Header": "num_shards int32 1, endianness int32 2",
        "Entry": "dtype int32 1, shape message 2, shard int32 3, offset int64 4, size int64 5, crc fixed32 6, "
        "slices bytes 7",
    }
    shape = tensor_shape_pb2.TensorShapeProto.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(name="resight/checkpoint.proto", package="resight", syntax="proto3")
    file.dependency.append(shape.file.name)
    for message, fields in messages.items():
        described = file.message_type.add(name=message)
        for name, kind, number in map(str.split, fields.split(", ")):
            added = described.field.add(name=name, number=int(number))
            added.label = added.LABEL_REPEATED if name == "slices" else added.LABEL_OPTIONAL
            added.type = added.Type.Value(f"TYPE_{kind.upper()}")
            if kind == "message":
                added.type_name = f".{shape.full_name}"
    pool = descriptor_pool.Default()
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles([file.name], pool)
    return found["resight.Header"], found["resight.Entry"]


_Header, _Entry = _message_classes()


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies. ``kind`` is TensorFlow's number of its type, ``crc`` of its bytes and masked."""

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


class Variables(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by their keys, each read and verified when it is asked for; strings are arrays of
    ``bytes`` objects.

    Raises:
        ResightError: on reading, the tensor is damaged; names it, the file and the byte offset.
    """

    def __init__(self, prefix: Path, entries: dict[str, Entry], shards: int) -> None:
        self.prefix, self.entries, self.shards = prefix, entries, shards

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def shard_path(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05}-of-{self.shards:05}")

    def __getitem__(self, key: str) -> np.ndarray:
        entry = self.entries[key]
        where = f"{self.shard_path(entry.shard)}, byte {entry.offset}"
        if entry.sliced:
            raise ResightError(f"'{key}' is a partitioned variable, which is not supported", where=where)
        if entry.kind != STRING and entry.kind not in KINDS:
            raise ResightError(f"'{key}' is of TensorFlow's type {entry.kind}, which is not supported", where=where)
        with open_file(self.shard_path(entry.shard)) as file, reading(where):
            data = np.fromfile(file, np.uint8, entry.size, offset=entry.offset)
        if len(data) < entry.size:
            raise ResightError(f"truncated: '{key}' lies beyond the end", where=where, fix=_FIX)
        if entry.kind == STRING:
            found = _strings(data.tobytes(), entry, where)
        else:
            found = data.view(KINDS[entry.kind]) if _mask(google_crc32c.value(data)) == entry.crc else None
        if found is None:
            raise ResightError(f"'{key}' is damaged: its checksum does not match", where=where, fix=_FIX)
        return found.reshape(entry.shape)

    @cached_property
    def full_names(self) -> dict[str, str]:
        """What the layers called their variables, by key: `conv1_conv/kernel`. Empty without an object graph."""
        if GRAPH not in self or self.entries[GRAPH].kind != STRING or self.entries[GRAPH].shape:
            return {}
        graph = _decode(TrackableObjectGraph, self[GRAPH].item(), f"{self.prefix}: {GRAPH}")
        attributes = (attribute for node in graph.nodes for attribute in node.attributes)
        return {a.checkpoint_key: a.full_name for a in attributes if a.full_name and a.checkpoint_key in self}


def read_checkpoint(path: str | Path) -> Variables:
    """Reads the table; tensors follow when asked for.

    Args:
        path: a prefix (`.../ckpt-0`), its `.index` file, or a folder with checkpoints, whose latest is read.

    Raises:
        ResightError: there is no checkpoint, its table is damaged, or shards are missing or truncated (names what lies
            in them).
    """
    prefix = find_checkpoint_prefix(path)
    if prefix is None:
        fix = "A checkpoint is named by what its .index and .data-* files have in common, e.g. checkpoint/ckpt-0."
        raise ResightError("is not a TensorFlow checkpoint", where=path, fix=fix)
    index = prefix.with_name(prefix.name + ".index")
    shards, entries = parse_index(read_file(index, SMALL), str(index))
    variables = Variables(prefix, entries, shards)
    _check_shards(variables)
    return variables


def parse_index(table: bytes, where: str = "") -> tuple[int, dict[str, Entry]]:
    """The number of shards, and the entries by their keys, of the bytes of an ``.index`` file."""
    entries: dict[str, Entry] = {}
    shards, length, last = 0, 0, b""
    for number, (key, value, offset) in enumerate(_table(table, where)):
        place = f"{where}, block at byte {offset}"
        if number == 0:
            if key:
                raise _broken("it does not begin with a header", place)
            header = _decode(_Header, value, place)
            if header.endianness:
                raise ResightError("was written on a big-endian machine, which is not supported", where=where)
            shards = header.num_shards
            continue
        if key <= last:
            raise _broken("its keys are not sorted", place)
        last = key
        name = key.decode("utf-8", "backslashreplace")
        length += len(name)
        if length > _MAX_TEXT:
            raise _broken(f"its names are longer than {_MAX_TEXT >> 20} MB together", place)
        entries[name] = _entry(_decode(_Entry, value, f"{where}: {name}"), shards, f"{where}: {name}")
    return shards, entries


def _entry(message: Any, shards: int, where: str) -> Entry:
    shape = tuple(dim.size for dim in message.shape.dim)
    entry = Entry(message.dtype, shape, message.shard, message.offset, message.size, message.crc, bool(message.slices))
    if min((entry.offset, entry.size, *shape)) < 0 or not 0 <= entry.shard < shards or message.shape.unknown_rank:
        raise _broken("its place or shape is impossible", where)
    if len(shape) > _MAX_DIMS or math.prod(dim or 1 for dim in shape) >= 1 << 48:
        raise _broken("its shape is absurd", where)
    if entry.kind in KINDS:
        fits = math.prod(shape) * np.dtype(KINDS[entry.kind]).itemsize == entry.size
    else:
        fits = entry.kind != STRING or math.prod(shape) <= entry.size  # a length takes a byte at least
    if not (fits or entry.sliced):
        raise _broken(f"{entry.size} bytes cannot be of shape {list(shape)}", where)
    return entry


def _check_shards(variables: Variables) -> None:
    sizes: dict[int, int] = {}
    keys = defaultdict[int, list[str]](list)
    for key, entry in variables.entries.items():
        keys[entry.shard].append(key)
    for shard in keys:
        with suppress(OSError):
            sizes[shard] = variables.shard_path(shard).stat().st_size
    if missing := sorted(keys.keys() - sizes.keys()):
        contents = "; ".join(listed(keys[shard], 2) for shard in missing[:3])
        message = f"{len(missing)} of the checkpoint's {variables.shards} data files cannot be read, with {contents}"
        fix = "A checkpoint is its .index file and all of its .data-* files: copy or download them too."
        raise ResightError(message, where=listed((variables.shard_path(shard) for shard in missing), 3), fix=fix)
    beyond = [key for key, entry in variables.entries.items() if entry.offset + entry.size > sizes[entry.shard]]
    if beyond:
        shard = variables.entries[beyond[0]].shard
        message = f"truncated: of {len(variables)} tensors {len(beyond)} lie beyond the end: {listed(beyond, 3)}"
        raise ResightError(message, where=f"{variables.shard_path(shard)}, {sizes[shard]} bytes", fix=_FIX)


def _table(data: bytes, where: str) -> Iterator[tuple[bytes, bytes, int]]:
    """Keys, values and block offsets of a table, in the order of the file."""
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        message = f"is not an index of a TensorFlow checkpoint, or its end is missing ({len(data)} bytes)"
        raise ResightError(message, where=where, fix=_FIX)
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0, where)  # of the block of metadata, which TensorFlow leaves empty
    index, _ = _handle(footer, position, where)
    end = 0
    for _, value in _block(data, *index, where):
        (offset, size), _ = _handle(value, 0, where)
        if offset < end:
            raise _broken("its blocks overlap", f"{where}, byte {offset}")
        end = offset + size
        for key, entry in _block(data, offset, size, where):
            yield key, entry, offset


def _block(data: bytes, offset: int, size: int, where: str) -> Iterator[tuple[bytes, bytes]]:
    where = f"{where}, block at byte {offset}"
    if offset + size + _TRAILER.size > len(data):
        raise _broken("it ends in the middle", where)
    compression, crc = _TRAILER.unpack_from(data, offset + size)
    if _mask(google_crc32c.value(data[offset : offset + size + 1])) != crc:
        raise _broken("its checksum does not match", where)
    if compression:
        name = "Snappy" if compression == 1 else f"method {compression}"
        message = f"is compressed ({name}), which TensorFlow's checkpoints are not and Resight does not read"
        raise ResightError(message, where=where)
    contents = data[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(contents[-4:], "little")  # of the entries; restart points and their number
    if end < 0:
        raise _broken("it is too short", where)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(contents, position, where)
        unshared, position = _varint(contents, position, where)
        length, position = _varint(contents, position, where)
        if shared > len(key) or position + unshared + length > end:
            raise _broken("an entry reaches beyond it", where)
        if shared + unshared > _LONGEST_KEY:
            raise _broken(f"a key has {shared + unshared} bytes", where)
        key = key[:shared] + contents[position : position + unshared]
        position += unshared + length
        yield key, contents[position - length : position]


def _handle(data: bytes, position: int, where: str) -> tuple[tuple[int, int], int]:
    offset, position = _varint(data, position, where)
    size, position = _varint(data, position, where)
    return (offset, size), position


def _varint(data: bytes, position: int, where: str) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise _broken("a number does not end", where)


def _strings(data: bytes, entry: Entry, where: str) -> np.ndarray | None:
    """Lengths, the masked CRC of these as numbers of fixed width, strings; the entry's CRC is of all three parts.
    None where they are damaged."""
    lengths, position = [], 0
    for _ in range(math.prod(entry.shape)):
        length, position = _varint(data, position, where)
        lengths.append(length)
    texts = position + 4
    if texts + sum(lengths) != len(data):
        return None
    crc = google_crc32c.value(b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths))
    stored = data[position:texts]
    if _mask(crc).to_bytes(4, "little") != stored or _mask(google_crc32c.extend(crc, data[position:])) != entry.crc:
        return None
    ends = accumulate(lengths, initial=texts)
    return np.array([data[begin:end] for begin, end in pairwise(ends)], object)


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _decode(message: Any, data: bytes, where: str) -> Any:
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise _broken(f"{error}", where) from error


def _broken(what: str, where: str) -> ResightError:
    return ResightError(f"the checkpoint's index is damaged: {what}", where=where, fix=_FIX)
