"""Annotated images in the formats people have. One module is one format; ``FORMATS`` is the only list of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ...config.tree import Config
from ...errors import ResightError, counted, listed, nearest
from ...io.misplaced import meant
from ...io.object_store import is_remote
from ...label_map import LabelMap
from ...records.reader import Records, open_configured
from . import coco, csv_table, cvat, labelme, labelstudio, lisa, tfrecord, voc, yolo
from .dataset_dir import DatasetDir
from .source import Source

__all__ = ["FORMATS", "Format", "Source", "holds_records", "open_data", "open_stored", "read_source", "recognised"]


class Format(Protocol):
    """What the module of a format offers."""

    NAME: str
    LOOKS_FOR: str

    def looks_like(self, tree: DatasetDir) -> str:
        """The evidence that ``tree`` is of this format, "" if there is none."""

    def read(self, tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
        """Reads it; ``classes`` name its numbers where the format has names nowhere."""


FORMATS: tuple[Format, ...] = (lisa, coco, voc, yolo, csv_table, tfrecord, cvat, labelme, labelstudio)

_PACKED = (".gz", ".tgz", ".zip", ".tar", ".bz2", ".xz", ".7z", ".rar")


def read_source(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    classes: Sequence[str] = (),
    labels: str | os.PathLike[str] | LabelMap | None = None,
) -> Source:
    """Reads the annotations of a folder, or of one annotation file.

    Args:
        path: a folder, or a CSV, JSON, XML, YAML or TFRecord file.
        format: one of ``FORMATS``'s names, or "auto" to look which one it is.
        classes: names for class numbers, where the source has only numbers.
        labels: the label map of TFRecords that have none beside them.

    Raises:
        ResightError: nothing of that format is there, several formats are, or a file cannot be read at all.
    """
    by_name = {module.NAME: module for module in FORMATS}
    if format != "auto" and format not in by_name:
        fix = nearest(format, by_name) or f"Formats are auto, {', '.join(by_name)}."
        raise ResightError(f"unknown format '{format}'", where="--format", fix=fix)
    tree = DatasetDir.of(path)
    found = recognised(tree, FORMATS if format == "auto" else (by_name[format],))
    if len(found) != 1:
        raise _explain(os.fspath(path), tree, format, by_name)
    name, evidence = found.popitem()
    source = tfrecord.read(tree, classes, labels) if name == tfrecord.NAME else by_name[name].read(tree, classes)
    return replace(source, note=evidence)


def open_data(path: str | os.PathLike[str], format: str, config: Config) -> tuple[Source, Records | None]:
    """Opens what the command line calls DATA: a source, or a records folder, then both as a source and as records.
    Damaged records are left out and listed in ``Source.problems``. Raises as ``open_records`` and ``read_source``."""
    if not holds_records(path, format):
        return read_source(path, format), None
    records = open_stored(path, config)
    return tfrecord.of_records(records, os.fspath(path)), records


def open_stored(path: str | os.PathLike[str], config: Config) -> Records:
    """The records of a folder, damaged ones left out and listed in ``Records.problems``."""
    return open_configured(config.data.model_copy(update={"path": os.fspath(path), "on_bad_record": "skip"}))


def holds_records(path: str | os.PathLike[str], format: str = "auto") -> bool:
    """Whether DATA is records, and not a source."""
    if format != "auto" or is_remote(path):  # only records are read from a store
        return format in ("auto", tfrecord.NAME)
    return recognised(DatasetDir.of(path)).keys() == {tfrecord.NAME}


def recognised(tree: DatasetDir, formats: Sequence[Format] = FORMATS) -> dict[str, str]:
    """The evidence for each of ``formats`` that ``tree`` may be of, by its name."""
    return {one.NAME: evidence for one in formats if (evidence := one.looks_like(tree))}


def _explain(path: str, tree: DatasetDir, format: str, by_name: dict[str, Format]) -> ResightError:
    if not tree.only and not tree.files:
        return ResightError("the folder is empty", where=path)
    found = recognised(tree)
    seen = "\n  ".join(f"{name}: found {evidence}" for name, evidence in found.items())
    if format != "auto":
        fix = f"What is there looks like\n  {seen}" if found else "Nor does it look like any other known format."
        message = f"holds nothing in the format '{format}', which is {by_name[format].LOOKS_FOR}"
        return ResightError(message, where=path, fix=fix)
    if found:
        fix = f"{seen}\n  Choose with --format {'|'.join(found)}, or name one annotation file instead of the folder."
        return ResightError(f"holds annotations in {len(found)} formats", where=path, fix=fix)
    count = "" if tree.only else f" among its {counted(len(tree.files), 'file')}, {len(tree.images):,} of them images"
    nothing = f"no annotations of a known format found{count}"
    if packed := [name for name in ([tree.only] if tree.only else tree.files) if name.lower().endswith(_PACKED)]:
        return ResightError(nothing, where=path, fix=f"Unpack {listed(packed, 3)}")
    looked = "\n  ".join(f"{name}: {module.LOOKS_FOR}" for name, module in by_name.items())
    return ResightError(nothing, where=path, fix=meant(path, "annotations") or f"Looked for\n  {looked}")
