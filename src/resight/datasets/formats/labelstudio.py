"""Label Studio's JSON and JSON-MIN exports: a list of tasks, each with an image and what people drew on it.

Source: "Label Studio JSON format of annotated tasks" in its documentation. Predictions are no annotations.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import ResightError, listed
from ...io.files import IMAGE_SUFFIXES, LARGE, read_json
from ...io.images import probe_file
from ...types import Box, Split
from ..file_search import PATH, stem_of
from .dataset_dir import DatasetDir, folders_of, peek, split_of
from .source import LABEL_STUDIO, AnnotationCollector, Source
from .values import Corners, Size, around, around_ellipse, around_rotated, number, point, size, text

NAME = "labelstudio"
LOOKS_FOR = "a JSON list of tasks with 'data' and 'annotations', as Label Studio exports it (JSON or JSON-MIN)"

_LABELS = re.compile(r'"(rectangle|polygon|brush|ellipse|keypoint)labels"')
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_SHAPES = ("rectangle", "polygon", "ellipse", "brush", "keypoint")


@dataclass(frozen=True)
class _Task:
    """A task with the one annotation of it that counts: a list of what LabelStudio calls results."""

    where: str
    image: str
    results: list[dict[str, Any]]


def looks_like(tree: DatasetDir) -> str:
    files = _files(tree)
    return f"Label Studio's tasks in {listed(files, 1)}" if files else ""


def is_labelstudio(head: str) -> bool:
    """Whether a JSON that begins like this is Label Studio's."""
    start = head.lstrip()[:1]
    if start == "{":
        return '"task"' in head and '"result"' in head and '"original_width"' in head
    tasks = '"data"' in head and ('"annotations"' in head or '"completions"' in head)
    return start == "[" and (tasks or '"original_width"' in head or bool(_LABELS.search(head)))


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every such JSON: rectangles, and polygons and ellipses as the boxes around them, rotated ones too. Of
    several annotations of a task the ground truth, else the latest is taken; tasks without any are left out."""
    collector = AnnotationCollector(tree)
    for name in _files(tree):
        file = tree.path(name)
        split = split_of(stem_of(name), *folders_of(name))
        for task in _tasks(collector, file, read_json(file, LARGE)):
            path = _locate(collector, name, task, split)
            item = collector.image(path, file=file, where=task.where, split=split, once=True)
            try:
                item.width, item.height = _size_of(task, path)
                for label, corners in _boxes(collector, task, path, (item.width, item.height)):
                    item.boxes[file].append(Box(label, *corners))
            except ValueError as error:
                collector.malformed(task.where, error, path)
    return replace(collector.source(NAME), habit=replace(LABEL_STUDIO, shares=True))


def _files(tree: DatasetDir) -> list[str]:
    return [name for name in tree.candidates(".json") if is_labelstudio(peek(tree.path(name), 65536))]


def _tasks(collector: AnnotationCollector, file: str, document: object) -> Iterator[_Task]:
    """The annotated tasks of a file; what is left out is counted."""
    chosen: dict[object, tuple[tuple[bool, str], _Task]] = {}
    left_out: Counter[str] = Counter()
    for at, entry in enumerate(document if isinstance(document, list) else [document]):
        where = f"{file}: [{at}]"
        if not isinstance(entry, dict):
            collector.malformed(where, "is not a task")
            continue
        data, annotations = _parts(entry)
        image = _image_of(data)
        if not image:
            collector.malformed(where, "its data names no image")
            continue
        valid = [a for a in annotations if not a.get("was_cancelled") and isinstance(a.get("result"), list)]
        if not valid:
            left_out["skipped by the annotator" if annotations else "not annotated"] += 1
        for annotation in valid:
            changed = str(annotation.get("updated_at") or annotation.get("created_at"))
            age = bool(annotation.get("ground_truth")), changed
            results = [result for result in annotation["result"] if isinstance(result, dict)]
            key = image if entry.get("id") is None else entry["id"] if isinstance(entry["id"], int | str) else at
            left_out["second annotations of a task"] += key in chosen
            if key not in chosen or age >= chosen[key][0]:
                chosen[key] = age, _Task(where, image, results)
    if +left_out:
        message = f"left out: {listed(f'{count:,} {what}' for what, count in (+left_out).items())}"
        collector.problem("left_out_tasks", file, message, "warning")
    yield from (task for _, task in chosen.values())


def _parts(entry: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``(data, annotations)`` of an entry of JSON, of JSON-MIN, or of one that a storage holds for each annotation."""
    task = entry.get("task")
    data: Any
    annotations: Any
    if isinstance(task, dict) and "result" in entry:
        data, annotations = task.get("data"), [entry]
    elif isinstance(entry.get("data"), dict):
        data, annotations = entry["data"], entry.get("annotations") or entry.get("completions")
    else:  # JSON-MIN: the results lie in the entry under the names of their controls
        lists = [value for value in entry.values() if isinstance(value, list)]
        values = [one for value in lists for one in value if isinstance(one, dict)]
        data, annotations = entry, [{**entry, "result": [{**value, "value": value} for value in values]}]
    found = annotations if isinstance(annotations, list) else []
    return data if isinstance(data, dict) else {}, [one for one in found if isinstance(one, dict)]


def _image_of(data: dict[str, Any]) -> str:
    """What names the image: under "image", else whatever looks like one."""
    texts = {key: value.strip() for key, value in data.items() if isinstance(value, str)}
    if texts.get("image"):
        return texts["image"]
    return next((value for value in texts.values() if _name_of(value).lower().endswith(IMAGE_SUFFIXES)), "")


def _name_of(image: str) -> str:
    """The path in an address: of ``/data/local-files/?d=a%2Fb.jpg`` that is ``a/b.jpg``."""
    if "?" not in image and "://" not in image:
        return image
    parts = urlsplit(image)
    return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]


def _locate(collector: AnnotationCollector, name: str, task: _Task, split: Split | None) -> str:
    """The image of a task, with or without what Label Studio put before its name."""
    tree, file = collector.tree, collector.tree.path(name)
    places = tree.places(name, "", "images", "..", "../images")
    called = "embedded image" if task.image.startswith("data:") else _name_of(task.image).lstrip("/")
    if called.startswith("data/upload/"):
        called = os.path.basename(called)
    match = collector.find(called, places, file=file, split=split)
    plain = _UPLOADED.sub("", os.path.basename(called))
    if not match.path and not match.candidates and plain != os.path.basename(called):
        match = collector.find(plain, places, file=file, split=split)
        match = replace(match, rung=PATH) if match.path else match  # two uploads of one name stay apart
    return collector.found(called, match, os.path.join(places[0], called), file=file, where=task.where)


def _size_of(task: _Task, path: str) -> Size:
    for result in task.results:
        width, height = (size(result.get(key), key) for key in ("original_width", "original_height"))
        if width and height:
            return width, height
    try:
        return probe_file(path).upright_size
    except ResightError:
        return None, None  # the inspection will report it


def _boxes(collector: AnnotationCollector, task: _Task, path: str, image: Size) -> Iterator[tuple[str, Corners]]:
    """``(label, corners)`` in pixels of an image of the size ``image``."""
    if image[0] is None or image[1] is None:
        return
    labelled = {result.get("id") for result in task.results if _labels(result)}
    for result in task.results:
        value, labels = result.get("value"), _labels(result)
        if not isinstance(value, dict) or not labels:
            shape = str(result.get("type")).removesuffix("labels")
            if shape in _SHAPES and result.get("id") not in labelled:
                collector.without_box[f"{shape} without a label"].append(path)
            continue
        if number(result.get("image_rotation") or 0, "image_rotation") % 360:
            raise ValueError(f"the image was turned by {result['image_rotation']} degrees in Label Studio")
        corners = _corners(value, image[0], image[1])
        if corners is None:
            collector.without_box["brush" if "rle" in value else "keypoint"].append(path)
            continue
        for label in labels:
            yield text(label, "label"), corners


def _labels(result: dict[str, Any]) -> list[Any]:
    """The labels of a region; of choices, texts and relations none."""
    value = result.get("value")
    lists = value.items() if isinstance(value, dict) else ()
    return next((found for key, found in lists if key.endswith("labels") and isinstance(found, list)), [])


def _corners(value: dict[str, Any], width: int, height: int) -> Corners | None:
    """The box around a region, whose sides are percents; None of one that has none."""

    def pixels(x: str, y: str) -> tuple[float, float]:
        return number(value.get(x), x) / 100 * width, number(value.get(y), y) / 100 * height

    degrees = number(value.get("rotation") or 0, "rotation")
    if isinstance(value.get("points"), list):
        return around((x / 100 * width, y / 100 * height) for x, y in map(point, value["points"]))
    if "radiusX" in value:
        return around_ellipse(pixels("x", "y"), pixels("radiusX", "radiusY"), degrees, (width, height))
    if "rle" in value or "height" not in value:
        return None
    (x, y), (across, down) = pixels("x", "y"), pixels("width", "height")
    return around_rotated((x, y, x + across, y + down), degrees, (x, y), (width, height))
