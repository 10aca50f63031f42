"""YOLO: a text file for each image, one line for each box; class names in a YAML or a names file.

Source: the Ultralytics and Darknet data formats; Roboflow's and CVAT's exports of them.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from ...errors import ResightError, counted, listed, shown
from ...io.files import IMAGE_SUFFIXES, SMALL, read_json, read_text, read_yaml
from ...io.images import probe_file
from ...io.progress import track
from ...types import Box, Split
from ..exif import Habit
from ..file_search import FileSearch, loose_stem, stem_of
from .dataset_dir import DatasetDir, folders_of, is_of, peek, split_of, told_split
from .source import LABEL_STUDIO, AnnotationCollector, Source, is_label_studio
from .values import number, text

NAME = "yolo"
LOOKS_FOR = "a YAML with 'names', or text files named like the images with lines 'class x y width height'"

_NAMES_FILES = ("classes.txt", "_darknet.labels", "predefined_classes.txt", "obj.names")
_KEYS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_PIXELS = 3  # further out no share of the image can be meant
_LABEL = re.compile(r"\s*(\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*?(\n|$)|$)")


def looks_like(tree: DatasetDir) -> str:
    if config := _config_file(tree):
        return f"class names in {config}"
    if tree.only:
        return ""

    def stem(name: str) -> tuple[str, str]:
        return os.path.dirname(name), loose_stem(os.path.basename(name))

    stems, texts = set(map(stem, tree.images)), tree.candidates(".txt")
    texts = [name for name in texts if stem(name) in stems or "labels" in map(str.lower, folders_of(name))]
    for name in texts[:100]:
        if (head := peek(tree.path(name))).strip() and _LABEL.match(head):
            return f"{counted(len(texts), 'text file')} with lines such as '{head.strip().splitlines()[0][:60]}'"
    return ""


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads the label file of every image: boxes, and polygons as the boxes around them; no file is no object.

    Coordinates are shares of the image, so the header of every image with boxes is read; ``width`` and ``height`` are
    those of the image as it is shown. Whether the boxes are of that, too, nothing in the format tells.
    """
    collector = AnnotationCollector(tree)
    file = _config_file(tree)
    config = read_yaml(tree.path(file)) if file else {}
    if not isinstance(config, dict):
        raise ResightError("is not a mapping of 'names', 'train', ... to their values", where=tree.path(file))
    names = _names(tree, config, file)
    if not names and classes:
        names = dict(enumerate(classes))
    if not names:
        message = "the classes have no names (no data.yaml, classes.txt or obj.names): their numbers are used"
        collector.problem("unnamed_classes", tree.root, message, "warning")
    if repeated := [name for name, count in Counter(names.values()).items() if count > 1]:
        message = f"several numbers have one name, and are one class: {listed(repeated)}"
        collector.problem("duplicate_class", tree.path(file) if file else tree.root, message, "warning")
    images = list(_images(collector, config, file))
    labels = _labels(collector, [path for path, _, _ in images])
    if not labels:
        if not images:
            raise ResightError("there are labels or class names, but no images", where=tree.root)
        fix = f"Looked for {' or '.join(dict.fromkeys(_label_paths(images[0][0])))}"
        raise ResightError(f"none of its images ({len(images):,}) has a label file", where=tree.root, fix=fix)
    keypoints = "kpt_shape" in config or _keypoints(collector, config, labels.values())
    polygons = list[str]()
    read = set[str]()
    for path, split, where in track(images, "reading YOLO"):
        label = labels.get(path, "")
        collector.image(path, file=label, where=label or where, split=split)
        if label and path not in read:
            read.add(path)
            _read_file(collector, path, label, names, keypoints, polygons)
    if polygons:
        message = f"the boxes around {counted(len(polygons), 'polygon')} are used: {listed(polygons, 3)}"
        collector.problem("polygons", tree.root, message, "warning")
    _unpaired(collector, labels)
    source = collector.source(NAME, [names[number] for number in sorted(names)])
    notes = [tree.path(name) for name in tree.files if os.path.basename(name) == "notes.json"]  # as Label Studio's
    known = bool(notes) and all(map(_is_label_studios, notes))
    return replace(source, habit=replace(LABEL_STUDIO if known else Habit(), shares=True))


def _is_label_studios(notes: str) -> bool:
    try:
        return is_label_studio(read_json(notes))
    except ResightError:
        return False


def _labels(collector: AnnotationCollector, images: Sequence[str]) -> dict[str, str]:
    """``{image: its label file}``; images that share one are left out."""
    namesakes = {image: next(filter(os.path.isfile, _label_paths(image)), "") for image in images}
    labels = {image: label for image, label in namesakes.items() if label}
    tree, exact = collector.tree, set(labels.values())
    rest = [image for image, label in namesakes.items() if not label]
    texts = [tree.path(name) for name in tree.around if name.lower().endswith(".txt")]
    search = FileSearch([*texts, *_beside((label for image in rest for label in _label_paths(image)), ".txt")])
    for image in rest:
        name = f"{stem_of(image)}.txt"
        match = search.find(name, [os.path.dirname(label) for label in _label_paths(image)], elsewhere=False)
        if match.path in exact or (match.path and os.path.basename(match.path) in _NAMES_FILES):
            continue  # it is that of another image
        label = collector.found(name, match, image, file=image, where=image)
        if match.path:
            labels[image] = label
    owners = defaultdict(list)
    for image, label in labels.items():
        owners[label].append(image)
    for label, several in owners.items():
        if len(several) > 1:
            collector.unclear(label, f"is the label file of each of {listed(map(tree.name, several), 4)}", *several)
    return labels


def _config_file(tree: DatasetDir) -> str:
    """The YAML with class names that is nearest to the root."""
    files = sorted(tree.candidates(".yaml", ".yml"), key=lambda name: (name.count("/"), name))
    names = re.compile(r"(?m)^['\"]?names['\"]?\s*:")
    return next((name for name in files[:50] if names.search(peek(tree.path(name), 65536))), "")


def _names(tree: DatasetDir, config: dict[str, Any], file: str) -> dict[int, str]:
    if file:
        names = config.get("names")
        try:
            if isinstance(names, list):
                return {at: text(name, f"names[{at}]") for at, name in enumerate(names)}
            if isinstance(names, dict):
                return {_class_number(at): text(name, f"names[{shown(at)}]") for at, name in names.items()}
        except ValueError as error:
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


def _class_number(key: object) -> int:
    if isinstance(key, str | int) and not isinstance(key, bool) and re.fullmatch(r"\d{1,9}", str(key)):
        return int(key)
    raise ValueError(f"names has the key {shown(key)}, not a whole number")


def _images(
    collector: AnnotationCollector, config: dict[str, Any], file: str
) -> Iterator[tuple[str, Split | None, str]]:
    """``(path, split, where it is listed)`` of every image."""
    tree = collector.tree
    stated = {key: config[key] for key in _KEYS if config.get(key)}
    if not stated:
        lists = [name for name in tree.files if name.endswith(".txt") and "/" not in name and split_of(name[:-4])]
        firsts = {name: peek(tree.path(name)).split("\n")[0] for name in lists}
        lists = [name for name, first in firsts.items() if first.strip().lower().endswith(IMAGE_SUFFIXES)]
        for name in lists:
            yield from _listed(collector, tree.path(name), split_of(name[:-4]), [tree.root])
        if not lists:
            yield from ((tree.path(name), split_of(*folders_of(name)), tree.path(name)) for name in tree.images)
        return
    home = os.path.dirname(tree.path(file))
    base = os.path.join(home, str(config.get("path") or ""))
    missing = []
    for key, value in stated.items():
        for entry in value if isinstance(value, list) else [value]:
            place = _place(collector, str(entry), [base, home], tree.path(file))
            if os.path.isdir(place):
                yield from ((os.path.join(place, name), _KEYS[key], place) for name in DatasetDir(place).images)
            elif os.path.isfile(place):
                yield from _listed(collector, place, _KEYS[key], [os.path.dirname(place), base, home])
            else:
                missing.append(f"{key}: {entry}")
                # Exports name a test folder whether there is one or not.
                level = "error" if key == "train" else "warning"
                collector.problem("missing_folder", tree.path(file), f"{key}: {entry} does not exist", level)
    if len(missing) == len(stated):
        raise ResightError(f"none of its folders exists: {', '.join(missing)}", where=tree.path(file))


def _place(collector: AnnotationCollector, entry: str, bases: list[str], file: str) -> str:
    """The folder, or list of images, that the YAML names; "" where there is none."""
    # Roboflow writes ../train/images for what lies in train/images beside the YAML.
    for name in (entry, re.sub(r"^(\.\./)+", "", entry)):
        for base in bases:
            path = os.path.normpath(os.path.join(base, name))
            if os.path.exists(path):
                if os.path.isabs(entry) and collector.tree.name(path) == path:
                    collector.outside.append(path)
                return path
    tree = collector.tree
    names = [name for name in tree.around if name.lower().endswith((".txt", *IMAGE_SUFFIXES))]
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents} - {"."}
    split = told_split(f"{entry}/")
    match = FileSearch(tree.path(name) for name in sorted({*names, *folders})).find(
        entry, bases, elsewhere=lambda path: is_of(split, f"{tree.name(path)}/")
    )
    found = [match.path] if match.path else match.candidates
    if len(found) > 1:
        collector.unclear(file, f"'{entry}' may be any of {listed(map(tree.name, found), 4)}")
    if len(found) != 1:
        return ""
    collector.problem("inexact_name", file, f"'{entry}' is taken to be {tree.name(found[0])}", "warning")
    return found[0]


def _listed(
    collector: AnnotationCollector, path: str, split: Split | None, bases: list[str]
) -> Iterator[tuple[str, Split | None, str]]:
    for line, row in enumerate(read_text(path).splitlines(), 1):
        if row.strip():
            name, where = row.strip(), f"{path}:{line}"
            if name.startswith("data/") and not os.path.isdir(os.path.join(collector.tree.root, "data")):
                name = name.removeprefix("data/")  # CVAT writes it before the folders of its export
            yield collector.locate(name, bases, file=path, where=where, split=split), split, where


def _label_paths(image: str) -> Iterator[str]:
    stem = os.path.splitext(image)[0]
    folder, name = os.path.split(stem)
    apart = re.sub(r"(.*/)(images|JPEGImages)/", r"\1labels/", f"{folder}/", flags=re.IGNORECASE)
    yield os.path.join(apart, f"{name}.txt")
    yield f"{stem}.txt"
    yield os.path.join(folder, "labels", f"{name}.txt")
    yield os.path.join(os.path.dirname(folder), "labels", f"{name}.txt")


def _rows(label: str) -> list[tuple[int, list[str]]]:
    return [(line, row.split()) for line, row in enumerate(read_text(label, SMALL).splitlines(), 1) if row.strip()]


def _keypoints(collector: AnnotationCollector, config: dict[str, Any], labels: Iterable[str]) -> bool:
    """Whether lines that are longer than a box hold key points after it. A polygon can look the same: refused where
    nothing tells the two apart."""
    lines: list[list[float]] = []
    for label in islice(labels, 2_000):
        try:
            lines += [[number(cell, "") for cell in cells[1:]] for _, cells in _rows(label) if len(cells) > 5]
        except (ResightError, ValueError):  # reported where it is read
            continue
    counts = {len(line) for line in lines}
    if len(counts) != 1 or config.get("task") == "segment":
        return False
    after = counts.pop() - 4
    where = collector.tree.root
    if after % 3 == 0 and all(value in (0, 1, 2) for line in lines for value in line[6::3]):
        message = f"lines of {after + 4} numbers hold a box and {after // 3} key points: the box is used"
        message = f"{message} (kpt_shape: [{after // 3}, 3] in data.yaml says so)"
        collector.problem("keypoints", where, message, "warning")
        return True
    if after % 2 or sum(map(_is_box_with_points, lines)) < 0.9 * len(lines):
        return False
    message = f"lines of {after + 4} numbers may hold a box and {after // 2} key points, or polygons"
    fix = f"Add kpt_shape: [{after // 2}, 2] to data.yaml for key points, or task: segment for polygons."
    raise ResightError(message, where=where, fix=fix)


def _is_box_with_points(values: Sequence[float]) -> bool:
    """Whether the first four numbers are the centre and the size of a box within the image, and the others points in
    it; a rectangle of four corners is none."""
    x, y, width, height = values[:4]
    if len(values) == 8:
        xs, ys = values[::2], values[1::2]
        skew = abs(xs[0] - xs[1] + xs[2] - xs[3]) + abs(ys[0] - ys[1] + ys[2] - ys[3])
        if skew < 0.2 * (max(xs) - min(xs) + max(ys) - min(ys)):
            return False
    inside = all(half <= at + 0.02 and at + half <= 1.02 for at, half in ((x, width / 2), (y, height / 2)))
    points = zip(values[4::2], values[5::2], strict=True)
    return inside and all(
        (px, py) == (0, 0) or (abs(px - x) <= 0.55 * width and abs(py - y) <= 0.55 * height) for px, py in points
    )


def _read_file(
    collector: AnnotationCollector, path: str, label: str, names: dict[int, str], keypoints: bool, polygons: list[str]
) -> None:
    """Adds the boxes of an image's label file, and to ``polygons`` where it has such lines."""
    if (rows := collector.tried(path, _rows, label)) is None:
        return
    try:
        info = probe_file(path)
    except ResightError:
        return  # the inspection will report it
    item = collector.images[path]
    item.width, item.height = width, height = info.upright_size
    for line, cells in rows:
        try:
            name = _class(cells[0], names)
            x1, y1, x2, y2 = _corners([number(cell, "a value") for cell in cells[1:]], keypoints)
            item.boxes[label].append(Box(name, x1 * width, y1 * height, x2 * width, y2 * height))
        except ValueError as error:
            collector.malformed(f"{label}:{line}", error, path)
            continue
        if len(cells) > 5 and not keypoints:
            polygons.append(f"{label}:{line}")


def _class(cell: str, names: dict[int, str]) -> str:
    value = number(cell, "the class")
    if not value.is_integer() or value < 0:
        raise ValueError(f"the class is '{cell}', not a whole number from 0")
    if names and int(value) not in names:
        raise ValueError(f"the class is {cell}, which has no name; there are the names of {min(names)} to {max(names)}")
    return names.get(int(value), str(int(value)))


def _corners(values: list[float], keypoints: bool) -> tuple[float, float, float, float]:
    if any(_PIXELS < abs(value) < math.inf for value in values[:4]):
        raise ValueError("coordinates must be normalised, 0 to 1; these look like pixels")
    if len(values) == 4 or (keypoints and len(values) > 4):
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        some = "neither a box (4) nor a polygon (6, 8, 10, ...); key points need kpt_shape in data.yaml"
        raise ValueError(f"has {len(values)} numbers after the class: {some}")
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _unpaired(collector: AnnotationCollector, labels: dict[str, str]) -> None:
    """Counts label files without an image and images without a label file: where there are both, their names differ."""
    tree, images = collector.tree, collector.images
    unlisted = (image for image in _beside(images, IMAGE_SUFFIXES) if image not in images)
    known = {*labels.values(), *(label for image in unlisted for label in _label_paths(image))}
    texts = [path for path in _beside(labels.values(), ".txt") if os.path.basename(path) not in _NAMES_FILES]
    alone = [path for path in texts if path not in known and _LABEL.match(peek(path))]
    for path in alone:
        collector.problem("missing_image", path, "there is no image of this name")
    bare = [path for path, image in collector.images.items() if path not in labels and not image.spoiled]
    if bare and not alone:
        message = f"{len(bare):,} of {counted(len(images), 'image')} without a label file, taken to hold no object"
        collector.problem("missing_label", tree.root, f"{message}: {listed(map(tree.name, bare), 3)}", "warning")
        return
    for path in bare:
        images[path].spoiled = True
        message = f"has no label file, beside {counted(len(alone), 'label file')} without an image; left out"
        collector.problem("missing_label", path, message)


def _beside(paths: Iterable[str], suffixes: str | tuple[str, ...]) -> Iterator[str]:
    """The files with these suffixes in the folders of ``paths``."""
    for folder in sorted({os.path.dirname(path) for path in paths}):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name.lower().endswith(suffixes) and name[0] != "." and os.path.isfile(f"{folder}/{name}"):
                yield f"{folder}/{name}"
