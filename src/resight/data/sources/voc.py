"""Pascal VOC: one XML for each image, splits in ImageSets/Main or in folders.

Source: the VOC development kit; labelImg and Roboflow write the same XML beside or apart from the images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from xml.etree import ElementTree

from ...boxes import Box, Split
from ...errors import ResightError, listed
from ...progress import track
from ..images import IMAGE_SUFFIXES, read_bytes
from .source import Gathering, Source, Tree, flag, folders_of, number, peek, read_text, size, split_of, text

NAME = "voc"
LOOKS_FOR = "XML files with the root element <annotation>"

_LIST = re.compile(r"^(?:(.*)/)?ImageSets/(?:Main/)?(\w+)\.txt$")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")

Listing = Callable[[str], dict[str, str]]  # a folder's images, listed once


def looks_like(tree: Tree) -> str:
    files = tree.candidates(".xml")
    sign = next((name for name in files[:20] if tree.only or "<annotation" in peek(tree.path(name))), "")
    return f"{len(files)} XML files, in {sign} an <annotation>" if sign else ""


def read(tree: Tree, classes: Sequence[str] = ()) -> Source:
    """Reads every XML. The image is the one with the XML's own name, else the one its ``<filename>`` names. With
    ImageSets, images in none of its lists are left out."""
    gathering = Gathering(tree)
    sets = {} if tree.only else _image_sets(gathering)
    places, listing = cache(partial(_places, tree)), cache(_listing)
    for name in track(tree.candidates(".xml"), "reading VOC"):
        folder, stem = os.path.dirname(name), os.path.splitext(os.path.basename(name))[0]
        split = sets.pop((os.path.dirname(folder), stem), None) if sets else split_of(*folders_of(name))
        _read_file(gathering, listing, places(folder), tree.path(name), stem, split)
    if sets:
        message = f"{len(sets)} names in ImageSets have no XML, left out: {listed(stem for _, stem in sets)}"
        gathering.problem("missing_annotation", tree.root, message)
    return gathering.source(NAME)


def _read_file(
    gathering: Gathering, listing: Listing, places: list[str], file: str, stem: str, split: Split | None
) -> None:
    try:
        root = ElementTree.fromstring(read_bytes(file))
    except ElementTree.ParseError as error:
        line, column = error.position
        gathering.malformed(f"{file}:{line}:{column}", f"is not valid XML: {error}")
        return
    except (ResightError, ValueError, LookupError) as error:  # unreadable, or of an encoding that is none
        gathering.malformed(file, error.message if isinstance(error, ResightError) else f"is not valid XML: {error}")
        return
    if root.tag != "annotation":
        gathering.problem("not_an_annotation", file, f"its root is <{root.tag}>, left out", "warning")
        return
    path = _image(gathering, listing, places, file, stem, (root.findtext("filename") or "").strip())
    boxes = gathering.image(path, file=file, where=file, split=split)
    item = gathering.images[path]
    if len(item.boxes) > 1:
        gathering.problem("duplicate_image", file, f"annotates {path} like {next(iter(item.boxes))}")
    try:
        item.width = size((root.findtext("size/width") or "").strip(), "width")
        item.height = size((root.findtext("size/height") or "").strip(), "height")
    except ValueError as error:
        gathering.malformed(file, error, path)
    for at, element in enumerate(root.iter("object"), 1):
        try:
            label = text(element.findtext("name"), "name")
            xmin, ymin, xmax, ymax = (number(element.findtext(f"bndbox/{corner}"), corner) for corner in _CORNERS)
            difficult, occluded = flag(element.findtext("difficult")), flag(element.findtext("occluded"))
            boxes.append(Box(label, xmin, ymin, xmax, ymax, difficult, occluded))
        except ValueError as error:
            gathering.malformed(f"{file}: object {at}", error, path)


def _image(gathering: Gathering, listing: Listing, places: list[str], file: str, stem: str, declared: str) -> str:
    declared = declared.replace("\\", "/").rpartition("/")[2]

    def find(name: str) -> str:
        return next((os.path.join(place, found) for place in places if (found := listing(place).get(name))), "")

    if os.path.splitext(declared)[0] == stem and (path := find(declared)):
        return path
    if path := find(stem):
        # Files are renamed in pairs more often than <filename> is kept up.
        if os.path.splitext(declared)[0] != stem and find(declared):
            message = f"its <filename> is {declared}, but {os.path.basename(path)} has its own name and is taken"
            gathering.problem("name_mismatch", file, message, "warning")
        return path
    return find(declared) or gathering.locate(declared or f"{stem}.jpg", places)


def _listing(folder: str) -> dict[str, str]:
    """The images of a folder by their names, and by their names without suffix."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES))
    except OSError:  # most of the folders looked for do not exist
        return {}
    return {os.path.splitext(name)[0]: name for name in reversed(names)} | {name: name for name in names}


def _places(tree: Tree, folder: str) -> list[str]:
    """Where the images of the XMLs of ``folder`` may be: beside them, or in an images folder in its place."""
    parts = folder.split("/") if folder else []
    swaps = [
        [*parts[:at], images, *parts[at + 1 :]]
        for at in reversed(range(len(parts)))
        if parts[at].lower() in _ANNOTATION_FOLDERS
        for images in _IMAGE_FOLDERS
    ]
    near = [[*base, images] for base in (parts, parts[:-1]) for images in _IMAGE_FOLDERS]
    return [tree.path("/".join(place)) for place in [parts, *swaps, *near, parts[:-1]]]


def _image_sets(gathering: Gathering) -> dict[tuple[str, str], Split]:
    """``(folder that holds ImageSets, image name): split``, from the lists of whole splits, not those of classes."""
    found: dict[tuple[str, str], tuple[Split, str]] = {}
    lists = []
    for name in gathering.tree.files:
        match = _LIST.match(name)
        split = (
            "train"
            if match and match[2] == "trainval"
            else split_of(match[2])
            if match and "_" not in match[2]
            else None
        )
        if match and split:
            lists.append((match[2] == "trainval", "/Main/" not in name, name, match[1] or "", split))
    # trainval repeats train and val where these exist, and so may lists outside Main.
    for is_union, _, name, base, split in sorted(lists):
        path = gathering.tree.path(name)
        for line, row in enumerate(read_text(path).splitlines(), 1):
            stem = re.sub(r"\s+(-1|0|1)$", "", row.strip())
            if not stem:
                continue
            known = found.setdefault((base, stem), (split, name))
            if known[0] != split and not is_union and ("/Main/" in name or "/Main/" not in known[1]):
                where = f"{path}:{line}"
                gathering.problem("split_conflict", where, f"{stem} is in {split} and, in {known[1]}, in {known[0]}")
    return {key: split for key, (split, _) in found.items()}
