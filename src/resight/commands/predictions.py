"""What a prediction writes: the list of what was found, as one JSON document or a line for each picture, and drawn
pictures and videos."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..config.most_detections import MostDetections
from ..datasets.export import CROPS, DATASET
from ..drawing import draw, save_picture
from ..errors import ResightError, counted, listed, one_line
from ..inference.detector import Detector
from ..inference.inputs import Source
from ..inference.many import detect_each
from ..inference.pictures import Lost, Picture
from ..inference.video import VideoWriter
from ..io import object_store as storage
from ..io.files import LARGE, open_file, parse_json, read_json
from ..io.object_store import is_remote
from ..io.outputs import atomic_folder, check_output
from ..types import Detections

log = logging.getLogger(__name__)

Add = Callable[[Picture, np.ndarray, Detections], None]

LISTED_SCORE = 0.05  # the list holds everything of this score or more
DOCUMENT, LINES = "detections.json", "detections.jsonl"


@dataclass(frozen=True)
class Head:
    """What holds for all pictures: the model, its classes, the threshold, and the most detections of a picture."""

    model: str
    classes: tuple[str, ...]
    score: float
    most: MostDetections

    @classmethod
    def of(cls, detector: Detector, score: float) -> Head:
        return cls(detector.name, tuple(detector.classes), float(score), detector.most)

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Head:
        image, of_a_class, keys, proposals = said["most"]
        most = MostDetections(int(image), int(of_a_class), tuple(keys), int(proposals))
        return cls(str(said["model"]), tuple(said["classes"]), float(said["score"]), most)

    @property
    def document(self) -> dict[str, Any]:
        """What the document begins with."""
        return {"model": self.model, "classes": list(self.classes), "score": self.score}


@dataclass
class Tally:
    """What was counted: pictures, detections of each class at the threshold or more, what could not be read or broke
    off, and pictures with as many detections as they can have."""

    images: int = 0
    frames: int = 0
    found: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    full: int = 0

    def add(self, picture: Picture, shown: Detections) -> None:
        self.images += picture.frame is None
        self.frames += picture.frame is not None
        self.count(Counter(shown.names))

    def count(self, found: Mapping[str, int]) -> None:
        for name, count in found.items():
            self.found[name] = self.found.get(name, 0) + count

    def check(self) -> None:
        """Raises ResightError: nothing could be read."""
        if not (self.images or self.frames):
            raise ResightError("could not be read, and there is no other image", where=listed(self.unread, 3))

    def join(self, other: Tally) -> None:
        """Adds the tally of what comes after."""
        self.images += other.images
        self.frames += other.frames
        self.full += other.full
        self.unread += other.unread
        self.damaged += other.damaged
        self.count(other.found)


@dataclass(frozen=True)
class PredictReport:
    """What was found.

    Args:
        path: the list that was written, ``detections.json`` or one with a line for each picture.
        head: the model and the threshold.
        tally: what was counted.
        note: what else is to be said.
    """

    path: str
    head: Head
    tally: Tally
    note: str = ""

    @property
    def result(self) -> dict[str, Any]:
        """The content of ``detections.json``, or the same of lines. Raises ResightError: it is not there any more, or
        lies in a store."""
        if self.path.endswith(".json"):
            document: dict[str, Any] = read_json(self.path, LARGE)
            return document
        with open_file(self.path) as file:
            return {**self.head.document, "images": [parse_json(line, self.path) for line in file]}

    @property
    def out(self) -> str:
        """The folder that it is in."""
        return self.path.rpartition("/")[0]

    @property
    def unread(self) -> tuple[str, ...]:
        """Images and videos that could not be read."""
        return tuple(self.tally.unread)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Videos of which only a part could be decoded."""
        return tuple(self.tally.damaged)

    @property
    def ok(self) -> bool:
        """Whether all could be read."""
        return not (self.unread or self.damaged)

    def text(self) -> str:
        ranked = Counter(self.tally.found).most_common()
        counts = ", ".join(f"{one_line(name)} {count:,}" for name, count in ranked) or "nothing"
        kinds = [counted(self.tally.images, "image")] if self.tally.images or not self.tally.frames else []
        kinds += [counted(self.tally.frames, "frame")] if self.tally.frames else []
        lines = [f"{' and '.join(kinds)}; at score {self.head.score:.2f} or more: {counts}"]
        if self.unread:
            kind = "file" if any(Source(file).is_video for file in self.unread) else "image"
            lines.append(f"{counted(len(self.unread), kind)} could not be read: {listed(self.unread, 5)}")
        if self.damaged:
            lines.append(f"{counted(len(self.damaged), 'video')} not whole: {listed(self.damaged, 5)}")
        if self.tally.full:
            lines.append(self.head.most.full(self.tally.full))
        return "\n".join([*lines, *filter(None, [self.note])])

    def json(self) -> dict[str, Any]:
        """The document; of lines, which may be many, what was counted."""
        if self.path.endswith(".json"):
            return self.result
        return {**self.head.document, "path": self.path, **asdict(self.tally)}


class Lines:
    """A JSON object a line. A file name need not be text; what is not becomes an escape of JSON."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def take(self, path: Path) -> None:
        """Adds all lines of such a file."""
        self._file.flush()
        with open_file(path) as file:
            shutil.copyfileobj(file, self._file.buffer, 1 << 20)

    def close(self) -> None:
        self._file.close()


class Document(Lines):
    """One JSON document: the head, and ``images``."""

    def __init__(self, path: Path, head: Head) -> None:
        super().__init__(path)
        self._file.write(json.dumps({**head.document, "images": []}, indent=1, ensure_ascii=False)[: -len("]\n}")])
        self._between = "\n"

    def add(self, row: dict[str, Any]) -> None:
        text = json.dumps(row, indent=1, ensure_ascii=False).replace("\n", "\n  ")
        self._file.write(f"{self._between}  {text}")
        self._between = ",\n"

    def take(self, path: Path) -> None:
        with open_file(path) as file:
            for line in file:
                self.add(parse_json(line, path))

    def close(self) -> None:
        self._file.write("]\n}" if self._between == "\n" else "\n ]\n}")
        super().close()


class Pictures:
    """Images with what was found in them drawn, in a folder, and frames as videos."""

    def __init__(self, folder: Path, labelled: bool) -> None:
        self._folder, self._labelled = folder, labelled
        self._names: set[str] = set()
        self._file, self._video = "", None  # type: tuple[str, VideoWriter | None]

    def add(self, picture: Picture, image: np.ndarray, found: Detections) -> None:
        drawn = draw(image, found.boxes, found.names, found.scores, labels=self._labelled)
        if picture.frame is None:
            save_picture(drawn, self._folder / picture_name(picture.name, self._names))
            return
        if self._video is None or self._file != picture.file:
            self.finish()
            name = picture_name(Path(picture.file), self._names, ".mp4")
            self._file, self._video = picture.file, VideoWriter(self._folder / name, picture.rate)
        self._video.add(drawn, picture.seconds)

    def finish(self) -> None:
        if self._video:
            self._video.close()
            self._video = None


def _row(picture: Picture, found: Detections) -> dict[str, Any]:
    """What the list says of a picture."""
    row = replace(found, file=picture.file).listed()
    if picture.frame is None:
        return row
    return {"file": row.pop("file"), "frame": picture.frame, "time": picture.seconds, **row}


def picture_name(file: Path, taken: set[str], suffix: str = ".jpg") -> str:
    """A name for the drawn picture that no other picture of this call has."""
    name, number = f"{file.stem}{suffix}", 2
    while name in taken:
        name, number = f"{file.stem}-{number}{suffix}", number + 1
    taken.add(name)
    return name


def written_before(out: Path) -> Callable[[Path], bool]:
    """Tells the files of an earlier prediction in ``out``, by its list, from others that lie there; of a data set and
    of crops by when they were changed: somebody may have corrected the boxes."""
    names: set[str] = set()
    written = -1.0
    for name in (DOCUMENT, LINES):
        with suppress(ResightError, LookupError, TypeError, OSError):
            of_list, videos = set[str](), set[str]()
            for row in _rows(out / name):
                if "frame" not in row:
                    picture_name(Path(row["file"]), of_list)
                elif row["file"] not in videos:
                    videos.add(row["file"])
                    picture_name(Path(row["file"]), of_list, ".mp4")
            written = max(written, (out / name).stat().st_ctime)
            names |= {name, *of_list}

    def is_ours(path: Path) -> bool:
        if path.name in (DATASET, CROPS) and path.is_dir():
            return all(file.is_dir() or file.lstat().st_ctime <= written for file in path.rglob("*"))
        return path.name in names

    return is_ours


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.name == DOCUMENT:
        yield from read_json(path, LARGE)["images"]
    else:
        with open_file(path) as file:
            yield from (parse_json(line, path) for line in file)


@contextmanager
def list_in(out: str, head: Head, lines: bool, force: bool) -> Iterator[tuple[Path, Lines]]:
    """A new folder and the list in it, both of which are in their place when the block has ended; of an address the
    list alone. Raises ResightError: there is something already, or it cannot be written."""
    name = _list_name(out, lines)
    place: AbstractContextManager[Any] = TemporaryDirectory(prefix="resight-") if is_remote(out) else nullcontext()
    if not is_remote(out):
        place = atomic_folder(out, force, written_before(Path(out)))
    with place as folder:
        path = Path(folder, name)
        with closing(Lines(path) if name == LINES else Document(path, head)) as listing:
            yield Path(folder), listing
        os.utime(path)  # the last file that is written: what changes after it was not written by us
        if is_remote(out):
            storage.write(storage.join(out, name), path)


def check_list(out: str, force: bool) -> None:
    """Raises ResightError as :func:`list_in`, before the work."""
    if not is_remote(out):
        check_output(out, force, written_before(Path(out)))
        return
    storage.check_writable(out)
    if not force and storage.stat(storage.join(out, LINES)):
        fix = "Choose another place, or replace it with --force."
        raise ResightError("exists already", where=storage.join(out, LINES), fix=fix)


def list_path(out: str, lines: bool) -> str:
    """Where the list is."""
    return (storage.join if is_remote(out) else os.path.join)(out, _list_name(out, lines))


def _list_name(out: str, lines: bool) -> str:
    return LINES if lines or is_remote(out) else DOCUMENT


def look(
    detector: Detector,
    pictures: Iterable[tuple[Picture, np.ndarray] | Lost],
    head: Head,
    listing: Lines,
    adders: Sequence[Add] = (),
) -> Tally:
    """Detects in all pictures, lists what is found, and hands what is at the threshold or more to ``adders``."""
    tally = Tally()

    def read() -> Iterator[tuple[Picture, np.ndarray]]:
        for one in pictures:
            if isinstance(one, Lost):
                log.warning("%s: %s", "not whole" if one.partial else "not read", one.reason)
                (tally.damaged if one.partial else tally.unread).append(one.file)
            else:
                yield one

    for picture, image, everything in detect_each(detector, read()):
        told = everything.above(min(LISTED_SCORE, head.score))
        listing.add(_row(picture, told))
        tally.full += detector.most.reached(told.labels)
        shown = told.above(head.score)
        tally.add(picture, shown)
        for add in adders:
            add(picture, image, shown)
    return tally
