"""LabelMe: one JSON for each image, with its shapes.

Source: the JSON that LabelMe 3 to 5 writes, and its descendants (AnyLabeling, X-AnyLabeling).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import ResightError, counted
from ...io.files import LARGE, read_json
from ...io.progress import track
from ...types import Box
from ..exif import Habit
from ..file_search import Match, stem_of
from .dataset_dir import DatasetDir, peek, told_split
from .source import AnnotationCollector, Source
from .values import Corners, Size, around, around_ellipse, point, size, text

NAME = "labelme"
LOOKS_FOR = "JSON files with 'shapes' and 'imagePath', as LabelMe writes them"

# Since 3.9 images are opened after their EXIF rotation, before as stored; the size is of the image as it was opened.
# https://github.com/wkentaro/labelme/pull/305
_HABIT = Habit("upright", "LabelMe shows images after their EXIF rotation", sized=True)
_AROUND = ("rectangle", "oriented_rectangle", "polygon", "mask", "rotation")


def looks_like(tree: DatasetDir) -> str:
    files = tree.candidates(".json")
    sign = next((name for name in files[:50] if is_labelme(peek(tree.path(name), 65536))), "")
    return f"{counted(len(files), 'JSON file')}, in {sign} LabelMe's shapes" if sign else ""


def is_labelme(head: str) -> bool:
    """Whether a JSON that begins like this has LabelMe's keys; with sorted keys the image comes first, and is long."""
    return '"imageData"' in head or ('"shapes"' in head and ('"imagePath"' in head or '"points"' in head))


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every JSON: rectangles, and polygons, masks and circles as the boxes around them. The image is the one that
    ``imagePath`` names, else the JSON's namesake."""
    collector = AnnotationCollector(tree)
    for name in track(tree.candidates(".json"), "reading LabelMe"):
        file = tree.path(name)
        try:
            document = read_json(file, LARGE)
        except ResightError as error:
            collector.malformed(error.where, error.message)
            continue
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            collector.problem("not_an_annotation", file, "has no list 'shapes', left out", "warning")
            continue
        _read_file(collector, name, document)
    return replace(collector.source(NAME), habit=_HABIT)


def _read_file(collector: AnnotationCollector, name: str, document: dict[str, Any]) -> None:
    file, path = collector.tree.path(name), ""
    try:
        path = _image(collector, name, document)
        item = collector.image(path, file=file, where=file, split=told_split(name), alone=True)
        if document.get("imageData") and not os.path.isfile(path):
            item.spoiled = True
            remedy = "embedded in the JSON: write its imageData (base64) to it"
            collector.problem("missing_image", file, f"{os.path.basename(path)} is not here, but {remedy}")
        item.width, item.height = (size(document.get(key), key) for key in ("imageWidth", "imageHeight"))
    except ValueError as error:
        collector.malformed(file, error, path)
        return
    for at, shape in enumerate(document["shapes"]):
        try:
            if not isinstance(shape, dict):
                raise ValueError("is not a shape")
            kind = shape.get("shape_type") or "polygon"
            corners = _corners(str(kind), shape.get("points"), (item.width, item.height))
            if corners is None:
                collector.without_box[str(kind)].append(path)
                continue
            flags = shape["flags"] if isinstance(shape.get("flags"), dict) else {}
            difficult, occluded = (bool(shape.get(key) or flags.get(key)) for key in ("difficult", "occluded"))
            item.boxes[file].append(Box(text(shape.get("label"), "label"), *corners, difficult, occluded))
        except ValueError as error:
            collector.malformed(f"{file}: shapes[{at}]", error, path)


def _corners(kind: str, points: object, image: Size) -> Corners | None:
    """The box around a shape; None of one that has none."""
    if kind != "circle" and kind not in _AROUND:
        return None
    if not isinstance(points, list):
        raise ValueError("'points' is missing or not a list")
    at = [point(pair) for pair in points]
    if kind != "circle":
        return around(at)
    if len(at) != 2:
        raise ValueError(f"a circle has {len(at)} points, not its centre and one on it")
    return around_ellipse(at[0], [math.dist(*at)] * 2, 0, image)


def _image(collector: AnnotationCollector, name: str, document: dict[str, Any]) -> str:
    tree, file, split = collector.tree, collector.tree.path(name), told_split(name)
    places = tree.places(name, "", "../images", "..")
    stated = str(document.get("imagePath") or "").replace("\\", "/")
    match = collector.find(stated, places, file=file, split=split) if stated.strip() else Match()
    if not (match.path or match.candidates):
        own = collector.find(stem_of(name), places, file=file, split=split)
        if own.path or own.candidates:  # files are renamed in pairs
            match, stated = replace(own, rung=0), stem_of(name)
    if not (stated.strip() or match.path or match.candidates):
        raise ValueError("'imagePath' is missing, and there is no image of the JSON's own name")
    return collector.found(stated, match, os.path.join(places[0], stated), file=file, where=file)
