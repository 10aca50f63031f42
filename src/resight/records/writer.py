"""Writes annotated images as a records folder, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import ResightError, listed
from ..io.images import probe, read_bytes, upright
from ..io.outputs import atomic_folder
from ..io.progress import track
from ..label_map import LabelMap, to_pbtxt
from ..types import SPLITS, Annotation
from .example import FLAGS, Record, encode_example
from .index import INDEX, IndexBuilder, Shard, save_index
from .reader import INFO, read_info
from .tfrecord import TFRecordWriter

_SHARD_BYTES = 512 << 20  # a shard is closed when it is larger
_LABEL_MAPS = {"resight": "label_map.pbtxt", "tfod": "classes.pbtxt"}


def write_records_folder(
    annotations_by_split: Mapping[str, Iterable[Annotation]],
    out: str | os.PathLike[str],
    label_map: LabelMap,
    *,
    info: Mapping[str, Any] | None = None,
    shards: int | None = None,
    layout: Literal["resight", "tfod"] = "resight",
    force: bool = False,
) -> dict[str, Any]:
    """Writes a records folder, whole or not at all: it is made beside ``out`` under a hidden name and renamed.

    Image files are copied byte for byte; one with an EXIF rotation is stored upright. Boxes are pixels of the upright
    image, their labels names of ``label_map``. Splits without images get no file.

    Args:
        annotations_by_split: under "train", "val" and "test"; may be generators.
        info: goes into `dataset.json`, beside the counts and the digest.
        shards: number of files of every split; by default one for every 512 MB.
        layout: names of the files; "tfod" writes training.record, testing.record, classes.pbtxt.
        force: replace a folder that holds nothing but what Resight wrote.

    Returns:
        What `dataset.json` says: ``info``, the numbers of ``images`` and ``boxes`` by split (and class), of images
        ``rotated`` upright, the ``digest`` and the ``files``.

    Raises:
        ResightError: ``out`` exists, cannot be written, an image cannot be read, a label is not in the map.
    """
    target = os.path.realpath(out)
    if unknown := [split for split in annotations_by_split if split not in SPLITS]:
        raise ResightError(f"unknown split: {listed(unknown)}", where=target, fix=f"Splits are {listed(SPLITS)}.")
    if shards is not None and shards < 1:
        raise ResightError(f"is {shards}, and must be at least 1", where="--shards")
    with atomic_folder(out, force, is_own) as folder:
        writer = _FolderWriter(folder, label_map, shards, layout)
        for split in (split for split in SPLITS if split in annotations_by_split):
            writer.write(split, annotations_by_split[split])
        if not writer.files:
            raise ResightError("there is no image to write", where=target)
        return writer.finish(info or {})


class _FolderWriter:
    """Writes the shards of one split after the other, then what describes them all."""

    def __init__(self, folder: Path, label_map: LabelMap, shards: int | None, layout: str) -> None:
        self.folder, self.label_map, self.shards, self.layout = folder, label_map, shards, layout
        self.builder = IndexBuilder()
        self.files: list[str] = []
        self.images: Counter[str] = Counter()
        self.boxes: dict[str, Counter[str]] = {}
        self.rotated = 0

    def write(self, split: str, annotations: Iterable[Annotation]) -> None:
        writers: list[TFRecordWriter] = []
        size, boxes = 0, Counter(dict.fromkeys(self.label_map.names, 0))
        with ExitStack() as stack:
            for number, annotation in enumerate(track(annotations, f"writing {split}")):
                if len(writers) < (self.shards or 1) or (not self.shards and size > _SHARD_BYTES):
                    writers.append(stack.enter_context(TFRecordWriter(self.folder / f"{split}-{len(writers)}")))
                shard = number % self.shards if self.shards else len(writers) - 1
                record, turned = _record(annotation, self.label_map)
                payload = encode_example(record)
                offset = writers[shard].write(payload)
                size = offset + len(payload)
                self.builder.add(len(self.files) + shard, offset, payload, annotation.where)
                self.rotated += turned
                self.images[split] += 1
                boxes.update(record.label_texts)
        for number, writer in enumerate(writers):
            self.files.append(_shard_name(self.layout, split, number, len(writers)))
            os.rename(writer.path, self.folder / self.files[-1])
            self.boxes[split] = boxes

    def finish(self, info: Mapping[str, Any]) -> dict[str, Any]:
        stats = {name: (self.folder / name).stat() for name in self.files}
        index = self.builder.build([Shard(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()])
        save_index(index, str(self.folder / INDEX))
        labels = _LABEL_MAPS[self.layout]
        (self.folder / labels).write_text(to_pbtxt(self.label_map), encoding="utf-8")
        boxes = {split: dict(counts) for split, counts in self.boxes.items()}
        counts = {"images": dict(self.images), "boxes": boxes, "rotated": self.rotated}
        said = {**info, **counts, "digest": index.digest, "files": [*self.files, labels]}
        with open(self.folder / INFO, "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(said, file, indent=2, ensure_ascii=False)
        return said


def is_own(path: Path) -> bool:
    """Whether Resight wrote this file of a records folder, as far as the folder's `dataset.json` tells."""
    files = read_info(path.parent).get("files")
    return isinstance(files, list) and path.name in (INDEX, INFO, *files)


def _shard_name(layout: str, split: str, number: int, total: int) -> str:
    if layout == "resight":
        return f"{split}-{number:05}-of-{total:05}.tfrecord"
    name = {"train": "training", "val": "validation", "test": "testing"}[split] + ".record"
    return name if total == 1 else f"{name}-{number:05}-of-{total:05}"


def _record(annotation: Annotation, label_map: LabelMap) -> tuple[Record, bool]:
    where = annotation.place
    data = read_bytes(annotation.image)
    header = probe(data, where)
    if turned := header.orientation != 1:
        data = upright(data, where)
        header = probe(data, where)
    boxes = annotation.boxes
    if unknown := {box.label for box in boxes if label_map.index_of(box.label) is None}:
        raise ResightError(f"labels that the label map does not have: {listed(sorted(unknown))}", where=where)
    items = [label_map.items[index] for box in boxes if (index := label_map.index_of(box.label)) is not None]
    record = Record(
        encoded=data,
        format=header.format,
        filename=annotation.filename,
        source_id=annotation.source_id,
        width=header.width,
        height=header.height,
        boxes=np.array([box.xyxy for box in boxes], np.float64).reshape(-1, 4),
        label_texts=tuple(item.name for item in items),
        label_ids=np.array([item.id for item in items], np.int64),
        **{flag: np.array([getattr(box, flag) for box in boxes], bool) for flag in FLAGS},
        area=np.array([np.nan if box.area is None else box.area for box in boxes], np.float32),
        group=annotation.group or "",
    )
    return record, turned
