"""TFOD-style tables: ``filename,width,height,class,xmin,ymin,xmax,ymax``, one row per box."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import listed
from ...types import Box
from ..file_search import stem_of
from .dataset_dir import DatasetDir, folders_of, peek, split_of
from .source import AnnotationCollector, Source
from .values import number, size, text

NAME = "csv"
LOOKS_FOR = "a CSV with the columns filename, class, xmin, ymin, xmax, ymax"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def looks_like(tree: DatasetDir) -> str:
    files = _files(tree)
    return f"the columns filename, class, xmin, ... in {listed(files, 1)}" if files else ""


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every table; its name or folder may tell the split. A row without class and corners lists an image
    without objects."""
    collector = AnnotationCollector(tree)
    for name, delimiter in _files(tree).items():
        file, split = tree.path(name), split_of(stem_of(name), *folders_of(name))
        # Beside the table, in images/ beside it or above, or in a split's folder of either.
        bases = ["", "images", "..", "../images"]
        splits = [word for word in ("train", "val", "valid", "validation", "test") if split_of(word) == split]
        places = tree.places(name, *bases, *(f"{base}/{word}".lstrip("/") for base in bases for word in splits))
        for where, image, row in collector.table(name, delimiter, ("class", *_CORNERS), places, split):
            try:
                entry = collector.images[image]
                entry.width = entry.width or size(row.get("width"), "width")
                entry.height = entry.height or size(row.get("height"), "height")
                if any(row[key] for key in ("class", *_CORNERS)):
                    label = text(row["class"], "class")
                    xmin, ymin, xmax, ymax = (number(row[key], key) for key in _CORNERS)
                    entry.boxes[file].append(Box(label, xmin, ymin, xmax, ymax))
            except ValueError as error:
                collector.malformed(where, error, image)
    return collector.source(NAME)


def _files(tree: DatasetDir) -> dict[str, str]:
    found = {}
    for name in tree.candidates(".csv"):
        header = peek(tree.path(name)).partition("\n")[0]
        for delimiter in ",;\t":
            columns = {cell.strip().strip('"').lower() for cell in header.split(delimiter)}
            if {"filename", "class", *_CORNERS} <= columns:
                found[name] = delimiter
    return found
