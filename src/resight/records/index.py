"""The index of records: where each lies and all it says but the image, so that a million records open in seconds.

Columns of numpy arrays, kept in one file: a TFRecord with a single record (whose CRC guards it) that holds the columns
as safetensors and the strings as JSON. The file is a cache; it is made again from the shards when it is stale.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import ResightError, shortened
from ..io import object_store as storage
from ..io.block_cache import CachedFile
from ..io.files import cache_folder, parse_json
from ..io.object_store import StorageError
from ..io.outputs import atomic_file
from ..io.progress import meter
from .example import Record, decode_example
from .tfrecord import OVERHEAD, TFRecordWriter, explained, read_tfrecord

log = logging.getLogger(__name__)

_VERSION = 1
INDEX = "records.index"
_RECORD_COLUMNS = ("shard", "offset", "length", "crc", "image", "width", "height", "count")
_BOX_COLUMNS = {"boxes": np.float32, "text": np.int64, "label_ids": np.int64, "difficult": np.bool_, "crowd": np.bool_,
                "occluded": np.bool_, "area": np.float32}  # fmt: skip
_STRINGS = ("format", "filename", "source_id", "group")


@dataclass(frozen=True)
class Shard:
    """A file of records by its name in the data set; ``stamp`` is its mtime in ns, of a remote file its ETag."""

    name: str
    size: int
    stamp: int | str


@dataclass(frozen=True, eq=False)
class Index:
    """What the records of ``shards`` say.

    ``records`` has one int64 value a record under each of ``_RECORD_COLUMNS`` (``image`` is a checksum of the image
    bytes), ``boxes`` one row a box, in the order of the records, ``strings`` one text a record; ``texts`` are the class
    names that the box column "text" counts through. ``damaged`` lists (where, message) of unusable records; an
    index that has any is not kept.
    """

    shards: tuple[Shard, ...]
    records: dict[str, np.ndarray]
    boxes: dict[str, np.ndarray]
    strings: dict[str, list[str]]
    texts: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.records["offset"])

    @cached_property
    def starts(self) -> np.ndarray:
        """``[len + 1]``: the boxes of record ``i`` are rows ``starts[i]:starts[i + 1]``."""
        return np.concatenate([[0], np.cumsum(self.records["count"])])

    @property
    def digest(self) -> str:
        """SHA-256 over names, sizes and the checksums of all records: equal data has an equal digest anywhere."""
        digest = hashlib.sha256(json.dumps([(shard.name, shard.size) for shard in self.shards]).encode())
        for column in ("shard", "offset", "length", "crc"):
            digest.update(self.records[column].astype("<i8").tobytes())
        return digest.hexdigest()

    def record(self, i: int, encoded: bytes = b"") -> Record:
        rows = slice(self.starts[i], self.starts[i + 1])
        column: dict[str, Any] = {name: values[rows].copy() for name, values in self.boxes.items()}
        strings: dict[str, Any] = {name: values[i] for name, values in self.strings.items()}
        return Record(
            encoded=encoded,
            width=int(self.records["width"][i]),
            height=int(self.records["height"][i]),
            label_texts=tuple(self.texts[text] for text in column.pop("text")),
            **strings,
            **column,
        )

    def classes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``[K, 2]`` pairs of a text's number and a class number that boxes have; which each box has; how many do."""
        # Sorting one number is many times as fast as sorting pairs.
        ids, number = np.unique(self.boxes["label_ids"], return_inverse=True)
        keys, which, counts = np.unique(self.boxes["text"] * len(ids) + number, return_inverse=True, return_counts=True)
        return np.stack([keys // max(len(ids), 1), ids[keys % max(len(ids), 1)]], axis=1), which, counts

    def take(self, rows: np.ndarray, boxes: Sequence[Sequence[int]] | None = None) -> Index:
        """The records ``rows`` alone; ``boxes`` are the box rows of each, by default its own."""
        if boxes is None:
            count = self.records["count"][rows]
            first = self.starts[rows] - np.cumsum(count) + count  # box row of a record, less the rows before it
            box_rows = np.repeat(first, count) + np.arange(count.sum())
        else:
            count = np.array([len(some) for some in boxes], np.int64)
            box_rows = np.array([row for some in boxes for row in some], np.int64)
        records = {name: column[rows] for name, column in self.records.items()} | {"count": count}
        strings = {name: [values[row] for row in rows] for name, values in self.strings.items()}
        return replace(self, records=records, boxes={k: v[box_rows] for k, v in self.boxes.items()}, strings=strings)


class IndexBuilder:
    """Collects the records of several shards, in any order."""

    def __init__(self) -> None:
        self._records = array("q")
        self._boxes = {name: bytearray() for name in _BOX_COLUMNS}
        self._strings: dict[str, list[str]] = {name: [] for name in _STRINGS}
        self._texts: dict[str, int] = {}

    def add(self, shard: int, offset: int, payload: bytes, where: str = "") -> Record:
        """Adds what a payload says, and returns it."""
        record = decode_example(payload, where)
        image = google_crc32c.value(record.encoded) << 31 | len(record.encoded) & 0x7FFFFFFF
        crc, count = google_crc32c.value(payload), len(record.boxes)
        self._records.extend((shard, offset, len(payload), crc, image, record.width, record.height, count))
        text = np.array([self._texts.setdefault(text, len(self._texts)) for text in record.label_texts], np.int64)
        for name, values in self._boxes.items():
            values += (text if name == "text" else getattr(record, name)).tobytes()
        for name, strings in self._strings.items():
            strings.append(sys.intern(getattr(record, name)))  # a name is often the id too, a format always the same
        return record

    def build(self, shards: Sequence[Shard], damaged: Sequence[tuple[str, str]] = ()) -> Index:
        """The index in the order of shards and offsets."""
        table = np.array(self._records, np.int64).reshape(-1, len(_RECORD_COLUMNS))
        records = dict(zip(_RECORD_COLUMNS, table.T, strict=True))
        boxes = {name: np.frombuffer(self._boxes[name], np.dtype(kind)) for name, kind in _BOX_COLUMNS.items()}
        boxes["boxes"] = boxes["boxes"].reshape(-1, 4)
        index = Index(tuple(shards), records, boxes, self._strings, tuple(self._texts), tuple(damaged))
        return index.take(np.lexsort((records["offset"], records["shard"])))


def open_index(folder: str, files: Sequence[str | CachedFile], *, beside: bool) -> Index:
    """The index of the shards ``files``, made and kept where it is missing or stale: in ``folder`` when ``beside`` says
    so and it can be written, else in the user's cache. What lies beside remote shards is read, never written."""
    remote = any(isinstance(file, CachedFile) for file in files)
    shards = [_shard(file, folder) for file in files]
    full = [str(file) if isinstance(file, CachedFile) else os.path.abspath(file) for file in files]
    key = hashlib.sha256("\0".join(full).encode("utf-8", "surrogateescape"))
    places = [os.path.join(cache_folder(), "index", f"{key.hexdigest()[:32]}.index")]
    if beside and not remote:
        places.insert(0, os.path.join(folder, INDEX))
    if index := next(filter(None, (load_index(place, shards) for place in places)), None):
        return index
    if beside and remote and (found := storage.stat(storage.join(folder, INDEX))):
        # One made before the shards were copied knows no ETags: it holds for shards of the same sizes, and each record
        # is compared with it when it is read.
        with tempfile.TemporaryDirectory() as local:
            storage.download(found, Path(local, INDEX))
            if index := load_index(os.path.join(local, INDEX), shards):
                return index
    index = scan(files, shards)
    for place in () if index.damaged else places:
        try:
            save_index(index, place)
            break
        except ResightError as error:
            log.debug("%s", error)  # a cache only; the next place, or none
    return index


def _shard(file: str | CachedFile, folder: str) -> Shard:
    name = os.path.relpath(str(file), folder or ".")
    name = os.path.basename(str(file)) if name.startswith("..") else name
    if isinstance(file, CachedFile):
        return Shard(name, file.size, file.etag)
    with explained("read", file):
        stat = os.stat(file)
    return Shard(name, stat.st_size, stat.st_mtime_ns)


def scan(files: Sequence[str | CachedFile], shards: Sequence[Shard]) -> Index:
    """Reads all records of ``files``; damaged ones are passed over and named in ``.damaged``."""
    builder = IndexBuilder()
    errors: list[ResightError] = []
    with meter("indexing records, MB", sum(shard.size for shard in shards) / 1e6) as progress:
        for number, file in enumerate(files):
            try:
                for offset, payload in read_tfrecord(file, damaged=errors):
                    progress.advance((len(payload) + OVERHEAD) / 1e6)
                    try:
                        builder.add(number, offset, payload, f"{file}, byte {offset}")
                    except ResightError as error:
                        errors.append(error)
            except StorageError:
                raise
            except ResightError as error:
                errors.append(error)
    return builder.build(shards, [(error.where, error.message) for error in errors])


def merge_repeats(index: Index) -> tuple[Index, int]:
    """Joins records that hold one image (same file name or source id, same bytes) with different lists of boxes, as the
    old workflow wrote them. The first stays, with the union of the boxes; equal boxes within one record are kept.
    Returns the index and how many records went into others."""
    group_of: dict[tuple[int, str, str], int] = {}
    groups: dict[int, list[int]] = {}
    names, ids = index.strings["filename"], index.strings["source_id"]
    _, which, counts = np.unique(index.records["image"], return_inverse=True, return_counts=True)
    for row in np.flatnonzero(counts[which] > 1).tolist():
        image, name, id = int(index.records["image"][row]), names[row], ids[row]
        keys = [key for key in ((image, "file", name), (image, "id", id)) if key[2]]
        first = next((group_of[key] for key in keys if key in group_of), row)
        groups.setdefault(first, []).append(row)
        for key in keys:
            group_of.setdefault(key, first)
    joined = {first: union for first, rows in groups.items() if len(rows) > 1 and (union := _union(index, rows))}
    if not joined:
        return index, 0
    gone = {row for first in joined for row in groups[first][1:]}
    kept = [row for row in range(len(index)) if row not in gone]
    boxes = [joined.get(row) or range(index.starts[row], index.starts[row + 1]) for row in kept]
    return index.take(np.array(kept), boxes), len(gone)


def _union(index: Index, rows: list[int]) -> list[int]:
    """Box rows of the union; empty when all the records have the same boxes, which is no repeat of that workflow."""
    kept: Counter[tuple[object, ...]] = Counter()
    union: list[int] = []
    lists = []
    for row in rows:
        own: Counter[tuple[object, ...]] = Counter()
        for box in range(index.starts[row], index.starts[row + 1]):
            names = int(index.boxes["text"][box]), int(index.boxes["label_ids"][box])
            key = (*index.boxes["boxes"][box].tolist(), *names)
            own[key] += 1
            if own[key] > kept[key]:
                kept[key] += 1
                union.append(box)
        lists.append(own)
    return [] if all(own == lists[0] for own in lists) else union


def save_index(index: Index, path: str) -> None:
    """Writes the file whole or not at all. Raises ResightError."""
    head = {
        "version": _VERSION,
        "shards": [[shard.name, shard.size, shard.stamp] for shard in index.shards],
        "strings": index.strings,
        "texts": index.texts,
    }
    columns = {f"record/{name}": np.ascontiguousarray(values) for name, values in index.records.items()}
    columns |= {f"box/{name}": np.ascontiguousarray(values) for name, values in index.boxes.items()}
    columns["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    with atomic_file(path) as partial, TFRecordWriter(partial) as file:
        file.write(save(columns))


def load_index(path: str, shards: Sequence[Shard]) -> Index | None:
    """The index at ``path`` if it is there, whole, of this version and of exactly these shards; one that is damaged is
    named, and then none."""
    if not os.path.lexists(path):
        return None
    try:
        _, data = next(read_tfrecord(path), (0, b""))
        columns = load(data)
        head = parse_json(columns["head"].tobytes())
        stored = [Shard(*shard) for shard in head["shards"]]
        if head["version"] != _VERSION or len(stored) != len(shards) or not all(map(_fits, stored, shards)):
            return None
        if not isinstance(head["texts"], list):
            raise ValueError("texts is not a list of strings")
        found = Index(
            shards=tuple(shards),
            records={name: columns[f"record/{name}"] for name in _RECORD_COLUMNS},
            boxes={name: columns[f"box/{name}"] for name in _BOX_COLUMNS},
            strings={name: head["strings"][name] for name in _STRINGS},
            texts=tuple(head["texts"]),
        )
        _check(found)
        return found
    except (ResightError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = error.message if isinstance(error, ResightError) else f"{type(error).__name__}: {error}"
        log.warning("%s", shortened(f"{path}: is not a usable index and is rebuilt from the records ({reason})"))
        return None


def _check(index: Index) -> None:
    """Raises ValueError where the columns are not what a scan of the shards can have found."""
    records, boxes, count, total = index.records, index.boxes, len(index), len(index.boxes["boxes"])
    kinds = dict.fromkeys(_RECORD_COLUMNS, np.int64) | _BOX_COLUMNS
    for name, column in (*records.items(), *boxes.items()):
        shape = (count if name in records else total, *((4,) if name == "boxes" else ()))
        if column.dtype != kinds[name] or column.shape != shape:
            raise ValueError(f"the column {name} is of another type or length")
    for name, texts in (*index.strings.items(), ("texts", list(index.texts))):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is not a list of strings")
        "".join(texts).encode()  # half a surrogate pair is no text
        if name != "texts" and len(texts) != count:
            raise ValueError(f"{name} has {len(texts)} texts for {count} records")
    bounds = {"shard": len(index.shards), "crc": 1 << 32, "length": 1 << 62, "count": total + 1}
    bounds |= {"width": 1 << 31, "height": 1 << 31, "text": len(index.texts)}
    for name, limit in bounds.items():
        values, low = boxes[name] if name == "text" else records[name], int(name in ("width", "height"))
        if len(values) and not (values.min() >= low and values.max() < limit):
            raise ValueError(f"{name} is out of its range")
    if records["count"].sum() != total:
        raise ValueError(f"{total} boxes, and the records have {records['count'].sum()}")
    # Records fill their shards one after the other, in the order of the index.
    if (np.diff(records["shard"]) < 0).any():
        raise ValueError("the records are not in their order")
    for number, shard in enumerate(index.shards):
        own = records["shard"] == number
        ends = np.concatenate([[0], np.cumsum(records["length"][own] + OVERHEAD)])
        fits = (records["length"][own] <= shard.size).all() and ends[-1] == shard.size
        if not fits or not np.array_equal(records["offset"][own], ends[:-1]):
            raise ValueError(f"the records do not fill {shard.name}")


def _fits(stored: Shard, found: Shard) -> bool:
    """Whether an index of ``stored`` is one of ``found``; a time and an ETag cannot be compared."""
    copied = isinstance(found.stamp, str) and not isinstance(stored.stamp, str)
    return stored == (replace(found, stamp=stored.stamp) if copied else found)
