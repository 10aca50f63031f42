"""Pascal VOC: one XML for each image, splits in ImageSets/Main or in folders.

Source: the VOC development kit; labelImg and Roboflow write the same XML beside or apart from the images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from ...errors import ResightError, counted, listed, shown
from ...io.files import read_text, read_xml
from ...io.progress import track
from ...types import Box, Split
from ..file_search import STEM, Match
from .cvat import is_cvat
from .source import Gathering, Source, Tree, peek, split_of, stem_of, told_split
from .values import flag, number, size, text

NAME = "voc"
LOOKS_FOR = "XML files with the root element <annotation>"

# Lists of classes (dog_train.txt) are none of splits.
_LIST = re.compile(r"^(?:(?P<base>.*)/)?ImageSets/(?:Main/)?(?P<list>[^\W_]+)\.txt$")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def looks_like(tree: Tree) -> str:
    files = tree.candidates(".xml")
    sign = next((name for name in files[:20] if _is_voc(peek(tree.path(name)), bool(tree.only))), "")
    return f"{counted(len(files), 'XML file')}, in {sign} an <annotation>" if sign else ""


def _is_voc(head: str, named: bool) -> bool:
    """Whether an XML that begins like this is VOC's; one that the user ``named`` is unless it is CVAT's."""
    return bool(re.search(r"<annotation[\s>]", head)) or (named and not is_cvat(head))


def read(tree: Tree, classes: Sequence[str] = ()) -> Source:
    """Reads every XML. The image is the one with the XML's own name, else the one its ``<filename>`` names. With
    ImageSets, images in none of its lists are left out."""
    gathering = Gathering(tree)
    sets = {} if tree.only else _image_sets(gathering)
    for name in track(tree.candidates(".xml"), "reading VOC"):
        key = (os.path.dirname(os.path.dirname(name)), stem_of(name))
        split = sets.pop(key, None) if sets else told_split(name)
        _read_file(gathering, name, split)
    if sets:
        message = f"{counted(len(sets), 'name')} in ImageSets without an XML, left out: {listed(s for _, s in sets)}"
        gathering.problem("missing_annotation", tree.root, message)
    return gathering.source(NAME)


def _read_file(gathering: Gathering, name: str, split: Split | None) -> None:
    file = gathering.tree.path(name)
    try:
        root = read_xml(file)
    except ResightError as error:
        gathering.malformed(error.where, error.message)
        return
    if root.tag != "annotation":
        gathering.problem("not_an_annotation", file, f"its root is <{root.tag}>, left out", "warning")
        return
    path = _image(gathering, name, split, (root.findtext("filename") or "").strip())
    item = gathering.image(path, file=file, where=file, split=split)
    if len(item.boxes) > 1:
        gathering.unclear(file, f"annotates {path} like {next(iter(item.boxes))}", path, kind="duplicate_image")
    try:
        item.width = size((root.findtext("size/width") or "").strip(), "width")
        item.height = size((root.findtext("size/height") or "").strip(), "height")
    except ValueError as error:
        gathering.malformed(file, error, path)
    for at, element in enumerate(root.iter("object"), 1):
        try:
            label = text(element.findtext("name"), "name")
            xmin, ymin, xmax, ymax = (_corner(element.findtext(f"bndbox/{corner}")) for corner in _CORNERS)
            difficult, occluded = flag(element.findtext("difficult")), flag(element.findtext("occluded"))
            item.boxes[file].append(Box(label, xmin, ymin, xmax, ymax, difficult, occluded))
        except ValueError as error:
            gathering.malformed(f"{file}: object {at}", error, path)


class _Unreadable(float):
    """NaN that is shown as what was written in its place: a bad box, of an image whose others are good."""

    written: str

    def __format__(self, _: str) -> str:
        return self.written


def _corner(value: str | None) -> float:
    try:
        return number(value, "")
    except ValueError:
        corner = _Unreadable("nan")
        corner.written = "missing" if value is None else shown(value)
        return corner


def _image(gathering: Gathering, name: str, split: Split | None, declared: str) -> str:
    """The image of an XML: its namesake, else the one it declares; of several the one in the most like folders."""
    tree, stem = gathering.tree, stem_of(name)
    file, folder = tree.path(name), os.path.dirname(name)
    place = {"file": file, "where": file}
    declared = declared.replace("\\", "/").rpartition("/")[2]
    places = [tree.path(os.path.join(folder, place)) for place in ("", "../JPEGImages", "../images")]
    stated = gathering.find(declared, places, file=file, split=split) if declared else Match()
    if stated.path and not stated.rung and stem_of(declared) == stem:
        return stated.path
    own = gathering.find(stem, places, file=file, split=split)
    if not own.path and not own.candidates:
        return gathering.found(declared, stated, tree.path(os.path.join(folder, declared or f"{stem}.jpg")), **place)
    if stated.path and stated.path != own.path and not stated.rung:
        # Files are renamed in pairs more often than <filename> is kept up.
        message = f"its <filename> is {declared}, but {os.path.basename(own.path)} has its own name and is taken"
        gathering.problem("name_mismatch", file, message, "warning")
    # That an XML has no image's suffix goes without saying.
    own = replace(own, rung=0) if own.rung == STEM else own
    return gathering.found(stem, own, tree.path(os.path.join(folder, f"{stem}.jpg")), **place)


def _image_sets(gathering: Gathering) -> dict[tuple[str, str], Split]:
    """``(folder that holds ImageSets, image name): split``, from the lists of whole splits."""
    lists: list[tuple[bool, str, str, Split]] = []
    for name in gathering.tree.files:
        match = _LIST.match(name)
        union = match is not None and match["list"] == "trainval"
        if match and (split := "train" if union else split_of(match["list"])):
            lists.append((union, name, match["base"] or "", split))
    found: dict[tuple[str, str], Split] = {}
    for union, name, base, split in sorted(lists):  # trainval, which repeats train and val, comes last
        for row in read_text(gathering.tree.path(name)).splitlines():
            stem = re.sub(r"\s+(-1|0|1)$", "", row.strip())
            if not stem:
                continue
            known = found.setdefault((base, stem), split)
            if known != split and not union:
                gathering.in_two_splits(known, split, stem)
    return found
