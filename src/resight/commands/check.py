"""What is wrong with a data set, before or after it became records."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..arguments import check_types
from ..config.defaults import Exif
from ..config.most_detections import MostDetections
from ..config.tree import Config, ModelConfig
from ..datasets.formats import Source, open_data
from ..datasets.inspect import Inspection
from ..datasets.near_duplicates import group_near_duplicates
from ..datasets.split import leaks
from ..datasets.summary import findings, inspect_all, table
from ..dialect import anchors_for, dialect_of, load_config
from ..errors import Problem, counted, listed
from ..types import SPLITS, Annotation, Box

_LEAKED = "Scores will be optimistic where test images are related to training images: data build --split group."
_ADVICE = {
    "leakage_group": _LEAKED,
    "leakage_near_duplicate": _LEAKED,
    "box_beyond_anchors": "Boxes beyond the anchors: train with a larger --size, or with --set model.tile=640.",
    "poor_anchor_reach": "Kinds of boxes that anchors reach badly are found less often and placed worse: add images of "
    "them, or where they are small train with a larger --size.",
}
REACHED = 0.5  # IoU with an anchor from which on a box is within its reach


@dataclass(frozen=True)
class CheckReport:
    """What ``check_data`` found.

    Args:
        path: what was checked.
        format: "coco", "voc", ..., "records".
        errors: what ``build_data`` would refuse, in a stable order.
        warnings: everything else worth knowing.
        counts: ``images``, ``boxes``, ``classes`` (boxes by class name), ``splits`` (the same three for each split
            there is) and ``problems`` (findings by kind).
    """

    path: str
    format: str
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    counts: dict[str, Any]

    def json(self) -> dict[str, Any]:
        """``{"errors": [...], "warnings": [...], "counts": {...}}``; a finding is ``{"kind", "where", "message"}``."""

        def plain(problems: Iterable[Problem]) -> list[dict[str, str]]:
            return [{"kind": p.kind, "where": p.where, "message": p.message} for p in problems]

        return {"errors": plain(self.errors), "warnings": plain(self.warnings), "counts": self.counts}

    def text(self) -> str:
        """The tables for people: how much there is, then every kind of finding with its first examples."""
        lines = [f"{self.path}: {self.format}", "", *table(_rows(self.counts)), ""]
        for level, problems in (("error", self.errors), ("warning", self.warnings)):
            lines += findings(problems, f"{level:<8} ")
        totals = [counted(len(self.errors), "error"), counted(len(self.warnings), "warning")]
        lines.append(", ".join(totals) if self.errors or self.warnings else "nothing is wrong")
        kinds = {problem.kind for problem in self.warnings}
        return "\n".join([*lines, *dict.fromkeys(advice for kind, advice in _ADVICE.items() if kind in kinds)])


def check_data(
    path: str | os.PathLike[str], *, format: str = "auto", exif: Exif = "auto", config: Config | None = None
) -> CheckReport:
    """Looks at every annotation and decodes every image of a source or a records folder.

    Args:
        path: annotated images in any format, or a records folder.
        format: the source's format, or "auto".
        exif: the frame of the boxes of rotated images, as in ``write_records``.
        config: its model and image size say which boxes anchors can reach, its data keys how to read a foreign records
            folder; by default the default configuration.

    Raises:
        ResightError: there is nothing to check, or its format is unknown.
    """
    check_types(locals(), check_data)
    config = config or load_config()
    source, records = open_data(path, format, config)
    counts = _count(source.annotations, source.classes)
    problems = [
        *_findings(source, os.fspath(path), records is not None, exif, config.model),
        *_one_sided_classes(counts),
    ]
    return CheckReport(
        path=os.fspath(path),
        format="records" if records else f"{source.format}, recognised by {source.note}",
        errors=tuple(p for p in problems if p.level == "error"),
        warnings=tuple(p for p in problems if p.level == "warning"),
        counts=counts | {"problems": dict(Counter(p.kind for p in problems).most_common())},
    )


def _findings(source: Source, path: str, stored: bool, exif: str, model: ModelConfig) -> Iterator[Problem]:
    """Everything about the images of a source, or of records, where they are ``stored`` in them."""
    images = source.annotations
    yield from source.problems
    inspections, decision = inspect_all(images, deep=True, exif=exif, habit=source.habit)
    if decision.asks:
        yield decision.problem(source.path)
    elif decision.images and not stored:
        yield Problem("warning", "exif_frame", source.path, decision.text())
    for annotation, found in zip(images, inspections, strict=True):
        yield from found.problems
        yield from _remarks(annotation, found, stored)
    good = [found.annotation for found in inspections if found.annotation]
    if not any(image.boxes for image in good) and not decision.asks:
        yield Problem("error", "no_box", path, "no usable boxes")
    yield from _out_of_reach(good, model)
    yield from _crowded(good, model.most)
    yield from _duplicate_ids(images, stored)
    yield from _leakage(images, [found.hash for found in inspections])


def _remarks(annotation: Annotation, found: Inspection, stored: bool) -> Iterator[Problem]:
    """What ``build_data`` does not mind."""
    where, name = annotation.place, annotation.filename
    if found.image and found.annotation and found.rotated:
        then = "training ignores it" if stored else "its record will hold it upright"
        message = f"{name}: has an EXIF rotation ({found.image.orientation}); {then}"
        yield Problem("warning", "exif_rotation", where, message)
    if found.image and found.annotation and found.clipped:
        reach = counted(found.clipped, "box reaches", "boxes reach")
        yield Problem("warning", "clipped_box", where, f"{name}: {reach} a little outside; what is outside is cut off")


def _out_of_reach(images: Sequence[Annotation], model: ModelConfig) -> Iterator[Problem]:
    """The training boxes without an anchor of IoU >= .5: the RPN hardly learns to propose such boxes; and the classes
    and aspects that have many of these."""
    boxes = [(image, box) for image in images if image.split in ("train", None) for box in image.boxes if not box.crowd]
    if not boxes:
        return
    sizes = np.array([(image.width, image.height) for image, _ in boxes], np.float64)
    iou = reachable(model, sizes, np.array([box.xyxy for _, box in boxes], np.float64))
    yield from _poorly_reached(boxes, iou, model)
    if not (beyond := np.flatnonzero(iou < REACHED).tolist()):
        return
    image, box = boxes[min(beyond, key=lambda i: iou[i])]
    classes, all_of = Counter(boxes[i][1].label for i in beyond), Counter(box.label for _, box in boxes)
    message = (
        f"{len(beyond):,} of {counted(len(boxes), 'training box', 'training boxes')} ({len(beyond) / len(boxes):.1%}) "
        f"have no anchor with IoU >= .5 at training size ({model.min_size}-{model.max_size} px): "
        f"{listed(f'{name} {n:,} of {all_of[name]:,}' for name, n in classes.most_common())}; the worst is a "
        f"{box.label} of {box.xmax - box.xmin:.0f} x {box.ymax - box.ymin:.0f} in {image.filename}"
    )
    yield Problem("warning", "box_beyond_anchors", image.place, message)


def _poorly_reached(boxes: Sequence[tuple[Annotation, Box]], iou: np.ndarray, model: ModelConfig) -> Iterator[Problem]:
    from ..training.reach_notes import poorly_reached  # which comes with PyTorch

    sides = np.array([(box.xmax - box.xmin, box.ymax - box.ymin) for _, box in boxes])
    classes, labels = np.unique([box.label for _, box in boxes], return_inverse=True)
    for kind in poorly_reached(sides, labels, classes.tolist(), iou):
        place = boxes[int(np.where(kind.boxes, iou, np.inf).argmin())][0].place
        message = f"anchors reach {kind} at training size ({model.min_size}-{model.max_size} px)"
        yield Problem("warning", "poor_anchor_reach", place, message)


def reachable(model: ModelConfig, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """``[N]`` the best IoU that an anchor has with each of the boxes ``[N, 4]`` (xyxy pixels) in images of the sizes
    ``[N, 2]`` (width, height): of the model's own anchors, or of those fitted to these boxes, as training does it."""
    # Torch comes with these, so not before there are boxes to compare.
    from ..detection.anchors import reachable_iou
    from ..input.target import to_input_frame

    sizes, centers = to_input_frame(boxes, images, model)
    return reachable_iou(sizes, centers, anchors_for(model, sizes, centers), dialect_of(model).level_strides(model))


def _crowded(images: Sequence[Annotation], most: MostDetections) -> Iterator[Problem]:
    """Images with more objects than a model reports detections of one."""
    objects = [(index, box.label) for index, image in enumerate(images) for box in image.boxes if not box.crowd]
    _, labels = np.unique([label for _, label in objects], return_inverse=True)
    of_image = np.array([index for index, _ in objects], np.int64)
    if crowded := most.crowded(of_image, labels, lambda index: images[index].filename):
        yield Problem("warning", "too_many_objects", images[crowded[1]].place, crowded[0])


def _duplicate_ids(images: Sequence[Annotation], stored: bool) -> Iterator[Problem]:
    holders: dict[str, list[str]] = defaultdict(list)
    for image in images:
        holders[image.source_id].append(image.place)
    for source_id, places in holders.items():
        if source_id and len(places) > 1:
            # Records are split and written again under names of their own; a source with repeated ids is refused.
            level: Literal["error", "warning"] = "warning" if stored else "error"
            message = f"'{source_id}' names {len(places)} images: {listed(places, 4)}"
            yield Problem(level, "duplicate_id", places[0], message)


def _leakage(images: Sequence[Annotation], hashes: Sequence[int | None]) -> Iterator[Problem]:
    """Images of val and test whose group or near-duplicate is in an earlier part; training must not have seen them."""
    by_reason: dict[str, tuple[Sequence[object], str]] = {
        "leakage_group": ([image.group or None for image in images], "is of the same group as"),
        "leakage_near_duplicate": (group_near_duplicates(hashes).tolist(), "looks the same as"),
    }
    splits = [image.split for image in images]
    for kind, (groups, relation) in by_reason.items():
        for at, earlier in leaks(splits, groups):
            image, other = images[at], images[earlier]
            message = f"{image.split} image {image.filename} {relation} {other.split} image {other.filename}"
            yield Problem("warning", kind, image.place, message)


def _one_sided_classes(counts: dict[str, Any]) -> Iterator[Problem]:
    parts = {split: part["classes"] for split, part in counts["splits"].items()}
    for name, total in sorted(counts["classes"].items()):
        having = [split for split, boxes in parts.items() if boxes.get(name)]
        amounts = ", ".join(f"{counted(parts[split][name], 'box', 'boxes')} in {split}" for split in having)
        if not total:
            yield Problem("warning", "class_without_boxes", "", f"'{name}' has no box at all")
        elif len(having) == 1 and len(parts) > 1:
            yield Problem("warning", "class_in_one_split", "", f"'{name}' has {amounts} and none elsewhere")
        elif "train" in parts and "train" not in having:
            yield Problem("warning", "class_not_in_train", "", f"'{name}' has {amounts} and none in train")


def _count(images: Sequence[Annotation], classes: Sequence[str]) -> dict[str, Any]:
    def amounts(some: Sequence[Annotation]) -> dict[str, Any]:
        boxes = Counter(box.label for image in some for box in image.boxes)
        names = [*classes, *sorted(set(boxes) - set(classes))]
        return {"images": len(some), "boxes": boxes.total(), "classes": {name: boxes[name] for name in names}}

    parts = {split: [image for image in images if image.split == split] for split in SPLITS}
    return amounts(images) | {"splits": {split: amounts(part) for split, part in parts.items() if part}}


def _rows(counts: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table of amounts: a line per class, a column per split."""
    columns = {"all": counts, **counts["splits"]} if len(counts["splits"]) != 1 else counts["splits"]
    rows = [(what, *(f"{column[what]:,}" for column in columns.values())) for what in ("images", "boxes")]
    rows += [(f"  {name}", *(f"{c['classes'].get(name, 0):,}" for c in columns.values())) for name in counts["classes"]]
    return [("", *columns), *rows]
