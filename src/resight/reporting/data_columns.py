"""A data set in columns: a row an image, a row a box, of records and of any other source alike."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from ..config.tree import Config
from ..datasets.formats import Source, holds_records, open_stored, read_source
from ..datasets.near_duplicates import perceptual_hash
from ..datasets.summary import inspect_all
from ..evaluation.saved import SavedEvaluation
from ..io.cores import core_count
from ..io.images import decode, open_image, read_bytes, upright
from ..io.progress import track
from ..records.example import decode_image_bytes
from ..records.reader import Records, RecordSplit
from ..types import SPLITS

log = logging.getLogger(__name__)
_FLAGS = ("crowd", "difficult", "occluded")


@dataclass(frozen=True, eq=False)
class DataColumns:
    """The images that training can take, I of them, and their usable boxes, B of them, cut off at the image's sides.

    Args:
        classes: names; ``label`` counts through them.
        files, places, splits, groups: ``[I]`` the name of each image, where a message says that something is wrong with
            it, its split and its group; None where it has none.
        sizes: ``[I, 2]`` int64 width and height in pixels, of photographs as they are shown.
        image: ``[B]`` int64 the image of each box; ``label``: ``[B]`` int64 its class.
        boxes: ``[B, 4]`` float64 xyxy in pixels of the image.
        flags: ``[B]`` bool by "crowd", "difficult", "occluded".
        left_out: images and boxes that are not in it, and other remarks on the source, by kind.
        encoded: gives the encoded bytes of an image by its number; ``stored``: its pixels are taken as they are stored.
    """

    format: str
    classes: tuple[str, ...]
    files: list[str]
    places: list[str]
    splits: list[str | None]
    groups: list[str | None]
    sizes: np.ndarray
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    flags: dict[str, np.ndarray]
    left_out: Counter[str]
    encoded: Callable[[int], bytes]
    stored: bool

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def parts(self) -> list[str | None]:
        """The splits there are, in their usual order; ``[None]`` where there are none."""
        return [*(split for split in SPLITS if split in self.splits), *([None] if None in self.splits else [])]

    def pixels(self, i: int) -> np.ndarray:
        """``[H, W, 3]`` uint8 RGB. Raises ResightError: the image is damaged, or gone."""
        data, where = self.encoded(i), self.places[i]
        return decode(data if self.stored else upright(data, where), where)

    def fingerprints(self) -> list[int | None]:
        """The perceptual hash of each image, all of which are decoded; None of a flat one, and of a damaged one, which
        ``left_out`` then counts."""
        rest = iter(track(range(len(self)), "looking for near-duplicates"))
        found: list[int | None] = []
        with ThreadPoolExecutor(min(16, core_count())) as pool:
            while window := list(islice(rest, 256)):
                found += pool.map(self._fingerprint, window)
        return found

    def _fingerprint(self, i: int) -> int | None:
        try:
            return perceptual_hash(open_image(self.encoded(i), self.places[i]))
        except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
            log.warning("not compared: %s: %s", self.places[i], error)
            self.left_out["unreadable_image"] += 1
            return None


def read_columns(path: str | os.PathLike[str], format: str, exif: str, config: Config) -> DataColumns:
    """Of anything that the command line calls DATA. Of a source the header of each image is read, of records the index
    alone. Raises ResightError: it cannot be read, or the frame of the boxes of rotated images must be asked for."""
    if holds_records(path, format):
        return _of_records(open_stored(path, config))
    return _of_source(read_source(path, format), exif)


def columns_of(evaluation: SavedEvaluation, split: RecordSplit) -> DataColumns:
    """Of the images and objects that were evaluated; ``split`` has their records."""
    objects, images = evaluation.objects, evaluation.images
    records = images["record"].tolist()
    return DataColumns(
        format="records",
        classes=evaluation.classes,
        files=list(evaluation.names),
        places=[split.where(record) for record in records],
        splits=[split.name] * len(evaluation),
        groups=[group or None for group in evaluation.groups],
        sizes=np.stack([images["width"], images["height"]], 1).astype(np.int64),
        image=evaluation.object_images,
        label=objects["labels"].astype(np.int64),
        boxes=objects["boxes"].astype(np.float64),
        flags={flag: objects[flag] for flag in _FLAGS},
        left_out=Counter(),
        encoded=lambda i: decode_image_bytes(split.reader[records[i]], split.where(records[i])),
        stored=True,
    )


def _of_records(records: Records) -> DataColumns:
    from ..input.dataset import boxes_inside  # torch comes with it

    parts = list(records.splits.values())
    starts = np.cumsum([0, *map(len, parts)])
    left_out = Counter(problem.kind for problem in records.problems)
    rows = []
    for first, split in zip(starts, parts, strict=False):
        inside, usable = boxes_inside(split.index.boxes["boxes"], np.tile(split.sizes, 2)[split.box_records])
        known = split.box_labels >= 0
        left_out += Counter(bad_box=int((known & ~usable).sum()), unknown_class=int((~known).sum()))
        keep = known & usable
        flags = [split.index.boxes[flag][keep] for flag in _FLAGS]
        rows.append((split.box_records[keep] + first, split.box_labels[keep], inside[keep].astype(np.float64), *flags))
    image, label, boxes, *flags = map(np.concatenate, zip(*rows, strict=True))

    def encoded(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        at = i - int(starts[part])
        return decode_image_bytes(parts[part].reader[at], parts[part].where(at))

    return DataColumns(
        format="records",
        classes=tuple(records.label_map.names),
        files=[name for split in parts for name in _names(split)],
        places=[split.where(i) for split in parts for i in range(len(split))],
        splits=[split.name for split in parts for _ in range(len(split))],
        groups=[group or None for split in parts for group in split.index.strings["group"]],
        sizes=np.concatenate([split.sizes for split in parts]),
        image=image,
        label=label,
        boxes=boxes,
        flags=dict(zip(_FLAGS, flags, strict=True)),
        left_out=left_out,
        encoded=encoded,
        stored=True,
    )


def _names(split: RecordSplit) -> Iterable[str]:
    strings = split.index.strings
    for i, (filename, source_id) in enumerate(zip(strings["filename"], strings["source_id"], strict=True)):
        yield filename or source_id or f"{split.name}-{i:06}"


def _of_source(source: Source, exif: str) -> DataColumns:
    found, decision = inspect_all(source.annotations, deep=False, exif=exif, habit=source.habit)
    if decision.asks:
        raise decision.question(source.path)
    images = [one.annotation for one in found if one.annotation]
    boxes = [(number, box) for number, image in enumerate(images) for box in image.boxes]
    classes = (*source.classes, *sorted({box.label for _, box in boxes} - set(source.classes)))
    labels = {name: number for number, name in enumerate(classes)}
    problems = (*source.problems, *(problem for one in found for problem in one.problems))
    return DataColumns(
        format=source.format,
        classes=classes,
        files=[image.filename for image in images],
        places=[image.place for image in images],
        splits=[image.split for image in images],
        groups=[image.group or None for image in images],
        sizes=_array([(image.width, image.height) for image in images], np.int64, 2),
        image=np.array([number for number, _ in boxes], np.int64),
        label=np.array([labels[box.label] for _, box in boxes], np.int64),
        boxes=_array([box.xyxy for _, box in boxes], np.float64, 4),
        flags={flag: np.array([getattr(box, flag) for _, box in boxes], bool) for flag in _FLAGS},
        left_out=Counter(problem.kind for problem in problems),
        encoded=lambda i: read_bytes(images[i].image),
        stored=False,
    )


def _array(rows: Sequence[object], dtype: type, columns: int) -> np.ndarray:
    return np.array(rows, dtype).reshape(-1, columns)
