"""Pascal VOC: one XML for each image, splits in ImageSets/Main or in folders.

Source: the VOC development kit; labelImg and Roboflow write the same XML beside or apart from the images.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace

from ...boxes import Box, Split
from ...errors import ResightError, counted, listed
from ...files import read_text, read_xml
from ...progress import track
from ..file_search import STEM, Match
from .cvat import is_cvat
from .source import Gathering, Source, Tree, flag, folders_of, number, peek, size, split_of, stem_of, text

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
        split = sets.pop(key, None) if sets else split_of(*folders_of(name))
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
    path = _image(gathering, name, (root.findtext("filename") or "").strip())
    item = gathering.image(path, file=file, where=file, split=split)
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
            xmin, ymin, xmax, ymax = (_corner(element.findtext(f"bndbox/{corner}")) for corner in _CORNERS)
            difficult, occluded = flag(element.findtext("difficult")), flag(element.findtext("occluded"))
            item.boxes[file].append(Box(label, xmin, ymin, xmax, ymax, difficult, occluded))
        except ValueError as error:
            gathering.malformed(f"{file}: object {at}", error, path)


def _corner(value: str | None) -> float:
    """NaN where it is no number: that is a bad box, whose number in the file is named, and the others are good."""
    try:
        return number(value, "")
    except ValueError:
        return math.nan


def _image(gathering: Gathering, name: str, declared: str) -> str:
    """The image of an XML: its namesake, else the one it declares; of several the one in the most like folders."""
    tree, stem, near = gathering.tree, stem_of(name), folders_of(name)
    file, folder = tree.path(name), os.path.dirname(name)
    place = {"file": file, "where": file}
    declared = declared.replace("\\", "/").rpartition("/")[2]
    places = [tree.path(os.path.join(folder, place)) for place in ("", "../JPEGImages", "../images")]
    stated = gathering.search.find(declared, places, near=near) if declared else Match()
    if stated.path and not stated.rung and stem_of(declared) == stem:
        return stated.path
    own = gathering.search.find(stem, places, near=near)
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
    found: dict[tuple[str, str], tuple[Split, str]] = {}
    for union, name, base, split in sorted(lists):  # trainval, which repeats train and val, comes last
        for line, row in enumerate(read_text(gathering.tree.path(name)).splitlines(), 1):
            stem = re.sub(r"\s+(-1|0|1)$", "", row.strip())
            if not stem:
                continue
            known, other = found.setdefault((base, stem), (split, name))
            if known != split and not union:
                where = f"{gathering.tree.path(name)}:{line}"
                gathering.problem("split_conflict", where, f"{stem} is in {split} and, in {other}, in {known}")
    return {key: split for key, (split, _) in found.items()}
