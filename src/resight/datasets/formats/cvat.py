"""CVAT's own XML, its export "CVAT for images 1.1": one file for a task or a project, boxes and other shapes.

Source: the XML annotation format in CVAT's documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from xml.etree.ElementTree import Element

from ...errors import ResightError, counted, listed
from ...io.files import LARGE, read_xml
from ...types import Box
from ..exif import Habit
from .dataset_dir import DatasetDir, folders_of, peek, split_of
from .source import AnnotationCollector, Source
from .values import Corners, Size, around, around_ellipse, around_rotated, flag, number, point, size, text

NAME = "cvat"
LOOKS_FOR = "CVAT's XML with the root element <annotations> (its export 'CVAT for images 1.1')"

# Since 2.2 images are shown after their EXIF rotation, before they were shown as stored; the size is of what is shown.
# https://github.com/cvat-ai/cvat/pull/4529
_HABIT = Habit("upright", "CVAT shows images after their EXIF rotation", sized=True)


def looks_like(tree: DatasetDir) -> str:
    files = sorted(tree.candidates(".xml"), key=lambda name: name.count("/"))[:50]
    sign = next((name for name in files if is_cvat(peek(tree.path(name)))), "")
    return f"CVAT's <annotations> in {sign}" if sign else ""


def is_cvat(head: str) -> bool:
    """Whether an XML that begins like this has CVAT's root element, and not VOC's."""
    return "<annotations" in head


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every such XML. Polygons, polylines, masks, ellipses and cuboids become the boxes around them, a rotated
    box too; an image's subset may tell its split."""
    collector = AnnotationCollector(tree)
    names: list[str] = []
    tracks: dict[str, int] = {}
    for name in tree.candidates(".xml"):
        file = tree.path(name)
        if not is_cvat(peek(file)) or (root := collector.tried("", read_xml, file, LARGE)) is None:
            continue
        labels = [label for label in root.iterfind("meta//label") if label.find("parent") is None]
        names += [label.findtext("name") or "" for label in labels]
        if found := len(root.findall("track")):
            tracks[file] = found
        for element in root.iter("image"):
            _read_image(collector, name, element)
    fix = "Export the task as 'CVAT for images 1.1', with its images."
    for file, count in tracks.items():
        collector.problem("video_tracks", file, f"holds {counted(count, 'track')} of a video, left out. {fix}")
    if not collector.images and tracks:
        raise ResightError("holds tracks of a video and no images", where=listed(tracks, 1), fix=fix)
    return replace(collector.source(NAME, list(filter(None, names))), habit=_HABIT)


def _read_image(collector: AnnotationCollector, name: str, element: Element) -> None:
    tree = collector.tree
    file, subset = tree.path(name), element.get("subset") or ""
    where = f"{file}: image {element.get('id') or element.get('name') or ''}".rstrip()
    places = tree.places(name, "", "images", f"images/{subset}", "..", "../images")
    path = ""
    try:
        called = text(element.get("name"), "name")
        split = split_of(subset, *folders_of(name))
        path = collector.locate(called, places, file=file, where=where, split=split)
        item = collector.image(path, file=file, where=where, split=split, once=True)
        item.width, item.height = size(element.get("width"), "width"), size(element.get("height"), "height")
        for shape in element:
            if shape.tag == "tag":  # of the whole image
                continue
            corners = _corners(shape, (item.width, item.height))
            if corners is None:
                collector.without_box[shape.tag].append(path)
                continue
            said = {(a.get("name") or "").strip().lower(): a.text for a in shape.iter("attribute")}
            difficult, occluded = flag(said.get("difficult")), flag(shape.get("occluded"))
            item.boxes[file].append(Box(text(shape.get("label"), "label"), *corners, difficult, occluded))
    except ValueError as error:
        collector.malformed(where, error, path)


def _corners(shape: Element, image: Size) -> Corners | None:
    """The box around a shape; None of one that has none."""

    def values(*names: str) -> list[float]:
        return [number(shape.get(name), name) for name in names]

    degrees = number(shape.get("rotation") or 0, "rotation")
    if shape.tag == "box":
        x1, y1, x2, y2 = values("xtl", "ytl", "xbr", "ybr")
        return around_rotated((x1, y1, x2, y2), degrees, ((x1 + x2) / 2, (y1 + y2) / 2), image)
    if shape.tag in ("polygon", "polyline"):
        return around(point(pair.split(",")) for pair in (shape.get("points") or "").split(";"))
    if shape.tag == "mask":
        x, y, width, height = values("left", "top", "width", "height")
        return x, y, x + width, y + height
    if shape.tag == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        return around_ellipse((x, y), (rx, ry), degrees, image)
    if shape.tag == "cuboid":
        corners = ["".join(parts) for parts in product("tb", "lr", "12")]
        return around((point(values(f"x{corner}", f"y{corner}")) for corner in corners), image)
    return None
