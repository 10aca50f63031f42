"""What all formats share: the images that they collect, and the source that comes of it."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ...errors import Problem, ResightError, counted, listed, shown
from ...io.files import IMAGE_SUFFIXES, read_text
from ...io.images import passed_over
from ...types import Annotation, Box, Split
from ..exif import Habit
from ..file_search import WORDS, FileSearch, Match
from .dataset_dir import DatasetDir, folders_of, is_of, told_split
from .values import is_text, text

# Boxes are drawn in a browser, which turns photographs; its converter to COCO states the size of the pixels as stored.
# https://github.com/HumanSignal/label-studio/issues/6608
LABEL_STUDIO = Habit("upright", "Label Studio shows images after their EXIF rotation")


def is_label_studio(document: object) -> bool:
    """Whether a JSON says that Label Studio wrote it."""
    info = document.get("info") if isinstance(document, dict) else None
    return isinstance(info, dict) and str(info.get("contributor")).strip().lower() == "label studio"


@dataclass(frozen=True)
class Source:
    """An annotated set of images, as one format states it.

    Args:
        format: the name of one of ``FORMATS``.
        path: what was read, absolute.
        annotations: one per image; boxes exactly as written, bad ones too; images are not opened, and may be missing.
        has_split: the source parts its images itself, and every annotation has its ``split``.
        classes: names in the source's own order (YOLO's numbers, COCO's ids, a label map); () when it has none.
        problems: malformed lines and files (their images are left out), images that two splits claim, ...
        note: why this format was recognised.
        habit: what is known of the frame its boxes are in, where images have an EXIF rotation.
    """

    format: str
    path: str
    annotations: list[Annotation]
    has_split: bool = False
    classes: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    note: str = ""
    habit: Habit | None = None


@dataclass
class _Image:
    where: str
    width: int | None = None
    height: int | None = None
    split: Split | None = None
    group: str | None = None
    boxes: dict[str, list[Box]] = field(default_factory=dict)  # by annotation file
    spoiled: bool = False

    def union(self) -> tuple[Box, ...]:
        """Two files that state one image (a complete table beside its parts) repeat boxes; one file's are its own."""
        boxes: list[Box] = []
        for of_file in self.boxes.values():
            known = {(box.label, box.xyxy) for box in boxes}
            boxes += [box for box in of_file if (box.label, box.xyxy) not in known]
        return tuple(boxes)


class AnnotationCollector:
    """Joins what annotation files say into one annotation per image."""

    def __init__(self, tree: DatasetDir) -> None:
        self.tree = tree
        self.problems: list[Problem] = []
        self.images: dict[str, _Image] = {}
        self._names: dict[tuple[str, str], tuple[str, int]] = {}  # of annotation file and image: name there, and rung
        self._inexact: dict[int, list[str]] = defaultdict(list)  # by rung: "name is file"
        self.in_two_splits: dict[tuple[Split, Split], list[str]] = defaultdict(list)  # (kept, other): names
        self.outside: list[str] = []  # paths elsewhere on this machine
        self._alike: dict[str, str] = {}  # names in folders that are not here: the nearest image
        self.without_box: dict[str, list[str]] = defaultdict(list)  # by kind of shape, such as points: images

    @cached_property
    def search(self) -> FileSearch:
        root, names = self.tree.root, self._nearby
        return FileSearch((f"{root}/{name}" for name in names), below=root if names else "")

    @cached_property
    def _nearby(self) -> list[str]:
        return [name for name in self.tree.around if name.lower().endswith(IMAGE_SUFFIXES)]

    @cached_property
    def _splits_nearby(self) -> set[Split | None]:
        return {told_split(name) for name in self._nearby}

    def image(
        self, path: str, *, file: str, where: str, split: Split | None = None, once: bool = False, alone: bool = False
    ) -> _Image:
        """Image ``path``, with a place for the boxes that annotation ``file`` states.

        Args:
            once: the file states an image once; a second time it is not clear what counts.
            alone: nor does another file state it.
        """
        image = self.images.setdefault(path, _Image(where))
        if once and file in image.boxes:
            self.unclear(where, f"lists {self.tree.name(path)} a second time", path, kind="duplicate_image")
        if alone and (others := [other for other in image.boxes if other != file]):
            self.unclear(where, f"annotates {path} like {others[0]}", path, kind="duplicate_image")
        if split and image.split and split != image.split:
            self.in_two_splits[image.split, split].append(self.tree.name(path))
        image.split = image.split or split
        image.boxes.setdefault(file, [])
        return image

    def problem(self, kind: str, where: str, message: str, level: str = "error") -> None:
        self.problems.append(Problem("warning" if level == "warning" else "error", kind, where, message))

    def malformed(self, where: str, message: object, image: str = "") -> None:
        """Something that cannot be read; the image it belongs to is left out, half its boxes would mislead."""
        if image in self.images:
            self.images[image].spoiled = True
            message = f"{message}; its image is left out"
        self.problem("malformed", where, str(message))

    def tried(self, image: str, read: Callable[..., Any], *given: Any) -> Any:
        """``read(*given)``; None where a file of ``image`` cannot be read, which is counted."""
        try:
            return read(*given)
        except ResightError as error:
            self.malformed(error.where, error.message, image)
            return None

    def table(
        self,
        name: str,
        delimiter: str,
        required: Iterable[str],
        places: Sequence[str],
        split: Split | None = None,
        quoted: bool = True,
    ) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Each row of a CSV with the columns ``filename`` and ``required``: where it is, its image's path, and its
        cells by lower-case column. The image is registered before anything of the row can be refused."""
        file = self.tree.path(name)
        rows = _read_table(file, delimiter, quoted)
        line, header = next(rows, (1, []))
        columns = [cell.lower() for cell in header]
        # Looking saw them, but quotes and line ends may part a damaged header otherwise.
        needed = {name: columns.count(name) for name in ("filename", *required)}
        if lacking := [name for name, count in needed.items() if not count]:
            raise ResightError(f"the header lacks {listed(lacking)}", where=f"{file}:{line}")
        if repeated := [name for name, count in needed.items() if count > 1]:
            raise ResightError(f"the header has {listed(repeated)} more than once", where=f"{file}:{line}")
        at = columns.index("filename")
        located: dict[str, str] = {}
        for line, cells in rows:
            where = f"{file}:{line}"
            try:
                frame = text(cells[at] if at < len(cells) else "", "filename")
            except ValueError as error:
                self.malformed(where, error)
                continue
            if frame not in located:
                located[frame] = self.locate(frame, places, file=file, where=where, split=split)
            image = located[frame]
            self.image(image, file=file, where=where, split=split)
            if len(cells) == len(columns):
                yield where, image, dict(zip(columns, cells, strict=True))
            else:
                self.malformed(where, f"has {len(cells)} columns instead of {len(columns)}", image)

    def find(self, name: str, folders: Sequence[str], *, file: str, split: Split | None) -> Match:
        """``FileSearch.find`` of the image that annotation ``file`` calls ``name``. Where the name tells a split, or
        ``split`` has folders of its own, it is not looked for in folders of another."""
        told = told_split(name) or (split if split in self._splits_nearby else None)
        near = folders_of(self.tree.name(file))
        return self.search.find(name, folders, near=near, elsewhere=lambda path: is_of(told, self.tree.name(path)))

    def locate(self, name: str, folders: Sequence[str], *, file: str, where: str, split: Split | None = None) -> str:
        """The path of the image that annotation ``file`` calls ``name``, else the one at which it was expected first.
        Other than exact names are counted for ``source``; an image that may be another is a problem, and left out."""
        match = self.find(name, folders, file=file, split=split)
        return self.found(name, match, os.path.join(folders[0], name.replace("\\", "/")), file=file, where=where)

    def found(self, name: str, match: Match, expected: str, *, file: str, where: str) -> str:
        """``locate`` from the match on; ``expected`` is where the image should be."""
        path = match.path or os.path.normpath(expected)
        if match.candidates:
            names = listed((self.tree.name(other) for other in match.candidates), 4)
            self.unclear(where, f"'{name}' may be any of {names}", path)
        if not match.path:
            if not match.candidates and len(self._alike) < 3 and not os.path.isdir(os.path.dirname(path)):
                self._alike[name] = self.search.nearest(name)
            return path
        is_new = (file, path) not in self._names
        known, rung = self._names.setdefault((file, path), (name, match.rung))
        if known != name and (rung or match.rung):
            self.unclear(where, f"'{known}' and '{name}' would both be {self.tree.name(path)}", path)
        if match.rung and is_new:
            self._inexact[match.rung].append(f"'{name}' is {self.tree.name(path)}")
        elif not match.rung and (name.startswith("/") or ".." in name) and self.tree.name(path) == path:
            self.outside.append(path)
        return path

    def unclear(self, where: str, message: str, *images: str, kind: str = "ambiguous_image") -> None:
        """Something that may mean several images; those named are left out rather than guessed."""
        fresh = [path for path in images if path not in self.images or not self.images[path].spoiled]
        for path in fresh:
            self.images.setdefault(path, _Image(where)).spoiled = True
            self.problem(kind, where, f"{message}; {self.tree.name(path)} is left out")
        if not fresh:
            self.problem(kind, where, message)

    def source(self, format: str, classes: Sequence[str] = ()) -> Source:
        """Everything collected. Where some images have a split, those without are left out and counted."""
        if format != "yolo":
            self._refuse_shares(format)
        splits = {image.split for image in self.images.values() if image.split}
        self._report_names(splits)
        self._report_shapes()
        annotations, unassigned = [], []
        for path, image in self.images.items():
            name = self.tree.name(path)
            if image.spoiled:
                continue
            if not is_text(path):
                self.problem("malformed", image.where, f"the image's file name is not UTF-8: {shown(path, 200)}")
            elif len(splits) > 1 and image.split is None:
                unassigned.append(name)
            else:
                where, group, size = image.where, image.group, (image.width, image.height)
                annotations.append(Annotation(path, image.union(), *size, "", name, group, image.split, where))
        if unassigned:
            message = f"{counted(len(unassigned), 'image')} in none of its splits, left out: {listed(unassigned)}"
            self.problem("no_split", self.tree.root, message, "warning")
        known = {self.tree.name(path) for path in self.images}
        folders = {os.path.dirname(name) for name in known}
        others = () if self.tree.only else self.tree.images
        if unlisted := [name for name in others if os.path.dirname(name) in folders and name not in known]:
            message = f"{counted(len(unlisted), 'image')} beside the others without annotation, left out"
            self.problem("unlisted_image", self.tree.root, f"{message}: {listed(unlisted)}", "warning")
        path = self.tree.path(self.tree.only)
        return Source(format, path, annotations, len(splits) > 1, tuple(dict.fromkeys(classes)), self.problems)

    def _report_names(self, splits: set[Split]) -> None:
        """Problems with where images were found, and with what was not taken for one."""
        root = self.tree.root
        for (kept, other), names in self.in_two_splits.items():
            own = "" if other in splits else f"; {other} has none of its own"
            message = f"{counted(len(names), 'image')} of {other} {'is' if len(names) == 1 else 'are'} also in {kept}"
            message = f"{message}, e.g. {listed(names, 3)}{own}. --split group or random splits them again"
            self.problem("split_conflict", self.tree.path(self.tree.only), message)
        for rung, names in self._inexact.items():
            message = f"{counted(len(names), 'image')} found under a name {WORDS[rung]}: {listed(names, 3)}"
            self.problem("inexact_name", root, message, "warning")
        if alike := [f"'{name}', but {self.tree.name(path)}" for name, path in self._alike.items() if path]:
            self.problem("missing_image", root, f"there is no {listed(alike)}. Did you mean that?", "warning")
        if self.outside:
            message = f"{counted(len(self.outside), 'path')} outside of this folder: {listed(self.outside, 3)}"
            self.problem("outside_image", root, message, "warning")
        if passed := passed_over(() if self.tree.only else self.tree.files):
            self.problem("passed_over", root, f"not read as images: {passed}", "warning")

    def _report_shapes(self) -> None:
        if not self.without_box:
            return
        shapes = listed(f"{len(images):,} of kind '{kind}'" for kind, images in self.without_box.items())
        bare = {path for paths in self.without_box.values() for path in paths}
        bare = {path for path in bare if not any(self.images[path].boxes.values())}
        for path in bare:  # there is something to see in it: it is no background
            self.images[path].spoiled = True
        also = f", and {counted(len(bare), 'image')} with nothing else" if bare else ""
        self.problem("no_box_shape", self.tree.root, f"shapes without a box, left out: {shapes}{also}", "warning")

    def _refuse_shares(self, format: str) -> None:
        """Refuses annotation files all of whose corners lie within 0 to 1, where the format has pixels, but for images
        of a single pixel."""
        pixels, shares = set(), defaultdict(list)
        for path, image in self.images.items():
            for file, boxes in image.boxes.items():
                if any(max(map(abs, box.xyxy)) > 1 for box in boxes):
                    pixels.add(file)
                elif (image.width, image.height) != (1, 1) and any(
                    box.xmax > box.xmin and box.ymax > box.ymin for box in boxes
                ):
                    shares[file].append(path)
        says = f"all corners lie within 0 to 1: these look normalised, but '{format}' uses pixels"
        suspects = {file: paths for file, paths in shares.items() if file not in pixels}
        if suspects and not pixels:
            where = next(iter(suspects)) if len(suspects) == 1 else self.tree.root
            fix = "Multiply x by the image's width and y by its height, or export them in pixels."
            raise ResightError(says, where=where, fix=fix)
        for file, paths in suspects.items():
            self.unclear(file, says, *paths, kind="normalised_box")


def _read_table(path: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers from 1, fields stripped; blank lines are no rows."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise ResightError(f"is not a valid CSV file: {error}", where=f"{path}:{reader.line_num}") from error
