"""Annotations in, a records folder out: select, check, split, write, and say what was done."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._version import __version__
from ..arguments import check_types
from ..config.defaults import Background, Exif, Layout, OnBad
from ..errors import Problem, ResightError, counted, listed, nearest, shown
from ..io.outputs import beside, check_output
from ..label_map import LabelMap, read_label_map
from ..records.writer import is_own, write_records_folder
from ..types import Annotation
from .formats import Source, read_source
from .inspect import Inspection
from .split import RULES, split_annotations
from .split_file import follow_split_file
from .summary import amounts, findings, inspect_all, table

LEAKED = 0.01  # share of leaked images from which on it is a warning


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Args:
        out: the records folder.
        source: ``path (format)`` of the annotations.
        rule: the split rule that was followed.
        classes: class names in the order of the label map.
        images: images by split.
        counts: boxes by split and class: ``counts["train"]["stop"]``; a class without boxes counts 0.
        leakage: share of the test images whose track or near-duplicate is in train.
        leaked_by: number of such images by reason.
        left_out: what is not in the records, by reason; also the problems that were skipped, by kind.
        mended: ``clipped_boxes``, ``duplicate_boxes`` (kept once), ``rotated_images`` (stored upright),
            ``turned_boxes`` (with their images).
        problems: every finding; of level "error" only what ``on_bad="skip"`` left out.
        notes: sentences for the user.
    """

    out: str
    source: str
    rule: str
    classes: tuple[str, ...]
    images: dict[str, int]
    counts: dict[str, dict[str, int]]
    leakage: float
    leaked_by: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    mended: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The table of images and boxes by split, with each split's share, then what was left out or repaired."""
        rows = [("", *self.images), ("images", *self._cells(self.images))]
        rows.append(("boxes", *self._cells({split: sum(self.counts[split].values()) for split in self.images})))
        for name in self.classes:
            rows.append((f"  {name}", *self._cells({split: self.counts[split][name] for split in self.images})))
        lines = [f"{self.source}, split by {self.rule}", *table(rows)]
        if len(self.images) > 1:
            part = "test" if "test" in self.images else "val"
            reasons = f"track {self.leaked_by['track']:,}, near-duplicate {self.leaked_by['near_duplicate']:,}"
            related = "have a near-duplicate or a frame of the same track in train"
            line = f"leakage: {self.leakage:.1%} of the {part} images {related} ({reasons})"
            if self.leakage >= LEAKED:
                remedy = "" if self.rule == "group" else "; --split group keeps such images together"
                line = f"warning: {line}, so scores will be optimistic{remedy}"
            lines.append(line)
        for title, counts in (("left out", self.left_out), ("repaired", self.mended)):
            if counts:
                lines.append(f"{title}: {amounts(counts)}")
        lines += findings(self.problems)
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _cells(self, counts: Mapping[str, int]) -> list[str]:
        total = sum(counts.values())
        return [f"{n:,} ({n / total:4.0%})" if total else "0" for n in counts.values()]


def build_data(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, format: str = "auto", **options: Any
) -> BuildReport:
    """Turns annotations of any known format into a records folder.

    Args:
        source: a folder or an annotation file.
        out: the records folder to write.
        format: "auto" to recognise it, or the name of a format, such as "voc".
        options: those of ``write_records``.

    Raises:
        ResightError: the source cannot be read, or as ``write_records``.
    """
    check_types({"source": source, "out": out, "format": format}, build_data)
    check_types(options, write_records, where="build_data")
    read = read_source(source, format, classes=options.get("classes", ()), labels=options.get("labels"))
    return write_records(read, out, **options)


def write_records(
    annotations: Iterable[Annotation] | Source,
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    labels: str | os.PathLike[str] | LabelMap | None = None,
    split: str = "auto",
    group_by: str | None = None,
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    seed: int = 42,
    shards: int | None = None,
    background: Background = "empty",
    on_bad: OnBad = "error",
    exif: Exif = "auto",
    layout: Layout = "resight",
    force: bool = False,
) -> BuildReport:
    """Writes annotated images as the records folder ``out``.

    Args:
        classes: only boxes of these classes (named as after ``rename``); empty: all.
        rename: ``{old name: new name}``; two classes with one new name become one.
        labels: a label map whose ids and order are kept; its classes are the only known ones.
        split: "given" keeps that of the annotations, "group" keeps groups whole, "random" shuffles images, "auto" is
            "given" where two splits or more are named, else "group"; or a file of lines ``filename,split``.
        group_by: "track", "video", or a regular expression on file names whose first capture or match is the group.
        test_fraction, val_fraction: share of all images, and of the boxes of every class; ``seed`` is the split's.
        shards: files per split; by default by size.
        background: of images without a selected box "none", those the source lists without any ("empty"), or "all".
        on_bad: "error" writes nothing if an image or a box is bad, "skip" leaves out bad ones, and images all of whose
            boxes are bad.
        layout: names of the files, Resight's or TFOD's; in the latter no AVIF and HEIC, which TFOD does not read.
        force: replace a records folder that exists.

    Raises:
        ResightError: bad options, bad input (all of it is listed), nothing left to write, or ``out`` cannot be written.
    """
    check_types(locals(), write_records)
    rename = rename or {}
    for option, words in (("--classes", classes), ("--rename", [*rename, *rename.values()])):
        if strangers := [word for word in words if not isinstance(word, str) or not word]:
            raise ResightError(f"{shown(strangers[0])} is not a name", where=option)
    _check_apart(annotations, out)
    check_output(out, force, is_own)  # before the work, not after it
    source = annotations if isinstance(annotations, Source) else Source("annotations", "", _checked(annotations))
    known = labels if isinstance(labels, LabelMap) or labels is None else read_label_map(labels)
    rules = {"group_by": group_by, "test_fraction": test_fraction, "val_fraction": val_fraction, "seed": seed}
    return _Build(source, classes, rename, known, split, rules, background, on_bad, exif, layout).run(
        out, shards, force
    )


@dataclass
class _Build:
    """The stages of ``write_records``: its options, and what the stages find and count. ``rules`` are the options of
    ``split_annotations``."""

    source: Source
    classes: Sequence[str]
    rename: Mapping[str, str]
    known: LabelMap | None
    rule: str
    rules: Mapping[str, Any]
    background: Background
    on_bad: OnBad
    exif: Exif
    layout: Layout
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def run(self, out: str | os.PathLike[str], shards: int | None, force: bool) -> BuildReport:
        source, rules, stated = self.source, self.rules, self.rule
        names, items = self.select()
        # Splitting once without hashes finds a bad rule before the long part, and tells whether hashes are needed.
        needs_hashes = len(split_annotations(items, self.rule, **rules).counts) > 1
        good, hashes = self.inspect(items)
        result = split_annotations(good, self.rule, **rules, hashes=hashes if needs_hashes else None)
        if result.unsplit:
            self.left_out["images_in_no_split"] = len(result.unsplit)
        if not any(item.boxes for item in result.annotations):
            raise self.nothing_left()
        rule = result.rule if stated in RULES else stated
        by_split: dict[str, list[Annotation]] = defaultdict(list)
        for item in sorted(result.annotations, key=lambda item: (item.source_id, item.where)):
            by_split[item.split or ""].append(item)
        info: dict[str, Any] = {"source": source.path, "format": source.format, "split": {"rule": rule, **rules}}
        info["leakage"] = {"share": result.leakage, **result.leaked_by}
        info |= {"left_out": dict(+self.left_out), "mended": dict(+self.mended), "resight": __version__}
        # The classes in the source's order, and those it does not list by name.
        classes = [names[name] for name in source.classes if name in names]
        classes += sorted({box.label for item in good for box in item.boxes})
        label_map = self.known or LabelMap.from_names(dict.fromkeys(classes))
        info = write_records_folder(by_split, out, label_map, info=info, shards=shards, layout=self.layout, force=force)
        return BuildReport(
            out=os.fspath(out),
            source=f"{source.path} ({source.format})" if source.path else source.format,
            rule=rule,
            classes=label_map.names,
            images=info["images"],
            counts=info["boxes"],
            leakage=result.leakage,
            leaked_by=result.leaked_by,
            left_out=info["left_out"],
            mended=info["mended"],
            problems=tuple(self.problems),
            notes=(*self.notes, *result.notes),
        )

    def select(self) -> tuple[dict[str, str], list[Annotation]]:
        """``_class_names``; and the images and boxes of the selected classes, under the names they are written with."""
        stated, annotations = self.rule, self.source.annotations
        if stated not in RULES:  # followed before the selection: it may well name images that are not selected
            annotations, self.notes = follow_split_file(stated, annotations)
            self.rule = "given"
        names = _class_names(self.source, self.rename, self.classes, self.known)
        items, self.problems = _unique_ids(_select(annotations, names, self.background, self.left_out))
        for problem in self.source.problems:
            # What the source's own splits contradict does not matter where they are not followed.
            ignored = problem.kind == "split_conflict" and stated not in ("auto", "given")
            self.problems.append(replace(problem, level="warning") if ignored else problem)
        return names, items

    def inspect(self, items: Sequence[Annotation]) -> tuple[list[Annotation], list[int | None]]:
        """The images that can be written, each with its perceptual hash, and its boxes repaired."""
        source, known = self.source, self.known.names if self.known else ()
        # Every image is decoded, hashes or not: what is truncated would stop the training.
        inspections, frame = inspect_all(items, known, deep=True, exif=self.exif, habit=source.habit)
        if frame.asks:  # whatever on_bad says: these images are not bad
            raise frame.question(source.path)
        if said := frame.text():
            self.notes.append(said)
            self.mended["turned_boxes"] += frame.boxes if frame.frame == "stored" else 0
        good: list[Annotation] = []
        hashes: list[int | None] = []
        for item, found in zip(items, inspections, strict=True):
            if self._is_good(item, found) and found.annotation:
                good.append(found.annotation)
                hashes.append(found.hash)
        if self.errors and self.on_bad == "error":
            count = counted(len(self.errors), "problem")
            message = "\n".join([f"{count}, nothing was written", *findings(self.errors, "  ")])
            fix = "Fix them, or leave bad images and boxes out with --on-bad skip."
            raise ResightError(message, where=source.path, fix=fix)
        self.left_out.update(problem.kind for problem in self.errors)
        return good, hashes

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.level == "error"]

    def _is_good(self, item: Annotation, found: Inspection) -> bool:
        """Whether an image is to be written; counts what was found of it."""
        self.problems += found.problems
        self.mended["clipped_boxes"] += found.clipped
        self.mended["duplicate_boxes"] += sum(problem.kind == "duplicate_box" for problem in found.problems)
        if found.annotation is None:
            return False
        if self.layout == "tfod" and found.image and found.image.format in ("avif", "heif"):
            message = f"{item.filename}: TFOD does not read {found.image.format.upper()}; convert it to JPEG"
            self.problems.append(Problem("error", "tfod_format", item.place, message))
            return False
        if item.boxes and not found.annotation.boxes:
            self.left_out["images_without_a_good_box"] += 1
            return False
        self.mended["rotated_images"] += found.rotated
        return True

    def nothing_left(self) -> ResightError:
        reasons = f"; left out: {amounts(self.left_out)}" if any(self.left_out.values()) else ""
        message = "\n".join([f"no box is left to write{reasons}", *findings(self.errors, "  ")])
        fix = "Correct the annotations." if self.errors else ""
        return ResightError(message, where=self.source.path or "write_records", fix=fix)


def _check_apart(annotations: Iterable[Annotation] | Source, out: str | os.PathLike[str]) -> None:
    """A source that held the records made of it would be in two formats from then on."""
    if not isinstance(annotations, Source) or not (source := annotations.path):
        return
    of_source, of_out = os.path.realpath(source), os.path.realpath(out)
    common = os.path.commonpath([of_source, of_out])
    if common in (of_source, of_out) and os.path.isdir(common):
        message = f"lies in the source {source}" if common == of_source else f"would hold its own source {source}"
        fix = f"Write the records beside it, e.g. to {beside(of_source)}"
        raise ResightError(message, where=out, fix=fix)


def _class_names(
    source: Source, rename: Mapping[str, str], classes: Sequence[str], label_map: LabelMap | None
) -> dict[str, str]:
    """``{class of the source: the name it is written under}`` of the selected classes, in the source's order."""
    known = label_map.names if label_map else ()
    if label_map and (bad := [problem for problem in label_map.problems if problem.level == "error"]):
        raise ResightError("; ".join(problem.message for problem in bad), where=bad[0].where or "--labels")

    def written(name: str) -> str:
        index = label_map.index_of(name) if label_map else None
        return name if index is None else known[index]

    present = dict.fromkeys([*source.classes, *sorted({b.label for a in source.annotations for b in a.boxes})])
    if strangers := [name for name in rename if name not in present]:
        fix = nearest(strangers[0], present)
        raise ResightError(f"no box is of class {listed(strangers)}", where="--rename", fix=fix)
    names = {name: written(rename.get(name, name)) for name in present}
    wanted = {written(name) for name in classes}
    available = {*names.values(), *known}
    if strangers := sorted(wanted - available):
        fix = nearest(strangers[0], available) or f"The classes are {listed(sorted(available), 50)}."
        raise ResightError(f"no box is of class {listed(strangers)}", where="--classes", fix=fix)
    if label_map and (unknown := sorted(wanted - set(known))):
        fix = nearest(unknown[0], known)
        raise ResightError(f"the label map does not know {listed(unknown)}", where="--labels", fix=fix)
    return {name: new for name, new in names.items() if not wanted or new in wanted}


def _checked(annotations: Iterable[Annotation]) -> list[Annotation]:
    items: list[Annotation] = []
    for number, item in enumerate(annotations):
        if not isinstance(item, Annotation):
            raise ResightError(f"item {number} is a {type(item).__name__}, not an Annotation", where="write_records")
        if not item.source_id:  # bytes without a name
            name = hashlib.sha256(item.image).hexdigest()[:16] if isinstance(item.image, bytes) else str(item.image)
            item = replace(item, source_id=name, filename=name)
        items.append(item)
    return items


def _select(
    annotations: Iterable[Annotation], names: Mapping[str, str], background: str, left_out: Counter[str]
) -> Iterator[Annotation]:
    for item in annotations:
        boxes = tuple(replace(box, label=names[box.label]) for box in item.boxes if box.label in names)
        left_out["boxes_of_other_classes"] += len(item.boxes) - len(boxes)
        if not boxes and item.boxes and background != "all":
            left_out["images_with_only_other_classes"] += 1
        elif not boxes and background == "none":
            left_out["background_images"] += 1
        else:
            yield replace(item, boxes=boxes)


def _unique_ids(items: Iterable[Annotation]) -> tuple[list[Annotation], list[Problem]]:
    """Makes ``source_id`` unique by the path where files of one name lie in several folders; repeats are problems."""
    by_id: dict[str, list[Annotation]] = defaultdict(list)
    for item in items:
        by_id[item.source_id].append(item)
    unique: list[Annotation] = []
    problems: list[Problem] = []
    for source_id, same in by_id.items():
        by_image: dict[str, Annotation] = {}
        for item in sorted(same, key=lambda item: item.where):
            image = source_id if isinstance(item.image, bytes) else os.path.abspath(str(item.image))
            if image in by_image:
                message = f"{source_id} is annotated more than once"
                problems.append(Problem("error", "duplicate_id", item.place, message))
            by_image.setdefault(image, item)
        common = os.path.commonpath(by_image) if len(by_image) > 1 and all(map(os.path.isabs, by_image)) else ""
        for image, item in by_image.items():
            unique.append(replace(item, source_id=os.path.relpath(image, common)) if common else item)
    return unique, problems
