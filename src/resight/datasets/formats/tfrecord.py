"""TFRecords of images with boxes, ours or the TensorFlow Object Detection API's, as a source to split or shard anew."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ...config.tree import DataConfig
from ...errors import listed
from ...io.files import IS_RECORD
from ...io.images import StoredImage
from ...label_map import LabelMap
from ...records.example import Record, decode_image_bytes
from ...records.reader import Records, RecordSplit, open_configured
from ...records.tfrecord import AnyFile, ShardReader
from ...types import Annotation, Box
from ..exif import Habit
from .dataset_dir import DatasetDir
from .source import Source

NAME = "tfrecord"
LOOKS_FOR = "files named *.tfrecord, *.tfrecords, *.record or *.records, sharded or not"

# tf.io.decode_image does not look at EXIF.
_HABIT = Habit("stored", "the TensorFlow Object Detection API decodes images without their rotation", shares=True)


@dataclass(frozen=True)
class RecordImage(StoredImage):
    """The image of one record, read when it is asked for."""

    file: AnyFile
    offset: int
    length: int

    def __fspath__(self) -> str:
        return f"{self.file}, byte {self.offset}"

    __str__ = __fspath__

    def read_bytes(self) -> bytes:
        payload = ShardReader([self.file], [0], [self.offset], [self.length])[0]
        return decode_image_bytes(payload, str(self))


def looks_like(tree: DatasetDir) -> str:
    files = [name for name in ([tree.only] if tree.only else tree.files) if IS_RECORD.search(name)]
    return listed(files, 1) if files else ""


def read(
    tree: DatasetDir, classes: Sequence[str] = (), labels: str | os.PathLike[str] | LabelMap | None = None
) -> Source:
    """Reads boxes and all else but the images, which are read from the records when their turn comes; damaged and
    missing records are problems. ``labels`` takes the place of a label map beside them."""
    path = tree.path(tree.only)
    return of_records(open_configured(DataConfig(path=path, on_bad_record="skip"), labels), path)


def of_records(records: Records, path: str) -> Source:
    """The images of an open folder of records; the two share their order."""
    shards = [file for split in records.splits.values() for file in split.reader.files]
    has_split = len(records.splits) > 1
    annotations: list[Annotation] = []
    for split in records.splits.values():
        annotations += (_annotation(split, i, record, shards, has_split) for i, record in enumerate(split.summaries))
    names, problems = records.label_map.names, list(records.problems)
    return Source(NAME, path, annotations, has_split, names, problems, habit=_HABIT)


def _annotation(split: RecordSplit, i: int, record: Record, shards: Sequence[AnyFile], has_split: bool) -> Annotation:
    shard, offset, length = (int(split.index.records[column][i]) for column in ("shard", "offset", "length"))
    image = RecordImage(shards[shard], offset, length)
    names = split.label_map.names
    boxes = []
    for at, label in enumerate(split.labels(record).tolist()):
        area = float(record.area[at])
        name = names[label] if label >= 0 else record.label_texts[at] or f"class {record.label_ids[at]}"
        xmin, ymin, xmax, ymax = record.boxes[at].tolist()
        flags = (bool(record.difficult[at]), bool(record.occluded[at]), bool(record.crowd[at]))
        boxes.append(Box(name, xmin, ymin, xmax, ymax, *flags, area=None if math.isnan(area) else area))
    name = record.filename or record.source_id or f"{split.name}-{i:06}"
    size, id, group = (record.width, record.height), record.source_id or name, record.group or None
    stated = split.name if has_split else None
    return Annotation(image, tuple(boxes), *size, name, id, group, stated, split.where(i))
