"""COCO instances: one JSON for each split, with ``images``, ``annotations`` and ``categories``.

Source: the data format on cocodataset.org; Roboflow's exports (``train/_annotations.coco.json``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ...errors import ResightError, listed, shown
from ...io.files import LARGE, read_json
from ...types import Box
from ..file_search import stem_of
from .dataset_dir import DatasetDir, folders_of, peek, split_of
from .labelme import is_labelme
from .labelstudio import is_labelstudio
from .source import LABEL_STUDIO, AnnotationCollector, Source, is_label_studio
from .values import around, number, size, text

NAME = "coco"
LOOKS_FOR = "a JSON with the lists 'images' (of 'file_name's) and 'annotations' (of 'bbox'es)"


def looks_like(tree: DatasetDir) -> str:
    files = _files(tree)
    return f"COCO's lists in {listed(files, 1)}" if files else ""


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every JSON; its name or folder may tell the split. Boxes become corners, ``iscrowd`` and a positive
    ``area`` are kept; ``classes`` are in the order of the category ids, compacted."""
    collector = AnnotationCollector(tree)
    files = {name: _parse(tree.path(name)) for name in _files(tree)}
    if not any("annotations" in document for document in files.values()):
        raise ResightError("has no 'annotations'", where=tree.path(next(iter(files))))
    names: dict[str, None] = {}
    parents: set[str] = set()
    used: set[str] = set()
    for name, document in files.items():
        if "annotations" not in document:  # image_info_test2017.json: nobody looked for objects in these
            collector.problem("no_annotations", tree.path(name), "has no 'annotations', left out", "warning")
            continue
        categories = _categories(collector, tree.path(name), document, parents)
        names.update(dict.fromkeys(categories.values()))
        used |= _read_file(collector, name, document, categories)
    # Some exports list the super-category as a category of its own that nothing belongs to.
    source = collector.source(NAME, [name for name in names if name in used or name not in parents])
    return replace(source, habit=LABEL_STUDIO) if all(map(is_label_studio, files.values())) else source


def _files(tree: DatasetDir) -> list[str]:
    found = [name for name in tree.candidates(".json") if _is_coco(peek(tree.path(name), 65536), bool(tree.only))]
    # COCO's own annotations/ holds captions and keypoints of the same images beside the instances.
    instances = [name for name in found if os.path.basename(name).startswith("instances")]
    return instances or found


def _is_coco(head: str, named: bool) -> bool:
    if is_labelme(head) or is_labelstudio(head):
        return False
    return named or bool(
        (re.search(r'"images"\s*:\s*\[', head) and ('"file_name"' in head or '"coco_url"' in head))
        or (re.search(r'"annotations"\s*:\s*\[', head) and ('"bbox"' in head or '"image_id"' in head))
    )


def _parse(path: str) -> dict[str, Any]:
    document = read_json(path, LARGE)
    keys = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(key, []), list) for key in keys):
        raise ResightError("'images', 'annotations' and 'categories' must be lists", where=path)
    return document


def _categories(
    collector: AnnotationCollector, path: str, document: dict[str, Any], parents: set[str]
) -> dict[object, str]:
    categories: dict[object, str] = {}
    named, ambiguous = set[str](), set[int | str]()
    for at, item in enumerate(document.get("categories", [])):
        where = f"{path}: categories[{at}]"
        try:
            key, name = _id(item, "id"), text(item.get("name"), "name")
            if key in categories:
                if name != categories[key]:
                    ambiguous.add(key)
                raise ValueError(f"id {key} is also the id of '{categories[key]}'")
        except ValueError as error:
            collector.malformed(where, error)
            continue
        if name in named:
            collector.problem("duplicate_class", where, f"the name '{name}' occurs twice; one class", "warning")
        named.add(name)
        categories[key] = name
        if item.get("supercategory") != name:
            parents.add(str(item.get("supercategory")))
    for key in ambiguous:  # of two classes: which one a box has is not known
        del categories[key]
    return dict(sorted(categories.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _read_file(
    collector: AnnotationCollector, name: str, document: dict[str, Any], categories: dict[object, str]
) -> set[str]:
    file = collector.tree.path(name)
    stem = stem_of(name)
    split = split_of(stem, *folders_of(name))
    # annotations/instances_train2017.json -> train2017/, images/train2017/, beside it, images/, and the like.
    words = [stem.removeprefix("instances_"), *([split, "valid"] if split == "val" else [split] if split else [])]
    near = ["", "images", "..", "../images"]
    places = collector.tree.places(name, *near, *(f"{one}/{word}".lstrip("/") for word in words for one in near))
    paths: dict[object, str] = {}
    used = set()
    for at, item in enumerate(document.get("images", [])):
        where = f"{file}: images[{at}]"
        try:
            key = _id(item, "id")
            name = text(item.get("file_name") or item.get("coco_url"), "file_name")  # LVIS has addresses only
            path = collector.locate(name, places, file=file, where=where, split=split)
            width, height = size(item.get("width"), "width"), size(item.get("height"), "height")
        except ValueError as error:
            collector.malformed(where, error)
            continue
        if key in paths:
            message = f"image id {key} is that of {collector.tree.name(paths[key])} and of {collector.tree.name(path)}"
            collector.unclear(where, message, paths[key], path, kind="duplicate_id")
            continue
        paths[key] = path
        image = collector.image(path, file=file, where=where, split=split, once=True)
        image.width, image.height = image.width or width, image.height or height
    ids, matched = set(), set[str]()
    for at, item in enumerate(document["annotations"]):
        where, path = f"{file}: annotations[{at}]", ""
        try:
            key = _key(item, "image_id", paths, "images", matched)
            path = paths[key]
            box = _box(item, categories, matched)
        except ValueError as error:
            collector.malformed(where, error, path)
            continue
        if "id" in item and isinstance(item["id"], int | str):
            if item["id"] in ids:
                collector.problem("duplicate_id", where, f"annotation id {item['id']} occurs twice", "warning")
            ids.add(item["id"])
        used.add(box.label)
        collector.images[path].boxes[file].append(box)
    if matched:
        message = f"ids are text in one list and numbers in another, and are matched: {listed(sorted(matched), 3)}"
        collector.problem("id_types", file, message, "warning")
    return used


def _box(item: dict[str, Any], categories: dict[object, str], matched: set[str]) -> Box:
    category = categories[_key(item, "category_id", categories, "categories", matched)]
    bbox = item.get("bbox")
    if not bbox and item.get("segmentation"):
        xmin, ymin, xmax, ymax = _around(item["segmentation"])
    elif isinstance(bbox, list) and len(bbox) == 4:
        xmin, ymin, width, height = (number(side, "bbox") for side in bbox)
        xmax, ymax = xmin + width, ymin + height
    else:
        raise ValueError(f"bbox is {shown(bbox)}, not [x, y, width, height]")
    area = number(item["area"], "area") if item.get("area") is not None else 0.0
    crowd = item.get("iscrowd") or 0
    if crowd not in (0, 1, "0", "1"):
        raise ValueError(f"iscrowd is {shown(crowd)}, not 0 or 1")
    return Box(category, xmin, ymin, xmax, ymax, crowd=int(crowd) == 1, area=area if area > 0 else None)


def _around(segmentation: object) -> tuple[float, float, float, float]:
    """The box around all polygons of an object."""
    if isinstance(segmentation, dict):
        raise ValueError("has an RLE mask and no bbox: export boxes with it, or polygons")
    polygons = segmentation if isinstance(segmentation, list) else []
    polygons = polygons if all(isinstance(polygon, list) for polygon in polygons) else [polygons]
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError(f"segmentation is {shown(segmentation)}, not polygons [[x, y, x, y, x, y, ...], ...]")
    corners = ([number(side, "segmentation") for side in polygon] for polygon in polygons)
    return around(point for sides in corners for point in zip(sides[::2], sides[1::2], strict=True))


def _key(item: object, name: str, known: dict[object, str], among: str, matched: set[str]) -> int | str:
    """An id as ``known`` has it: a number also where that is text, and the other way round."""
    key = _id(item, name)
    if key in known:
        return key
    other = str(key) if isinstance(key, int) else int(key) if re.fullmatch(r"0|-?[1-9]\d{0,17}", key) else None
    if other is not None and other in known:
        matched.add(f"{name} {key!r} is {other!r}")
        return other
    some = f"{among} {listed(map(repr, islice(known, 6)), 5)}" if known else f"'{among}', which is empty or missing"
    raise ValueError(f"{name} {shown(key)} is not among the {some}")


def _id(item: object, key: str) -> int | str:
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, float) and value.is_integer():  # as tables that lack some write them
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"'{key}' is missing" if value is None else f"'{key}' is {shown(value)}, not a whole number")
    return value
