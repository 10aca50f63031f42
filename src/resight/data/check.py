"""What is wrong with a data set, before or after it became records."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

from ..boxes import Annotation
from ..config import Config, ModelConfig
from ..errors import Problem, listed
from ..progress import track
from .near_duplicates import group_near_duplicates
from .records import Records, open_records
from .sources import FORMATS, Source, read_source, tfrecord
from .sources.source import Tree
from .validate import inspect

SPLITS = ("train", "val", "test")
SMALLEST_ANCHOR = 16.0  # pixels at training resolution, on the finest level (stride 8) of the default model
EXAMPLES = 3


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
        lines = [f"{self.path}: {self.format}", "", *_table(_amounts(self.counts)), ""]
        for level, problems in (("error", self.errors), ("warning", self.warnings)):
            kinds: dict[str, list[Problem]] = defaultdict(list)
            for problem in problems:
                kinds[problem.kind].append(problem)
            for kind, found in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
                lines.append(f"{level:<8} {len(found):>7,}  {kind.replace('_', ' ')}")
                for problem in found[:EXAMPLES]:
                    lines.append(f"{'':18}{': '.join(filter(None, (problem.where, problem.message)))}")
                if len(found) > EXAMPLES:
                    lines.append(f"{'':18}and {len(found) - EXAMPLES:,} more")
        totals = [f"{len(self.errors):,} errors", f"{len(self.warnings):,} warnings"]
        lines.append(", ".join(totals) if self.errors or self.warnings else "nothing is wrong")
        return "\n".join(lines)


def check_data(path: str | os.PathLike[str], *, format: str = "auto", config: Config | None = None) -> CheckReport:
    """Looks at every annotation and decodes every image of a source or a records folder.

    Args:
        path: a source in any format ``read_source`` knows, or a records folder.
        format: the source's format, or "auto".
        config: its image size says which boxes get too small, its data keys how to read a foreign records folder; by
            default the default configuration.

    Raises:
        ResightError: there is nothing to check, or its format is unknown.
    """
    config = config or Config()
    source, records = open_data(path, format, config)
    examine = partial(_examine, stored=records is not None, model=config.model)
    seen = list(track(_parallel(examine, source.annotations), "checking images", total=len(source.annotations)))
    problems = [
        # A missing image is named where it is looked for.
        *(problem for problem in source.problems if problem.kind != "missing_image"),
        *(problem for image in seen for problem in image.problems),
        *_duplicate_ids(seen, stored=records is not None),
        *_leakage(seen),
        *_one_sided_classes(seen, source.classes),
    ]
    return CheckReport(
        path=os.fspath(path),
        format=f"{source.format}, recognised by {source.note}" if source.note else source.format,
        errors=tuple(p for p in problems if p.level == "error"),
        warnings=tuple(p for p in problems if p.level == "warning"),
        counts=_count(seen, source.classes) | {"problems": dict(Counter(p.kind for p in problems).most_common())},
    )


def open_data(path: str | os.PathLike[str], format: str, config: Config) -> tuple[Source, Records | None]:
    """Opens what the command line calls DATA: a source, or a records folder, then both as a source and as records.

    Damaged records are left out and listed in ``Source.problems``. Raises as ``open_records`` and ``read_source``.
    """
    tree = Tree.of(path)
    looks_like = {module.NAME for module in FORMATS if module.looks_like(tree)} if format == "auto" else {format}
    if looks_like != {tfrecord.NAME}:
        return read_source(path, format), None
    data = config.data
    records = open_records(
        path,
        train=data.train,
        val=data.val,
        test=data.test,
        label_map=data.label_map,
        as_stored=data.as_stored,
        on_bad="skip",
    )
    return tfrecord.of_records(records, os.fspath(path)), records


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image once it was examined."""

    name: str
    where: str
    split: str | None
    source_id: str = ""
    group: str | None = None
    fingerprint: int | None = None
    labels: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def _examine(annotation: Annotation, stored: bool, model: ModelConfig) -> _Seen:
    where = annotation.where or annotation.filename
    inspection = inspect(annotation, deep=True)
    problems = list(inspection.problems)
    if inspection.annotation is not None and inspection.image is not None:
        if inspection.rotated:
            then = "training ignores it" if stored else "its record will hold it upright"
            message = f"{annotation.filename}: has an EXIF rotation ({inspection.image.orientation}); {then}"
            problems.append(Problem("warning", "exif_rotation", where, message))
        if inspection.clipped:
            message = f"{annotation.filename}: {inspection.clipped} boxes reach a little outside and are clipped"
            problems.append(Problem("warning", "clipped_box", where, message))
        problems += _too_small(inspection.annotation, model, where)
    return _Seen(
        name=annotation.filename,
        where=where,
        split=annotation.split,
        source_id=annotation.source_id,
        group=annotation.group,
        fingerprint=inspection.hash,
        labels=tuple(sys.intern(box.label) for box in annotation.boxes),
        problems=tuple(problems),
    )


def _too_small(annotation: Annotation, model: ModelConfig, where: str) -> Iterator[Problem]:
    """Boxes of less than half the smallest anchor on their short side, once the image has its training size."""
    width, height = annotation.width or 1, annotation.height or 1
    scale = min(model.min_size / min(width, height), model.max_size / max(width, height))
    sides = [scale * min(box.xmax - box.xmin, box.ymax - box.ymin) for box in annotation.boxes if not box.crowd]
    small = [side for side in sides if side < SMALLEST_ANCHOR / 2]
    if small:
        yield Problem(
            "warning",
            "box_too_small_for_anchors",
            where,
            f"{annotation.filename}: {len(small)} of {len(sides)} boxes, the smallest {min(small):.1f} px "
            f"at training size ({width * scale:.0f} x {height * scale:.0f}), where the smallest anchor has "
            f"{SMALLEST_ANCHOR:g} px",
        )


def _duplicate_ids(seen: Sequence[_Seen], stored: bool) -> Iterator[Problem]:
    holders: dict[str, list[_Seen]] = defaultdict(list)
    for image in seen:
        if image.source_id:
            holders[image.source_id].append(image)
    for source_id, images in holders.items():
        if len(images) > 1:
            # Records are split and written again under names of their own; a source with the like is refused.
            level: Literal["error", "warning"] = "warning" if stored else "error"
            places = listed((image.where for image in images), 4)
            yield Problem(level, "duplicate_id", images[0].where, f"'{source_id}' is {len(images)} images: {places}")


def _leakage(seen: Sequence[_Seen]) -> Iterator[Problem]:
    """Images of val and test whose group or near-duplicate is in an earlier part; training must not have seen them."""
    near = group_near_duplicates([image.fingerprint for image in seen]).tolist()
    by_reason = {
        "leakage_group": ([image.group for image in seen], "is of the same group as"),
        "leakage_near_duplicate": (near, "looks the same as"),
    }
    for kind, (groups, relation) in by_reason.items():
        first: dict[object, _Seen] = {}
        for part in SPLITS:
            members = [(group, image) for group, image in zip(groups, seen, strict=True) if image.split == part]
            for group, image in members:
                other = first.get(group) if group is not None and group != "" else None
                if other:
                    yield Problem(
                        "warning",
                        kind,
                        image.where,
                        f"{part} image {image.name} {relation} {other.split} image {other.name}",
                    )
            for group, image in members:
                first.setdefault(group, image)


def _one_sided_classes(seen: Sequence[_Seen], classes: Sequence[str]) -> Iterator[Problem]:
    counts = {split: _boxes(image for image in seen if image.split == split) for split in _splits(seen)}
    total = _boxes(seen)
    for name in sorted({*classes, *total}):
        having = [split for split in counts if counts[split][name]]
        amounts = ", ".join(f"{counts[split][name]} boxes in {split}" for split in having)
        if not total[name]:
            yield Problem("warning", "class_without_boxes", "", f"'{name}' has no box at all")
        elif len(having) == 1 and len(counts) > 1:
            yield Problem("warning", "class_in_one_split", "", f"'{name}' has {amounts} and none elsewhere")
        elif "train" in counts and "train" not in having:
            yield Problem("warning", "class_not_in_train", "", f"'{name}' has {amounts} and none in train")


def _splits(seen: Sequence[_Seen]) -> list[str]:
    present = {image.split for image in seen}
    return [split for split in SPLITS if split in present]


def _boxes(seen: Iterable[_Seen]) -> Counter[str]:
    return Counter(label for image in seen for label in image.labels)


def _count(seen: Sequence[_Seen], classes: Sequence[str]) -> dict[str, Any]:
    def amounts(images: Sequence[_Seen]) -> dict[str, Any]:
        boxes = _boxes(images)
        names = [*classes, *sorted(set(boxes) - set(classes))]
        return {"images": len(images), "boxes": boxes.total(), "classes": {name: boxes[name] for name in names}}

    parts = {split: amounts([image for image in seen if image.split == split]) for split in _splits(seen)}
    return amounts(seen) | {"splits": parts}


def _amounts(counts: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table of amounts: a line per class, a column per split."""
    columns = {"all": counts, **counts["splits"]} if len(counts["splits"]) != 1 else {**counts["splits"]}
    head = ("", *columns)
    rows = [(what, *(f"{column[what]:,}" for column in columns.values())) for what in ("images", "boxes")]
    rows += [(f"  {name}", *(f"{c['classes'].get(name, 0):,}" for c in columns.values())) for name in counts["classes"]]
    return [head, *rows]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a plain table, the first column to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _parallel(function: Callable[[Annotation], _Seen], items: Sequence[Annotation]) -> Iterator[_Seen]:
    """``map`` in a few threads (decoding leaves the interpreter free), in order, with little in flight."""
    rest = iter(items)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while window := list(islice(rest, 256)):
            yield from pool.map(function, window)
