"""Folders of records: opened with their splits and label map, whichever tool wrote them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config.tree import DataConfig
from ..errors import Problem, ResightError, counted, listed
from ..io import object_store as storage
from ..io.block_cache import BlockCache, CachedFile
from ..io.files import IS_RECORD, SMALL, decode_text, parse_json, read_text
from ..io.images import ALLOWED, decode
from ..io.object_store import is_remote
from ..label_map import LabelMap
from ..types import SPLITS
from .discover import MISSING, find_label_map, find_records, is_file
from .example import Record, decode_image_bytes
from .index import Index, merge_repeats, open_index
from .tfrecord import ShardReader

log = logging.getLogger(__name__)

INFO = "dataset.json"
_PIXELS = 3  # a share of a side this large cannot be meant


@dataclass(frozen=True, eq=False)
class RecordSplit:
    """The images of one split, in a fixed order; ``split[i]`` is a :class:`Record` with its image, CRC verified. Can be
    pickled. ``repeats`` is how many records were joined to another of the same image."""

    name: str
    shards: tuple[str, ...]
    label_map: LabelMap
    repeats: int
    index: Index
    reader: ShardReader

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Record:
        i = range(len(self))[i]
        return self.index.record(i, decode_image_bytes(self.reader[i], self.where(i)))

    def pixels(self, i: int, record: Record) -> np.ndarray:
        """The image of ``record``, which is ``self[i]``, ``[H, W, 3]`` uint8 RGB as stored. Raises ResightError where
        it is damaged, and says how to go on without it."""
        try:
            return decode(record.encoded, self.where(i))
        except ResightError as error:
            fix = "Leave it out: data build RECORDS -o NEW --on-bad skip, or train --set data.on_bad_record=skip."
            raise ResightError(error.message, where=error.where, fix=fix) from error

    def where(self, i: int) -> str:
        """File and byte offset of an image's record, for messages."""
        return self.reader.where(i)

    @property
    def shard_numbers(self) -> np.ndarray:
        """``[len]`` int64: the shard that each record lies in, counted through."""
        return np.unique(self.index.records["shard"], return_inverse=True)[1]

    def check_window(self, window: int) -> None:
        """Raises ResightError where the local cache cannot hold the shards that are shuffled together, and one more."""
        remote = [file for file in self.reader.files if isinstance(file, CachedFile)]
        sizes = sorted((file.size for file in remote), reverse=True)[: window + 1]
        if remote and sum(sizes) > (limit := remote[0].cache.limit):
            message = f"{limit / 1e9:g} GB cannot hold {len(sizes)} shards of {sum(sizes) / 1e9:.3g} GB"
            fix = "Allow more, or shuffle fewer shards together with a smaller data.window."
            raise ResightError(message, where="data.cache_gb", fix=fix)

    @property
    def summaries(self) -> list[Record]:
        """All records without their images (``encoded`` is empty), made from the index; 2 KB each."""
        return [self.index.record(i) for i in range(len(self))]

    @property
    def sizes(self) -> np.ndarray:
        """``[len, 2]`` int64 widths and heights."""
        return np.stack([self.index.records["width"], self.index.records["height"]], axis=1)

    @property
    def box_records(self) -> np.ndarray:
        """``[M]`` int64: the record of each box, in the order of the index."""
        return np.repeat(np.arange(len(self)), self.index.records["count"])

    @cached_property
    def box_labels(self) -> np.ndarray:
        """``[M]`` int64: what ``labels`` says of each box, in the order of the index."""
        pairs, which, _ = self.index.classes()
        found = [_class(self.label_map, self.index.texts[text], id) for text, id in pairs.tolist()]
        return np.array(found, np.int64)[which]

    def labels(self, record: Record) -> np.ndarray:
        """``[N]`` int64 class indices: by the text where there is one, else by the number; -1 where unknown."""
        pairs = zip(record.label_texts, record.label_ids.tolist(), strict=True)
        return np.array([_class(self.label_map, text, id) for text, id in pairs], np.int64)


@dataclass(frozen=True, eq=False)
class Records:
    """A records folder: ``splits`` has "train", "val" and "test" as far as they exist, ``info`` is what `dataset.json`
    says, ``digest`` names the data wherever it lies."""

    path: str
    label_map: LabelMap
    splits: dict[str, RecordSplit]
    info: dict[str, Any]
    digest: str
    problems: list[Problem]

    def by_id(self) -> Records:
        """The same with each class at the place of its id less one (see :meth:`resight.label_map.LabelMap.by_id`)."""
        labels = self.label_map.by_id()
        splits = {name: replace(split, label_map=labels) for name, split in self.splits.items()}
        return replace(self, label_map=labels, splits=splits)


def open_records(path: str | os.PathLike[str], **options: Any) -> Records:
    """``open_configured`` of a folder, or of one file of records; ``options`` are other keys of `[data]`."""
    return open_configured(DataConfig(path=os.fspath(path), **options))


def open_configured(data: DataConfig, labels: str | os.PathLike[str] | LabelMap | None = None) -> Records:
    """Opens records of any origin, local or in a store, as the configuration says: by the names of their files where
    it has no globs. With ``on_bad_record`` "skip", damaged records and missing shards are in ``.problems``.

    Args:
        labels: the label map to read by where none lies beside the records.

    Raises:
        ResightError: nothing there, names that do not tell, missing shards or damaged records (all are listed).
    """
    if data.max_image_mb is not None:
        os.environ[ALLOWED] = str(data.max_image_mb)  # the processes that load images inherit it
    root = data.path.rstrip("/") if is_remote(data.path) else data.path
    problems: list[Problem] = []
    globs = {name: given for name in SPLITS if (given := getattr(data, name))}
    found = find_records(root, globs, problems)
    paths = [file for files in found.values() for file in files]
    folder = os.path.dirname(paths[0]) if is_file(root) or not root else root
    map_file, label_map = find_label_map(folder, data.label_map, labels)
    problems.extend(label_map.problems)
    info: dict[str, Any] = {}
    try:
        info = read_info(folder)
    except ResightError as error:  # it tells only where the records come from
        problems.append(Problem("error", "damaged_info", error.where, f"{error.message}. {error.fix}"))
    if not globs and not is_file(root) and (stated := _missing(folder, info)):
        problems[:] = [*(problem for problem in problems if problem.kind != MISSING), *stated]
    if data.on_bad_record == "stop" and (missing := [problem for problem in problems if problem.kind == MISSING]):
        fix = "Copy them too, or build the records again. To train without them: --set data.train=GLOB (val, test)."
        raise ResightError("; ".join(p.message for p in missing), where=missing[0].where, fix=fix)
    opened = _opened(paths, data.cache_gb)
    index = open_index(folder, opened, beside=bool(info) and not globs)
    _report_damage(index, data.on_bad_record, problems)
    splits: dict[str, RecordSplit] = {}
    first = 0
    for name, files in found.items():
        own = opened[first : first + len(files)]
        splits[name], found_there = _split(name, own, first, index, label_map, not data.as_stored)
        problems += found_there
        first += len(files)
    for split in splits.values():
        problems.extend(_label_problems(split, map_file))
    problems.extend(problem for split in splits.values() if (problem := _pixel_problem(split)))
    return Records(root, label_map, splits, info, index.digest, problems)


def _split(
    name: str, files: list[str | CachedFile], first: int, index: Index, labels: LabelMap, joins: bool
) -> tuple[RecordSplit, list[Problem]]:
    problems: list[Problem] = []
    shard = index.records["shard"]
    part = index.take(np.flatnonzero((shard >= first) & (shard < first + len(files))))
    if not len(part):
        problems.append(Problem("error", "empty_split", listed(files, 3), f"{name} holds no records"))
    part, repeats = merge_repeats(part) if joins else (part, 0)
    if repeats:
        what = f"{repeats} records of {name} repeat an image with other boxes"
        message = f"{what}; each image is read once, with all its boxes"
        problems.append(Problem("warning", "repeated_image", listed(files, 3), message))
        log.warning("%s", message)
    shard, offset, length, crc = (part.records[column] for column in ("shard", "offset", "length", "crc"))
    reader = ShardReader(files, shard - first, offset, length, crc)
    return RecordSplit(name, tuple(map(str, files)), labels, repeats, part, reader), problems


def _class(labels: LabelMap, text: str, id: int) -> int:
    found = labels.index_of(text) if text else labels.index_of_id(id)
    return -1 if found is None else found


def _label_problems(split: RecordSplit, map_file: str) -> Iterator[Problem]:
    """Classes that the label map does not know, and numbers that say another class than the text."""
    labels = split.label_map
    pairs, _, counts = split.index.classes()
    for (text_number, id), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        text = split.index.texts[text_number]
        by_id = labels.index_of_id(id)
        what = f"{count} box{'es' * (count != 1)} of {split.name} with the class "
        what += f"text '{text}'" if text else f"number {id}"
        if _class(labels, text, id) < 0:
            number = f"; their number {id} is '{labels.names[by_id]}'" if text and by_id is not None else ""
            yield Problem("error", "unknown_class", split.shards[0], f"{what}, unknown to {map_file}{number}")
        elif text and id and by_id != labels.index_of(text):
            other = f"'{labels.names[by_id]}'" if by_id is not None else "unknown"
            message = f"{what} and the number {id}, which is {other} in {map_file}; the text counts"
            yield Problem("warning", "class_disagrees", split.shards[0], message)


def _pixel_problem(split: RecordSplit) -> Problem | None:
    """Corners in pixels, where records hold shares of the image: everything would lie far outside."""
    records, boxes = split.index.records, split.index.boxes["boxes"]
    sizes = np.repeat(np.stack([records["width"], records["height"]], axis=1), records["count"], axis=0)
    beyond = int((boxes > _PIXELS * np.tile(sizes, 2)).any(axis=1).sum())
    if not beyond or beyond < len(boxes) / 2:
        return None
    what = f"{beyond:,} of {counted(len(boxes), 'box', 'boxes')} of {split.name} have corners far above 1"
    message = f"{what}: these look like pixel coordinates; records store normalised ones"
    return Problem("error", "pixel_box", split.shards[0], message)


def _report_damage(index: Index, on_bad: str, problems: list[Problem]) -> None:
    if on_bad == "skip" or not index.damaged:
        problems.extend(Problem("error", "damaged_record", where, message) for where, message in index.damaged)
        return
    (where, message), *others = index.damaged
    if others:
        message += f"; {len(others)} more damaged: {listed((f'{w}: {m}' for w, m in others), 5)}"
    fix = "Copy or build the records again, or train without the damaged ones: train --set data.on_bad_record=skip."
    raise ResightError(message, where=where, fix="" if "gunzip" in message else fix)  # nothing would be left of that


def _opened(paths: list[str], gigabytes: float) -> list[str | CachedFile]:
    """Remote shards, read through a cache of so many ``gigabytes``; local ones stay paths."""
    remote = {path for path in paths if is_remote(path)}
    if not remote:
        return list(paths)
    if len(remote) < len(paths):
        raise ResightError("some records are local and some remote", where=listed(paths, 3), fix="Copy them together.")
    cache = BlockCache(int(gigabytes * 1e9))
    stored = [one for folder in {path.rpartition("/")[0] for path in remote} for one in storage.find(folder)]
    found = {one.address: CachedFile(one.address, one.size, one.etag, cache) for one in stored}
    return [found[path] for path in paths]


def _missing(folder: str, info: Mapping[str, Any]) -> list[Problem]:
    """The shards that the folder says it has, and has not."""
    stated = info.get("files")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    there = {found.address for found in storage.find(folder)} if is_remote(folder) else set()
    paths = {name: os.path.join(folder, name) for name in names if IS_RECORD.search(name)}
    gone = [name for name, path in paths.items() if path not in there and not os.path.exists(path)]
    message = f"names records that are missing: {listed(gone, 1000)}"
    return [Problem("error", MISSING, os.path.join(folder, INFO), message)] if gone else []


def read_info(folder: str | Path) -> dict[str, Any]:
    path = os.path.join(folder, INFO)
    if not (storage.stat(path) if is_remote(path) else os.path.exists(path)):
        return {}
    try:
        info = parse_json(decode_text(storage.read(path), path) if is_remote(path) else read_text(path, SMALL))
        if isinstance(info, dict):
            return info
        raise ResightError("it is not a JSON object")
    except storage.StorageError:
        raise
    except ResightError as error:
        fix = "Restore it, or delete it: records are read without it too."
        raise ResightError(f"cannot read the description of the records: {error}", where=path, fix=fix) from error
