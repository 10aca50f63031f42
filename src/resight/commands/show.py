"""Pictures of a data set with its boxes drawn: as it is stored, or as training sees it."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ..arguments import check_types
from ..config.defaults import Exif
from ..config.tree import Config
from ..datasets.exif import shown_boxes
from ..datasets.formats import Source, open_data
from ..datasets.summary import inspect_all
from ..dialect import load_config
from ..drawing import contact_sheet, draw, save_picture, tile_side
from ..errors import ResightError, listed, nearest
from ..io.files import open_file
from ..io.images import decode, read_bytes, upright
from ..io.misplaced import meant
from ..io.outputs import atomic_folder, check_output
from ..io.progress import track
from ..records.reader import Records, RecordSplit
from ..types import Annotation, named_split

log = logging.getLogger(__name__)

T = TypeVar("T")
View = tuple[str, np.ndarray, np.ndarray, list[str]]  # file name, [H, W, 3] uint8 RGB, [N, 4] xyxy pixels, N names
_MARK = b"drawn by resight data show"  # the JPEG comment by which --force knows its own pictures


def show_data(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "auto",
    exif: Exif = "auto",
    augment: bool = False,
    limit: int = 32,
    split: str = "train",
    config: Config | None = None,
    no_labels: bool = False,
    sheet: bool = False,
    force: bool = False,
) -> list[str]:
    """Draws images with their boxes and class names into ``out``, one JPEG each.

    As stored, the images are taken at equal distances from the whole split, and boxes are drawn as the data has them,
    bad ones too. A source that has no splits is one.

    Args:
        path: annotated images in any format, or a records folder.
        out: the folder to write, whole or not at all.
        format: the source's format, or "auto".
        exif: the frame of the boxes of rotated images, as in ``write_records``; named, only such images are drawn, if
            there are any.
        augment: draw what a training step is given: resized, flipped, cropped, recoloured. Needs records.
        limit: number of pictures at the most.
        split: "train", "val" or "test".
        config: its ``[augment]`` and image size are followed; by default the default configuration.
        no_labels: draw boxes alone; data of one class is drawn so anyway.
        sheet: one picture of them all, ``sheet.jpg``, each small and under its name.
        force: replace the pictures of an earlier call.

    Returns:
        Paths of the pictures.

    Raises:
        ResightError: the data cannot be read, has no such split, or ``out`` cannot be written.
    """
    check_types(locals(), show_data)
    if limit < 1:
        raise ResightError(f"is {limit}, and must be at least 1", where="--limit")
    check_output(out, force, _is_ours)
    config = config or load_config()
    source, records = open_data(path, format, config)
    part, training = named_split(split), config if augment else None
    views, total = _views(source, records, part, limit, exif, training, os.fspath(path))
    labelled = not no_labels and len(records.label_map.names if records else source.classes) != 1
    with atomic_folder(out, force, _is_ours) as folder:
        drawing = track(views, "drawing", total=total)
        names = _save_sheet(drawing, total, folder, labelled) if sheet else _save(drawing, folder, labelled)
        if not names:
            fix = f"Why: resight data check {shlex.quote(os.fspath(path))}"
            raise ResightError("there is no image to draw", where=path, fix=fix)
    return [os.path.join(os.fspath(out), name) for name in names]


def _views(
    source: Source, records: Records | None, split: str, limit: int, exif: str, training: Config | None, path: str
) -> tuple[Iterable[View], int]:
    """What is to be drawn, and of how many images: as stored, or as ``training`` by this configuration sees them."""
    parts = list(records.splits) if records else list(dict.fromkeys(a.split for a in source.annotations if a.split))
    if parts and split not in parts:
        fix = f"{nearest(split, parts)} There are {listed(parts)}: --split {parts[0]}".strip()
        raise ResightError(f"has no split '{split}'", where=path, fix=fix)
    if training is None:
        # Training takes the pixels of records as they are stored; a source is shown as its records will be.
        stored = records is not None and exif == "auto"
        chosen = _chosen(source, split, limit, None if stored else exif)
        return _drawable(chosen, stored), len(chosen)
    if records is None:
        fix = meant(path, "records")
        raise ResightError("--augment needs records, and this is a source", where=path, fix=fix)
    return training_view(records.splits[split], records.label_map.names, training, limit), limit


def training_view(split: RecordSplit, classes: Sequence[str], config: Config, limit: int) -> Iterator[View]:
    """The first ``limit`` images that training takes, as it sees them."""
    import torch  # which nothing else here needs

    from ..dialect import training_set
    from ..input.dataset import training_batches

    dataset = training_set(split, classes, config)
    for item in islice(chain.from_iterable(training_batches(split, config)), limit):
        example = dataset[item]
        if isinstance(example, ResightError):
            raise example
        labels, crowd = example.target.labels.tolist(), example.target.crowd.tolist()
        names = [
            f"{classes[label]} (ignored)" if ignored else classes[label]
            for label, ignored in zip(labels, crowd, strict=True)
        ]
        file = split.index.strings["filename"][item.record]
        yield file, example.image.round().to(torch.uint8).permute(1, 2, 0).numpy(), example.target.boxes.numpy(), names


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` items at equal distances: neighbours are often frames of one video."""
    count = min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _chosen(source: Source, split: str, limit: int, exif: str | None) -> list[Annotation]:
    """At most ``limit`` images of a split; boxes of those with an EXIF rotation are on the image as shown, unless
    ``exif`` is None."""
    items, habit = source.annotations, source.habit
    chosen = _spread([at for at, item in enumerate(items) if item.split in (split, None)], limit)
    if exif is None:
        return [items[at] for at in chosen]
    _, decision = inspect_all([items[at] for at in chosen], deep=False, habit=habit)
    if exif == "auto" and not decision.images:
        return [items[at] for at in chosen]
    found, decision = inspect_all(items, deep=False, exif=exif, habit=habit)
    if decision.asks:
        raise decision.question(source.path)
    rotated = {at: one.image for at, one in enumerate(found) if one.image and one.rotated and items[at].boxes}
    if exif != "auto":  # given explicitly: only images that it affects
        chosen = _spread(list(rotated), limit) or chosen
    drawn = []
    for at in chosen:
        image, boxes = rotated.get(at), items[at].boxes
        if image and decision.frame:
            boxes = shown_boxes(items[at], image, decision.frame, habit)
        drawn.append(replace(items[at], boxes=boxes))
    return drawn


def _drawable(annotations: Iterable[Annotation], stored: bool) -> Iterator[View]:
    for annotation in annotations:
        where = str(annotation.image)
        boxes = np.array([box.xyxy for box in annotation.boxes], np.float64).reshape(-1, 4)
        names = [f"{box.label} (crowd)" if box.crowd else box.label for box in annotation.boxes]
        try:
            data = read_bytes(annotation.image)
            yield annotation.filename, decode(data if stored else upright(data, where), where), boxes, names
        except ResightError as error:
            log.warning("not drawn: %s", error)


def _is_ours(path: Path) -> bool:
    try:
        with open_file(path) as file, Image.open(file, formats=["JPEG"]) as image:
            return image.info.get("comment") == _MARK
    except (ResightError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _save(views: Iterable[View], folder: Path, labelled: bool) -> list[str]:
    """Draws all views and gives the names of the files."""
    names: list[str] = []
    for number, (file, image, boxes, labels) in enumerate(views, 1):
        stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(os.path.basename(file))[0])[-80:]
        names.append(f"{number:04}-{stem}.jpg")
        picture = draw(image, boxes, labels, labels=labelled)
        save_picture(picture, folder / names[-1], subsampling=0, comment=_MARK)
    return names


def _save_sheet(views: Iterable[View], total: int, folder: Path, labelled: bool) -> list[str]:
    """Draws all views into one picture and gives the name of its file."""
    side = tile_side(total)
    tiles = []
    for file, image, boxes, labels in views:
        small = Image.fromarray(image)
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        scale = np.tile(np.array(small.size) / (image.shape[1], image.shape[0]), 2)
        tiles.append((os.path.basename(file), draw(np.asarray(small), boxes * scale, labels, labels=labelled)))
    if not tiles:
        return []
    save_picture(contact_sheet(tiles, side), folder / "sheet.jpg", comment=_MARK)
    return ["sheet.jpg"]
