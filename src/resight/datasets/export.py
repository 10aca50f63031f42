"""Detections as data: a data set in a format that labelling tools and ``datasets/formats/`` read, and crops."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..config.defaults import SaveFormat
from ..drawing import save_picture
from ..errors import ResightError
from ..io.files import IMAGE_SUFFIXES
from ..io.images import probe_file, read_bytes, upright
from ..types import Detections
from .file_search import loose_stem

DATASET, CROPS = "dataset", "crops"  # folders that a prediction is saved in
_MOST_BYTES = 200  # of a name, so that there is room for numbers and suffixes
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # what XML and lines of text cannot hold
# Shares of an image, by which a box of YOLO's is made smaller: rounded, it must not reach out of the image.
_INSIDE = 2e-10


class DetectionDataset:
    """A data set of images and what was detected in them. Images are copied, those with an EXIF rotation stored
    upright, as the boxes are; a name that not every system or reader takes is changed, one that is taken numbered.

    Args:
        folder: where it is written, with the images in ``images`` (``JPEGImages`` of VOC).
        classes: all class names, in the order of the labels.
    """

    def __init__(self, folder: Path, format: SaveFormat, classes: Sequence[str]) -> None:
        self._folder, self._classes = folder, classes
        self._write = _WRITERS[format]
        self._images = folder / ("JPEGImages" if format == "voc" else "images")
        self._images.mkdir(parents=True)
        self._taken: dict[str, int] = {}
        self._found: list[Detections] = []

    def add(self, file: Path, image: np.ndarray, found: Detections) -> None:
        """Stores an image file, ``[H, W, 3]`` uint8 RGB as it is shown. Boxes without an area, which are no objects,
        are left out. Raises ResightError: the file cannot be read."""
        info, suffix = probe_file(file), file.suffix
        data = b""
        if info.orientation != 1:
            try:
                data = upright(read_bytes(file), file)
            except ResightError:  # a format that is read only
                suffix = ".png"
        if suffix.lower() not in IMAGE_SUFFIXES:
            suffix = f".{info.format}"
        target = self._images / plain_name(file.stem, suffix, self._taken)
        if data:
            target.write_bytes(data)
        elif info.orientation != 1:
            Image.fromarray(image).save(target)
        else:
            shutil.copyfile(file, target)
        solid = (found.boxes[:, 2:] > found.boxes[:, :2]).all(1)
        boxes, scores, labels = found.boxes[solid], found.scores[solid], found.labels[solid]
        self._found.append(replace(found, boxes=boxes, scores=scores, labels=labels, file=target.name))

    def finish(self) -> None:
        """Writes the annotations."""
        self._write(self._folder, self._found, self._classes)


class Crops:
    """Each detection cut out of its image, as a JPEG: ``CLASS/IMAGE-N.jpg``, where N counts those of an image from 1,
    best first."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        taken: dict[str, int] = {}
        self._folders = [folder / plain_name(name, "", taken) for name in classes]
        self._taken: dict[str, int] = {}
        folder.mkdir()

    def add(self, file: Path, image: np.ndarray, found: Detections) -> None:
        """Cuts the detections out of ``image`` ``[H, W, 3]`` uint8 RGB: all pixels that a box touches."""
        stem = plain_name(file.stem, "", self._taken)
        size = np.array(image.shape[1::-1])
        for number, (label, box) in enumerate(zip(found.labels, found.boxes, strict=True), 1):
            start = np.floor(box[:2]).astype(int).clip(0, size - 1)
            (x1, y1), (x2, y2) = start, np.ceil(box[2:]).astype(int).clip(start + 1, size)
            self._folders[label].mkdir(exist_ok=True)
            save_picture(image[y1:y2, x1:x2], self._folders[label] / f"{stem}-{number}.jpg")


def check_classes(classes: Sequence[str]) -> None:
    """Raises ResightError: the name of a class would not be read as it is written."""
    for name in classes:
        if not name or name != name.strip() or _NO_TEXT.search(name):
            message = f"the class {name!r:.80} has blanks around its name or control characters in it"
            raise ResightError(message, where="--save", fix="Name the classes anew: --labels MAP")


def plain_name(name: str, suffix: str, taken: dict[str, int]) -> str:
    """A file name like ``name`` that all systems and readers take, and that differs from those that are ``taken`` in
    more than case, suffix or how it is encoded; added to them."""
    plain = "".join(c if c.isprintable() and c not in '\\/:*?"<>|' else "_" for c in name)
    plain = plain.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .") or "image"
    unique, first = plain, loose_stem(plain + suffix)
    while (key := loose_stem(unique + suffix)) in taken:
        taken[first] = taken.get(first, 1) + 1
        unique = f"{plain}-{taken[first]}"
    taken[key] = 1
    return unique + suffix


def _coco(folder: Path, found: Sequence[Detections], classes: Sequence[str]) -> None:
    annotations = [
        {
            "id": 0,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": round(score, 5),
        }
        for image, one in enumerate(found, 1)
        for label, (_, score, (x1, y1, x2, y2)) in zip(one.labels, one, strict=True)
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    document = {
        "images": [
            {"id": number, "file_name": one.file, "width": one.width, "height": one.height}
            for number, one in enumerate(found, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": id, "name": name, "supercategory": ""} for id, name in enumerate(classes, 1)],
    }
    (folder / "annotations").mkdir()
    with open(folder / "annotations" / "instances_default.json", "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False)


def _voc(folder: Path, found: Sequence[Detections], classes: Sequence[str]) -> None:
    from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

    def put(parent: Element, **values: object) -> None:
        for name, value in values.items():
            SubElement(parent, name).text = str(value)

    (folder / "Annotations").mkdir()
    for one in found:
        root = Element("annotation")
        put(root, folder="JPEGImages", filename=one.file)
        put(SubElement(root, "size"), width=one.width, height=one.height, depth=3)
        for name, box in zip(one.names, one.boxes, strict=True):
            element = SubElement(root, "object")
            put(element, name=name, truncated=0, difficult=0)
            put(SubElement(element, "bndbox"), **_corners(box))
        indent(root)
        stem = os.path.splitext(one.file)[0]
        ElementTree(root).write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")


def _yolo(folder: Path, found: Sequence[Detections], classes: Sequence[str]) -> None:
    import yaml

    (folder / "labels").mkdir()
    for one in found:
        corners = one.boxes.astype(np.float64) / ([one.width, one.height] * 2)
        middles = (corners[:, :2] + corners[:, 2:]) / 2
        sides = np.maximum(corners[:, 2:] - corners[:, :2] - _INSIDE, _INSIDE)
        lines = [
            f"{label} {' '.join(f'{share:.10f}' for share in shares)}\n"
            for label, shares in zip(one.labels, np.hstack([middles, sides]), strict=True)
        ]
        stem = os.path.splitext(one.file)[0]
        (folder / "labels" / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")
    text = yaml.safe_dump({"train": "images", "names": dict(enumerate(classes))}, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")  # Label Studio's


def _csv(folder: Path, found: Sequence[Detections], classes: Sequence[str]) -> None:
    columns = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "score"]
    with open(folder / "annotations.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        for one in found:
            image = {"filename": one.file, "width": one.width, "height": one.height}
            for name, score, box in zip(one.names, one.scores, one.boxes, strict=True):
                table.writerow({**image, "class": name, **_corners(box), "score": round(float(score), 5)})
            if not len(one):
                table.writerow(image)


def _corners(box: np.ndarray) -> dict[str, str]:
    """As few digits as tell a float32."""
    return {name: str(side) for name, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)}


_WRITERS: dict[SaveFormat, Callable[[Path, Sequence[Detections], Sequence[str]], None]] = {
    "coco": _coco,
    "voc": _voc,
    "yolo": _yolo,
    "csv": _csv,
}
