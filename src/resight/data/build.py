"""Annotations in, a records folder out: select, check, split, write, and say what was done."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from .. import __version__
from ..boxes import Annotation
from ..errors import Problem, ResightError, listed, nearest
from ..labels import LabelMap, read_label_map
from ..outputs import check_output
from ..progress import track
from .records import is_own, write_records_folder
from .sources import Source, read_source
from .split import RULES, SPLITS, SplitResult, read_split_file, split_annotations
from .validate import Inspection, inspect

log = logging.getLogger(__name__)

EXAMPLES = 3


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
        mended: ``clipped_boxes``, ``duplicate_boxes`` (kept once), ``rotated_images`` (stored upright).
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
        """The table of images and boxes by split, with each split's share, then what was left out or mended."""
        rows = [("", *self.images), ("images", *self._cells(self.images))]
        rows.append(("boxes", *self._cells({split: sum(self.counts[split].values()) for split in self.images})))
        for name in self.classes:
            rows.append((f"  {name}", *self._cells({split: self.counts[split][name] for split in self.images})))
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = [f"{self.source}, split by {self.rule}"]
        for first, *cells in rows:
            padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
        if len(self.images) > 1:
            part = "test" if "test" in self.images else "val"
            reasons = f"track {self.leaked_by['track']:,}, near-duplicate {self.leaked_by['near_duplicate']:,}"
            lines.append(f"leakage: {self.leakage:.1%} of the {part} images have a relative in train ({reasons})")
        for title, amounts in (("left out", self.left_out), ("mended", self.mended)):
            if amounts:
                lines.append(f"{title}: {_amounts(amounts)}")
        lines += _examples(self.problems)
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _cells(self, amounts: Mapping[str, int]) -> list[str]:
        total = sum(amounts.values())
        return [f"{n:,} ({n / total:4.0%})" if total else "0" for n in amounts.values()]


def build_data(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, format: str = "auto", **options: Any
) -> BuildReport:
    """Turns annotations of any known format into a records folder.

    Args:
        source: a folder or an annotation file.
        out: the records folder to write.
        format: "lisa", "coco", "voc", "yolo", "csv", "tfrecord", or "auto" to recognise it.
        options: those of ``write_records``.

    Raises:
        ResightError: the source cannot be read, or as ``write_records``.
    """
    return write_records(read_source(source, format, classes=options.get("classes", ())), out, **options)


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
    background: Literal["none", "empty", "all"] = "empty",
    on_bad: Literal["error", "skip"] = "error",
    layout: Literal["resight", "tfod"] = "resight",
    force: bool = False,
) -> BuildReport:
    """Writes annotated images as a records folder.

    Args:
        annotations: any iterable of ``Annotation``, or a ``Source`` as ``read_source`` gives it.
        out: the folder to write.
        classes: only boxes of these classes (named as after ``rename``); empty: all.
        rename: ``{old name: new name}``; two classes with one new name become one.
        labels: a label map whose ids and order are kept; its classes are the only known ones.
        split, group_by, test_fraction, val_fraction, seed: as ``split_annotations``.
        shards: files per split; by default by size.
        background: "none" leaves out images without boxes, "empty" keeps those the source lists without any, "all"
            keeps also those whose boxes are all of classes not selected.
        on_bad: "error" writes nothing if an image or a box is bad, "skip" leaves the bad ones out; an image all of
            whose boxes are bad is left out too, as it is no background.
        layout: names of the files, Resight's or those TFOD users know.
        force: replace a records folder that exists.

    Raises:
        ResightError: bad options, bad input (all of it is listed), nothing left to write, or ``out`` cannot be written.
    """
    for option, value, known in (
        ("background", background, ("none", "empty", "all")),
        ("on_bad", on_bad, ("error", "skip")),
        ("layout", layout, ("resight", "tfod")),
    ):
        if value not in known:
            fix = f"It is one of {listed(known)}. {nearest(value, known)}".rstrip()
            raise ResightError(f"unknown value '{value}'", where=f"--{option.replace('_', '-')}", fix=fix)
    check_output(out, force, is_own)  # before the work, not after it
    source = annotations if isinstance(annotations, Source) else Source("annotations", "", _checked(annotations))
    label_map = labels if isinstance(labels, LabelMap) or labels is None else read_label_map(labels)
    rule, notes = split, list[str]()
    if split not in RULES:  # followed before the selection: it may well name images that are not selected
        named, notes = read_split_file(split, source.annotations)
        parted = [replace(item, split=named.get(at)) for at, item in enumerate(source.annotations)]
        source, rule = replace(source, annotations=parted), "given"
    left_out: Counter[str] = Counter()
    mended: Counter[str] = Counter()

    selection = _Selection.of(source, rename or {}, classes, label_map)
    items, problems = _unique_ids(_select(source.annotations, selection, background, left_out))
    # Inspection names a missing image too, and only where it matters after the selection.
    problems += [problem for problem in source.problems if problem.kind != "missing_image"]
    # Splitting once without hashes finds a bad rule before the long part, and tells whether hashes are needed.
    rules: dict[str, Any] = {
        "group_by": group_by,
        "test_fraction": test_fraction,
        "val_fraction": val_fraction,
        "seed": seed,
    }
    draft = split_annotations(items, rule, **rules)
    needs_hashes = len(draft.counts) > 1

    good: list[Annotation] = []
    hashes: list[int | None] = []
    for item, found in zip(items, _inspect_all(items, selection.known, needs_hashes), strict=True):
        problems += found.problems
        mended["clipped_boxes"] += found.clipped
        mended["duplicate_boxes"] += sum(problem.kind == "duplicate_box" for problem in found.problems)
        if found.annotation is None:
            continue
        if item.boxes and not found.annotation.boxes:
            left_out["images_without_a_good_box"] += 1
            continue
        mended["rotated_images"] += found.rotated
        good.append(found.annotation)
        hashes.append(found.hash)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors and on_bad == "error":
        raise _refusal(errors, source.path)
    left_out.update(Counter(problem.kind for problem in errors))

    result = split_annotations(good, rule, **rules, hashes=hashes if needs_hashes else None)
    result = replace(result, rule=split if split not in RULES else result.rule, notes=(*notes, *result.notes))
    if result.unsplit:
        left_out["images_in_no_split"] = len(result.unsplit)
    if not any(item.boxes for item in result.annotations):
        reasons = f"; left out: {_amounts(left_out)}" if any(left_out.values()) else ""
        raise ResightError(f"no box is left to write{reasons}", where=source.path or "write_records")
    label_map = label_map or LabelMap.from_names(selection.order({box.label for item in good for box in item.boxes}))
    report = _report(out, source, result, label_map, left_out, mended, problems, test_fraction)
    by_split: dict[str, list[Annotation]] = defaultdict(list)
    for item in sorted(result.annotations, key=lambda item: (item.source_id, item.where)):
        by_split[item.split or ""].append(item)
    write_records_folder(
        {name: by_split[name] for name in SPLITS if name in by_split},
        out,
        label_map,
        info=_info(report, source, rules),
        shards=shards,
        layout=layout,
        force=force,
    )
    return report


@dataclass(frozen=True)
class _Selection:
    """Which boxes are wanted, and how their classes are called."""

    rename: Mapping[str, str]
    wanted: frozenset[str]  # after renaming; empty: all
    known: tuple[str, ...]  # of a label map; empty: all
    label_map: LabelMap | None
    source_order: tuple[str, ...]

    @staticmethod
    def of(source: Source, rename: Mapping[str, str], classes: Sequence[str], label_map: LabelMap | None) -> _Selection:
        present = dict.fromkeys([*source.classes, *sorted({b.label for a in source.annotations for b in a.boxes})])
        if strangers := [name for name in rename if name not in present]:
            raise ResightError(
                f"no box is of class {listed(strangers)}", where="--rename", fix=nearest(strangers[0], present)
            )
        order = tuple(dict.fromkeys(rename.get(name, name) for name in source.classes))
        renamed = {rename.get(name, name) for name in present}
        available = {*renamed, *(label_map.names if label_map else ())}
        if strangers := [name for name in classes if name not in available]:
            fix = nearest(strangers[0], available) or f"The classes are {listed(sorted(available), 50)}."
            raise ResightError(f"no box is of class {listed(strangers)}", where="--classes", fix=fix)
        known = label_map.names if label_map else ()
        if label_map and (unknown := [name for name in classes if label_map.index_of(name) is None]):
            raise ResightError(
                f"the label map does not know {listed(unknown)}", where="--labels", fix=nearest(unknown[0], known)
            )
        if label_map and (bad := [problem for problem in label_map.problems if problem.level == "error"]):
            raise ResightError("; ".join(problem.message for problem in bad), where=bad[0].where or "--labels")
        selection = _Selection(rename, frozenset(), known, label_map, order)
        return replace(selection, wanted=frozenset(selection.name(label) for label in classes))

    def name(self, label: str) -> str:
        """The name under which a class is written."""
        name = self.rename.get(label, label)
        index = self.label_map.index_of(name) if self.label_map else None
        return name if index is None or self.label_map is None else self.label_map.names[index]

    def order(self, present: set[str]) -> list[str]:
        """Class names of a new label map: in the source's order where it has one, else by name."""
        names = dict.fromkeys([*self.source_order, *sorted(present)])
        return [name for name in names if not self.wanted or name in self.wanted]


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
    annotations: Iterable[Annotation], selection: _Selection, background: str, left_out: Counter[str]
) -> Iterator[Annotation]:
    for item in annotations:
        boxes = tuple(replace(box, label=selection.name(box.label)) for box in item.boxes)
        if selection.wanted:
            boxes = tuple(box for box in boxes if box.label in selection.wanted)
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
                where = item.where or item.filename
                problems.append(Problem("error", "duplicate_id", where, f"{source_id} is annotated more than once"))
            else:
                by_image[image] = item
        common = os.path.commonpath(by_image) if len(by_image) > 1 and all(map(os.path.isabs, by_image)) else ""
        for image, item in by_image.items():
            unique.append(replace(item, source_id=os.path.relpath(image, common)) if common else item)
    return unique, problems


def _inspect_all(items: Sequence[Annotation], known: Sequence[str], deep: bool) -> Iterator[Inspection]:
    # Decoding leaves the interpreter free, so threads use all cores; windows keep little in flight.
    rest = iter(track(items, "checking images"))
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        while window := list(islice(rest, 256)):
            yield from pool.map(lambda item: inspect(item, known, deep=deep), window)


def _amounts(amounts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in amounts.items() if n)


def _examples(problems: Sequence[Problem], indent: str = "") -> list[str]:
    """Problems by kind with their number and the first few of each."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    lines: list[str] = []
    for kind, found in sorted(kinds.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        lines.append(f"{indent}{len(found):,} x {kind.replace('_', ' ')}")
        lines += [f"{indent}  {problem.where}: {problem.message}" for problem in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            lines.append(f"{indent}  and {len(found) - EXAMPLES:,} more")
    return lines


def _refusal(errors: Sequence[Problem], where: str) -> ResightError:
    message = "\n".join([f"{len(errors):,} problems, nothing was written", *_examples(errors, "  ")])
    return ResightError(message, where=where, fix="Mend them, or leave bad images and boxes out with --on-bad skip.")


def _report(
    out: str | os.PathLike[str],
    source: Source,
    result: SplitResult,
    label_map: LabelMap,
    left_out: Counter[str],
    mended: Counter[str],
    problems: Sequence[Problem],
    test_fraction: float,
) -> BuildReport:
    images = Counter(item.split for item in result.annotations)
    notes = list(result.notes)
    if result.rule == "group" and test_fraction and "test" not in images:
        notes.append("there are too few groups for a test part")
    notes += [f"the group of {name} holds {n} images, more than half the test part" for name, n in result.large_groups]
    if result.unsplit:
        notes.append(f"in no split and left out: {listed(result.unsplit, 5)}")
    return BuildReport(
        out=os.fspath(out),
        source=f"{source.path} ({source.format})" if source.path else source.format,
        rule=result.rule,
        classes=label_map.names,
        images={split: images[split] for split in result.counts},
        counts={
            split: {name: count.get(name, 0) for name in label_map.names} for split, count in result.counts.items()
        },
        leakage=result.leakage,
        leaked_by=result.leaked_by,
        left_out={kind: n for kind, n in left_out.items() if n},
        mended={kind: n for kind, n in mended.items() if n},
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _info(report: BuildReport, source: Source, rules: Mapping[str, Any]) -> dict[str, Any]:
    """What ``dataset.json`` says beside the counts and the digest, which the writer adds."""
    return {
        "source": source.path,
        "format": source.format,
        "split": {"rule": report.rule, **rules},
        "leakage": {"share": report.leakage, **report.leaked_by},
        "left_out": report.left_out,
        "mended": report.mended,
        "resight": __version__,
    }
