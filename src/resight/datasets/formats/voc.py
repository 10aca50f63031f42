"""Pascal VOC: one XML for each image, splits in ImageSets/Main or in folders.

Source: the VOC development kit; labelImg and Roboflow write the same XML beside or apart from the images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from ...errors import counted, listed, shown
from ...io.files import read_text, read_xml
from ...io.progress import track
from ...types import Box, Split
from ..file_search import STEM, Match, stem_of
from .cvat import is_cvat
from .dataset_dir import DatasetDir, peek, split_of, told_split
from .source import AnnotationCollector, Source
from .values import flag, number, size, text

NAME = "voc"
LOOKS_FOR = "XML files with the root element <annotation>"

# Lists of classes (dog_train.txt) are none of splits.
_LIST = re.compile(r"^(?:(?P<base>.*)/)?ImageSets/(?:Main/)?(?P<list>[^\W_]+)\.txt$")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def looks_like(tree: DatasetDir) -> str:
    files = tree.candidates(".xml")
    sign = next((name for name in files[:20] if _is_voc(peek(tree.path(name)), bool(tree.only))), "")
    return f"{counted(len(files), 'XML file')}, in {sign} an <annotation>" if sign else ""


def _is_voc(head: str, named: bool) -> bool:
    """Whether an XML that begins like this is VOC's; one that the user ``named`` is unless it is CVAT's."""
    return bool(re.search(r"<annotation[\s>]", head)) or (named and not is_cvat(head))


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every XML. The image is the one with the XML's own name, else the one its ``<filename>`` names. With
    ImageSets, images in none of its lists are left out."""
    collector = AnnotationCollector(tree)
    sets = {} if tree.only else _image_sets(collector)
    for name in track(tree.candidates(".xml"), "reading VOC"):
        key = (os.path.dirname(os.path.dirname(name)), stem_of(name))
        split = sets.pop(key, None) if sets else told_split(name)
        _read_file(collector, name, split)
    if sets:
        message = f"{counted(len(sets), 'name')} in ImageSets without an XML, left out: {listed(s for _, s in sets)}"
        collector.problem("missing_annotation", tree.root, message)
    return collector.source(NAME)


def _read_file(collector: AnnotationCollector, name: str, split: Split | None) -> None:
    file = collector.tree.path(name)
    if (root := collector.tried("", read_xml, file)) is None:
        return
    if root.tag != "annotation":
        collector.problem("not_an_annotation", file, f"its root is <{root.tag}>, left out", "warning")
        return
    path = _image(collector, name, split, (root.findtext("filename") or "").strip())
    item = collector.image(path, file=file, where=file, split=split, alone=True)
    try:
        item.width = size((root.findtext("size/width") or "").strip(), "width")
        item.height = size((root.findtext("size/height") or "").strip(), "height")
    except ValueError as error:
        collector.malformed(file, error, path)
    for at, element in enumerate(root.iter("object"), 1):
        try:
            label = text(element.findtext("name"), "name")
            xmin, ymin, xmax, ymax = (_corner(element.findtext(f"bndbox/{corner}")) for corner in _CORNERS)
            difficult, occluded = flag(element.findtext("difficult")), flag(element.findtext("occluded"))
            item.boxes[file].append(Box(label, xmin, ymin, xmax, ymax, difficult, occluded))
        except ValueError as error:
            collector.malformed(f"{file}: object {at}", error, path)


class _Unreadable(float):
    """NaN that is shown as what was written in its place: a bad box, of an image whose others are good."""

    written: str | None = None

    def __format__(self, _: str) -> str:
        return "missing" if self.written is None else shown(self.written)


def _corner(value: str | None) -> float:
    try:
        return number(value, "")
    except ValueError:
        corner = _Unreadable("nan")
        corner.written = value
        return corner


def _image(collector: AnnotationCollector, name: str, split: Split | None, declared: str) -> str:
    """The image of an XML: its namesake, else the one it declares; of several the one in the most like folders."""
    tree, stem = collector.tree, stem_of(name)
    file = tree.path(name)
    place = {"file": file, "where": file}
    declared = declared.replace("\\", "/").rpartition("/")[2]
    places = tree.places(name, "", "../JPEGImages", "../images")
    stated = collector.find(declared, places, file=file, split=split) if declared else Match()
    if stated.path and not stated.rung and stem_of(declared) == stem:
        return stated.path
    own = collector.find(stem, places, file=file, split=split)
    if not own.path and not own.candidates:
        return collector.found(declared, stated, f"{places[0]}/{declared or f'{stem}.jpg'}", **place)
    if stated.path and stated.path != own.path and not stated.rung:
        # Files are renamed in pairs more often than <filename> is kept up.
        message = f"its <filename> is {declared}, but {os.path.basename(own.path)} has its own name and is used"
        collector.problem("name_mismatch", file, message, "warning")
    # An XML never has an image's suffix: not worth a warning.
    own = replace(own, rung=0) if own.rung == STEM else own
    return collector.found(stem, own, f"{places[0]}/{stem}.jpg", **place)


def _image_sets(collector: AnnotationCollector) -> dict[tuple[str, str], Split]:
    """``(folder that holds ImageSets, image name): split``, from the lists of whole splits."""
    lists = [match for name in collector.tree.files if (match := _LIST.match(name))]
    found: dict[tuple[str, str], Split] = {}
    for match in sorted(lists, key=lambda match: match["list"] == "trainval"):  # it repeats train and val
        union = match["list"] == "trainval"
        if not (split := "train" if union else split_of(match["list"])):
            continue
        for row in read_text(collector.tree.path(match[0])).splitlines():
            if stem := re.sub(r"\s+(-1|0|1)$", "", row.strip()):
                known = found.setdefault((match["base"] or "", stem), split)
                if known != split and not union:
                    collector.in_two_splits[known, split].append(stem)
    return found
