"""COCO instances: one JSON for each split, with ``images``, ``annotations`` and ``categories``.

Source: the data format on cocodataset.org; Roboflow's exports (``train/_annotations.coco.json``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...boxes import Box
from ...errors import ResightError, listed, shown
from ...files import LARGE, read_json
from .labelme import is_labelme
from .labelstudio import is_labelstudio
from .source import (
    LABEL_STUDIO,
    Gathering,
    Source,
    Tree,
    folders_of,
    is_label_studio,
    number,
    peek,
    size,
    split_of,
    stem_of,
    text,
)

NAME = "coco"
LOOKS_FOR = "a JSON with the lists 'images' (of 'file_name's) and 'annotations' (of 'bbox'es)"


def looks_like(tree: Tree) -> str:
    files = _files(tree)
    return f"COCO's lists in {listed(files, 1)}" if files else ""


def read(tree: Tree, classes: Sequence[str] = ()) -> Source:
    """Reads every JSON; its name or folder may tell the split. Boxes become corners, ``iscrowd`` and a positive
    ``area`` are kept; ``classes`` are in the order of the category ids, compacted."""
    gathering = Gathering(tree)
    files = {name: _parse(tree.path(name)) for name in _files(tree)}
    if not any("annotations" in document for document in files.values()):
        raise ResightError("has no 'annotations'", where=tree.path(next(iter(files))))
    names: dict[str, None] = {}
    parents: set[str] = set()
    used: set[str] = set()
    for name, document in files.items():
        if "annotations" not in document:  # image_info_test2017.json: nobody looked for objects in these
            gathering.problem("no_annotations", tree.path(name), "has no 'annotations', left out", "warning")
            continue
        categories = _categories(gathering, tree.path(name), document, parents)
        names.update(dict.fromkeys(categories.values()))
        used |= _read_file(gathering, name, document, categories)
    # Some exports list the super-category as a category of its own that nothing belongs to.
    source = gathering.source(NAME, [name for name in names if name in used or name not in parents])
    return replace(source, habit=LABEL_STUDIO) if all(map(is_label_studio, files.values())) else source


def _files(tree: Tree) -> list[str]:
    found = [name for name in tree.candidates(".json") if _is_coco(peek(tree.path(name), 65536), bool(tree.only))]
    # COCO's own annotations/ holds captions and keypoints of the same images beside the instances.
    instances = [name for name in found if os.path.basename(name).startswith("instances")]
    return instances or found


def _is_coco(head: str, named: bool) -> bool:
    if is_labelme(head) or is_labelstudio(head):
        return False
    return named or bool(
        (re.search(r'"images"\s*:\s*\[', head) and '"file_name"' in head)
        or (re.search(r'"annotations"\s*:\s*\[', head) and ('"bbox"' in head or '"image_id"' in head))
    )


def _parse(path: str) -> dict[str, Any]:
    document = read_json(path, LARGE)
    keys = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(key, []), list) for key in keys):
        raise ResightError("'images', 'annotations' and 'categories' must be lists", where=path)
    return document


def _categories(gathering: Gathering, path: str, document: dict[str, Any], parents: set[str]) -> dict[object, str]:
    categories: dict[object, str] = {}
    for at, item in enumerate(document.get("categories", [])):
        where = f"{path}: categories[{at}]"
        try:
            key, name = _id(item, "id"), text(item.get("name"), "name")
            if key in categories:
                raise ValueError(f"id {key} is also the id of '{categories[key]}'")
        except ValueError as error:
            gathering.malformed(where, error)
            continue
        if name in categories.values():
            gathering.problem("duplicate_class", where, f"the name '{name}' occurs twice; one class", "warning")
        categories[key] = name
        if item.get("supercategory") != name:
            parents.add(str(item.get("supercategory")))
    return dict(sorted(categories.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _read_file(gathering: Gathering, name: str, document: dict[str, Any], categories: dict[object, str]) -> set[str]:
    file = gathering.tree.path(name)
    stem = stem_of(name)
    split = split_of(stem, *folders_of(name))
    places = _places(gathering.tree, name, stem, split)
    paths: dict[object, str] = {}
    used = set()
    for at, item in enumerate(document.get("images", [])):
        where = f"{file}: images[{at}]"
        try:
            key = _id(item, "id")
            path = gathering.locate(text(item.get("file_name"), "file_name"), places, file=file, where=where)
            width, height = size(item.get("width"), "width"), size(item.get("height"), "height")
        except ValueError as error:
            gathering.malformed(where, error)
            continue
        if key in paths:
            gathering.problem("duplicate_id", where, f"image id {key} is also that of {paths[key]}")
            continue
        if gathering.images.get(path) and file in gathering.images[path].boxes:
            gathering.problem("duplicate_image", where, f"lists {path} a second time")
        paths[key] = path
        image = gathering.image(path, file=file, where=where, split=split)
        image.width, image.height = image.width or width, image.height or height
    ids = set()
    for at, item in enumerate(document["annotations"]):
        where, path = f"{file}: annotations[{at}]", ""
        try:
            key = _id(item, "image_id")
            if key not in paths:
                raise ValueError(f"image_id {key} is not among the images")
            path = paths[key]
            box = _box(item, categories)
        except ValueError as error:
            gathering.malformed(where, error, path)
            continue
        if "id" in item and isinstance(item["id"], int | str):
            if item["id"] in ids:
                gathering.problem("duplicate_id", where, f"annotation id {item['id']} occurs twice", "warning")
            ids.add(item["id"])
        used.add(box.label)
        gathering.images[path].boxes[file].append(box)
    return used


def _box(item: dict[str, Any], categories: dict[object, str]) -> Box:
    category = _id(item, "category_id")
    if category not in categories:
        known = f"categories {listed(categories, 5)}" if categories else "'categories', which is empty or missing"
        raise ValueError(f"category_id {category} is not among the {known}")
    bbox = item.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"bbox is {shown(bbox)}, not [x, y, width, height]")
    x, y, width, height = (number(side, "bbox") for side in bbox)
    area = number(item["area"], "area") if item.get("area") is not None else 0.0
    crowd = item.get("iscrowd") in (1, True, "1")
    return Box(categories[category], x, y, x + width, y + height, crowd=crowd, area=area if area > 0 else None)


def _id(item: object, key: str) -> int | str:
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, float) and value.is_integer():  # as tables that lack some write them
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"'{key}' is missing" if value is None else f"'{key}' is {shown(value)}, not a whole number")
    return value


def _places(tree: Tree, name: str, stem: str, split: str | None) -> list[str]:
    # annotations/instances_train2017.json -> train2017/, images/train2017/, beside it, images/, and the like.
    folder = os.path.dirname(name)
    words = [stem.removeprefix("instances_"), *([split, "valid"] if split == "val" else [split] if split else [])]
    bases = [folder, os.path.join(folder, "..")]
    places = [os.path.join(base, inner) for base in bases for inner in ("", "images")]
    places += [os.path.join(place, word) for word in words for place in places]
    return [tree.path(place) for place in places]
