"""YOLO: a text file for each image, one line for each box; class names in a YAML or a names file.

Source: the Ultralytics and Darknet data formats; Roboflow's and CVAT's exports of them.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...boxes import Box, Split
from ...errors import ResightError, counted, listed
from ...files import SMALL, read_json, read_text, read_yaml
from ...progress import track
from ..exif import Habit
from ..images import IMAGE_SUFFIXES, probe_file
from .source import LABEL_STUDIO, Gathering, Source, Tree, folders_of, is_label_studio, number, peek, split_of, text

NAME = "yolo"
LOOKS_FOR = "a YAML with 'names', or text files named like the images with lines 'class x y width height'"

_NAMES_FILES = ("classes.txt", "_darknet.labels", "predefined_classes.txt", "obj.names")
_KEYS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_PIXELS = 3  # further out no share of the image can be meant
_LABEL = re.compile(r"\s*(\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*?(\n|$)|$)")


def looks_like(tree: Tree) -> str:
    if config := _config_file(tree):
        return f"class names in {config}"
    if tree.only:
        return ""
    stems = {os.path.splitext(name)[0] for name in tree.images}
    texts = [name for name in tree.candidates(".txt") if name[:-4] in stems or "labels" in folders_of(name)]
    for name in texts[:100]:
        if (head := peek(tree.path(name))).strip() and _LABEL.match(head):
            return f"{counted(len(texts), 'text file')} with lines such as '{head.strip().splitlines()[0][:60]}'"
    return ""


def read(tree: Tree, classes: Sequence[str] = ()) -> Source:
    """Reads the label file of every image: boxes, and polygons as the boxes around them; no file is no object.

    Coordinates are shares of the image, so the header of every image with boxes is read; ``width`` and ``height`` are
    those of the image as it is shown. Whether the boxes are of that, too, nothing in the format tells.
    """
    gathering = Gathering(tree)
    file = _config_file(tree)
    config = _load(tree.path(file)) if file else {}
    names = _names(tree, config, file)
    if not names and classes:
        names = dict(enumerate(classes))
    if not names:
        message = "the classes have no names (no data.yaml, classes.txt or obj.names): their numbers are taken"
        gathering.problem("unnamed_classes", tree.root, message, "warning")
    if repeated := [name for name, count in Counter(names.values()).items() if count > 1]:
        message = f"several numbers have one name, and are one class: {listed(repeated)}"
        gathering.problem("duplicate_class", tree.path(file) if file else tree.root, message, "warning")
    labels: set[str] = set()
    images = list(_images(gathering, config, file))
    for path, split, where in track(images, "reading YOLO"):
        label = next((label for label in _label_paths(path) if os.path.isfile(label)), "")
        gathering.image(path, file=label, where=label or where, split=split)
        if label and label not in labels:
            labels.add(label)
            _read_file(gathering, path, label, names, "kpt_shape" in config)
    if not labels:
        if not images:
            raise ResightError("there are labels or class names, but no images", where=tree.root)
        fix = f"Looked for {' or '.join(dict.fromkeys(_label_paths(images[0][0])))}"
        raise ResightError(f"none of its images ({len(images):,}) has a label file", where=tree.root, fix=fix)
    _without_image(gathering, labels)
    source = gathering.source(NAME, [names[number] for number in sorted(names)])
    return replace(source, habit=replace(_habit(tree), shares=True))


def _habit(tree: Tree) -> Habit:
    """Label Studio's export has a notes.json that names it."""
    notes = [name for name in tree.files if os.path.basename(name) == "notes.json"]
    try:
        known = bool(notes) and all(is_label_studio(read_json(tree.path(name))) for name in notes)
    except ResightError:
        known = False
    return LABEL_STUDIO if known else Habit()


def _config_file(tree: Tree) -> str:
    """The YAML with class names that is nearest to the root."""
    files = sorted(tree.candidates(".yaml", ".yml"), key=lambda name: (name.count("/"), name))
    names = re.compile(r"(?m)^['\"]?names['\"]?\s*:")
    return next((name for name in files[:50] if names.search(peek(tree.path(name), 65536))), "")


def _load(path: str) -> dict[str, Any]:
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ResightError("is not a mapping of 'names', 'train', ... to their values", where=path)
    return config


def _names(tree: Tree, config: dict[str, Any], file: str) -> dict[int, str]:
    if file:
        names = config.get("names")
        try:
            if isinstance(names, list):
                return {at: text(name, f"names[{at}]") for at, name in enumerate(names)}
            if isinstance(names, dict):
                return {int(at): text(name, f"names[{at}]") for at, name in names.items()}
        except (ValueError, TypeError) as error:
            fix = "Put names that YAML takes for something else (yes, no, 1.5) in quotes."
            raise ResightError(str(error), where=tree.path(file), fix=fix) from error
        if not isinstance(names, str):
            raise ResightError("'names' is neither a list nor a mapping of numbers to names", where=tree.path(file))
        found = [os.path.relpath(os.path.join(os.path.dirname(tree.path(file)), names), tree.root)]
    else:
        files = sorted(tree.files, key=lambda name: (name.count("/"), name))
        found = [name for name in files if os.path.basename(name) in _NAMES_FILES or name.endswith(".names")]
    lines = read_text(tree.path(found[0]), SMALL).splitlines() if found else []
    while lines and not lines[-1].strip():
        lines.pop()
    return {at: line.strip() or str(at) for at, line in enumerate(lines)}


def _images(gathering: Gathering, config: dict[str, Any], file: str) -> Iterator[tuple[str, Split | None, str]]:
    """``(path, split, where it is listed)`` of every image."""
    tree = gathering.tree
    stated = {key: config[key] for key in _KEYS if config.get(key)}
    if not stated:
        lists = [name for name in tree.files if name.endswith(".txt") and "/" not in name and split_of(name[:-4])]
        firsts = {name: peek(tree.path(name)).split("\n")[0] for name in lists}
        lists = [name for name, first in firsts.items() if first.strip().lower().endswith(IMAGE_SUFFIXES)]
        for name in lists:
            yield from _listed(gathering, tree.path(name), split_of(name[:-4]), [tree.root])
        if not lists:
            yield from ((tree.path(name), split_of(*folders_of(name)), tree.path(name)) for name in tree.images)
        return
    home = os.path.dirname(tree.path(file))
    base = os.path.join(home, str(config.get("path") or ""))
    missing = []
    for key, value in stated.items():
        for entry in value if isinstance(value, list) else [value]:
            place = _place(str(entry), [base, home])
            if os.path.isdir(place):
                yield from ((os.path.join(place, name), _KEYS[key], place) for name in Tree(place).images)
            elif os.path.isfile(place):
                yield from _listed(gathering, place, _KEYS[key], [os.path.dirname(place), base, home])
            else:
                missing.append(f"{key}: {entry}")
                # Exports name a test folder whether there is one or not.
                level = "error" if key == "train" else "warning"
                gathering.problem("missing_folder", tree.path(file), f"{key}: {entry} does not exist", level)
    if len(missing) == len(stated):
        raise ResightError(f"none of its folders exists: {', '.join(missing)}", where=tree.path(file))


def _place(entry: str, bases: list[str]) -> str:
    # Roboflow writes ../train/images for what lies in train/images beside the YAML.
    for name in (entry, re.sub(r"^(\.\./)+", "", entry)):
        for base in bases:
            path = os.path.normpath(os.path.join(base, name))
            if os.path.exists(path):
                return path
    return ""


def _listed(
    gathering: Gathering, path: str, split: Split | None, bases: list[str]
) -> Iterator[tuple[str, Split | None, str]]:
    for line, row in enumerate(read_text(path).splitlines(), 1):
        if row.strip():
            name, where = row.strip(), f"{path}:{line}"
            if name.startswith("data/") and not os.path.isdir(os.path.join(gathering.tree.root, "data")):
                name = name.removeprefix(
                    "data/"
                )  # CVAT writes data/obj_train_data/... for what lies in obj_train_data/...
            yield gathering.locate(name, bases, file=path, where=where), split, where


def _label_paths(image: str) -> Iterator[str]:
    stem = os.path.splitext(image)[0]
    folder, name = os.path.split(stem)
    apart = re.sub(r"(.*/)(images|JPEGImages)/", r"\1labels/", f"{folder}/")
    yield os.path.join(apart, f"{name}.txt")
    yield f"{stem}.txt"
    yield os.path.join(folder, "labels", f"{name}.txt")
    yield os.path.join(os.path.dirname(folder), "labels", f"{name}.txt")


def _read_file(gathering: Gathering, path: str, label: str, names: dict[int, str], keypoints: bool) -> None:
    try:
        rows = [(line, row.split()) for line, row in enumerate(read_text(label, SMALL).splitlines(), 1) if row.strip()]
    except ResightError as error:
        gathering.malformed(error.where, error.message, path)
        return
    try:
        info = probe_file(path)
    except ResightError:
        return  # it is found missing or unreadable in due course
    item = gathering.images[path]
    item.width, item.height = width, height = info.upright_size
    for line, cells in rows:
        try:
            name = _class(cells[0], names)
            x1, y1, x2, y2 = _corners([number(cell, "a value") for cell in cells[1:]], keypoints)
            item.boxes[label].append(Box(name, x1 * width, y1 * height, x2 * width, y2 * height))
        except ValueError as error:
            gathering.malformed(f"{label}:{line}", error, path)


def _class(cell: str, names: dict[int, str]) -> str:
    value = number(cell, "the class")
    if not value.is_integer() or value < 0:
        raise ValueError(f"the class is '{cell}', not a whole number from 0")
    if names and int(value) not in names:
        raise ValueError(f"the class is {cell}, which has no name; there are the names of {min(names)} to {max(names)}")
    return names.get(int(value), str(int(value)))


def _corners(values: list[float], keypoints: bool) -> tuple[float, float, float, float]:
    if any(_PIXELS < abs(value) < math.inf for value in values[:4]):
        raise ValueError("coordinates must be shares of the image's sides, 0 to 1; these look like pixels")
    if len(values) == 4 or (keypoints and len(values) > 4):
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"has {len(values)} numbers after the class: neither a box (4) nor a polygon (6, 8, 10, ...)")
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _without_image(gathering: Gathering, labels: set[str]) -> None:
    tree = gathering.tree
    folders = {os.path.dirname(label) for label in labels}
    for name in [] if tree.only else tree.candidates(".txt"):
        path = tree.path(name)
        if path in labels or os.path.dirname(path) not in folders or os.path.basename(name) in _NAMES_FILES:
            continue
        if _LABEL.match(peek(path)):
            gathering.problem("missing_image", path, "there is no image of this name")
