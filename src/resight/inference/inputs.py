"""What to predict on: the images and videos that are named, and the images of folders and of prefixes in a store.

There may be millions. A folder is walked, and a store listed, as its images are needed, in the same order every time;
all of them are never held at once.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path, PurePath

from ..arguments import PATH, check_type
from ..errors import ResightError, listed
from ..io import object_store as storage
from ..io.files import IMAGE_SUFFIXES
from ..io.images import VIDEO_SUFFIXES, max_image_mb, passed_over, read_bytes
from ..io.misplaced import meant
from ..io.object_store import is_remote
from ..io.outputs import is_address, is_partial

log = logging.getLogger(__name__)

WINDOW = 50_000  # entries of a folder in memory; a larger one is read once for so many
FIX = "Name images, videos, folders of images or s3://BUCKET/PREFIX."


@dataclass(frozen=True)
class Source:
    """An image or a video: its path, or its address and what lies there."""

    file: str
    stored: storage.Object | None = None

    @property
    def is_video(self) -> bool:
        return self.file.lower().endswith(VIDEO_SUFFIXES)

    @property
    def key(self) -> bytes:
        """What tells it from others."""
        return f"{self.file}\0{self.stored.etag if self.stored else ''}\0".encode("utf-8", "surrogatepass")

    def encoded(self) -> bytes:
        """All bytes of an image. Raises ResightError: it cannot be read, or is larger than an image may be."""
        if not self.stored:
            return read_bytes(self.file)
        if self.stored.size > max_image_mb() * 1e6:
            raise ResightError(f"is too large for an image: {self.stored.size:,} bytes", where=self.file)
        starts = range(0, self.stored.size, storage.BLOCK)
        return b"".join(storage.read_range(self.stored, start, storage.BLOCK) for start in starts)


@dataclass(frozen=True)
class Survey:
    """How many sources there are, and a digest of their names and order; of a store also of their ETags."""

    count: int
    digest: str


@dataclass
class _Seen:
    """What a walk came by."""

    images: int = 0
    files: int = 0
    others: Counter[str] = field(default_factory=Counter)  # names by suffix
    special: list[str] = field(default_factory=list)  # pipes and the like
    own: list[str] = field(default_factory=list)  # folders left out, as they are the output


class Inputs:
    """The sources of what was named, in its order: a folder gives its images and those of its subfolders, by the names
    on their paths, a prefix in a store those below it, by their keys. Each is given once.

    Args:
        inputs: paths and ``s3://`` addresses.
        out: the output folder, which is left out: pictures are drawn there.

    Raises:
        ResightError: an input does not exist, is neither a file nor a folder, or is an address elsewhere. While it is
            walked: a folder cannot be read, or a store fails.
    """

    def __init__(self, inputs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None) -> None:
        if not inputs:
            raise ResightError("there is none", where="INPUT", fix=FIX)
        for number, path in enumerate(inputs, 1):
            check_type(f"number {number}", path, PATH, "INPUT")
        self.named = tuple(path.rstrip("/") if is_remote(path) else str(Path(path)) for path in inputs)
        for path in map(str, inputs):
            if remedy := _no_input(path):
                raise ResightError("is no image, video or folder of images", where=path, fix=remedy)
        local = [path for path in self.named if not is_remote(path)]
        if missing := [path for path in local if not os.path.exists(path)]:
            raise ResightError(f"there is no {listed(missing)}", where="INPUT", fix=FIX)
        if odd := [path for path in local if not os.path.isdir(path) and not os.path.isfile(path)]:
            raise ResightError(f"{listed(odd)} is neither a file nor a folder", where="INPUT", fix=FIX)
        self._out = "" if out is None or is_remote(out) else os.path.realpath(out)

    def __iter__(self) -> Iterator[Source]:
        for index in range(len(self.named)):
            yield from self._of(index, _Seen())

    def survey(self) -> Survey:
        """Goes through all of them once, and tells of what is passed over. Raises ResightError: an input holds no
        image."""
        count, names = 0, hashlib.sha256()
        for index, path in enumerate(self.named):
            seen = _Seen()
            for source in self._of(index, seen):
                count += 1
                names.update(source.key)
            _tell(path, seen)
        return Survey(count, names.hexdigest())

    def within(self, survey: Survey, span: range) -> Iterator[Source]:
        """Those with a number in ``span``, from 0. Raises ResightError, at the end: they are not those of ``survey``
        any more, so that others have these numbers."""
        names = hashlib.sha256()
        for number, source in enumerate(self):
            names.update(source.key)
            if number in span:
                yield source
        if names.hexdigest() != survey.digest:
            message = "images came or went while they were looked at"
            raise ResightError(message, where=", ".join(self.named), fix="Wait until all are there, and start again.")

    @property
    def as_lines(self) -> bool:
        """Whether they are listed a line each: videos, and what lies in a store."""
        return bool(self.videos) or any(map(is_remote, self.named))

    @property
    def videos(self) -> list[Source]:
        """Videos are only taken where they are named."""
        return [
            source
            for path in dict.fromkeys(self.named)
            if (source := Source(path)).is_video and not os.path.isdir(path)
        ]

    def _of(self, index: int, seen: _Seen) -> Iterator[Source]:
        """The sources of one input that no earlier one gave."""
        path, before = self.named[index], self.named[:index]
        if is_remote(path):
            yield from _stored(path, [one for one in before if is_remote(one)], seen)
        elif os.path.isdir(path):
            if not any(_walked_to(one, path) for one in before):
                yield from _images_below(path, frozenset(before), self._out, seen)
            else:
                seen.images += 1
        else:
            seen.images += 1
            of_folder = path.lower().endswith(IMAGE_SUFFIXES)
            if path not in before and not (of_folder and any(_walked_to(one, path) for one in before)):
                yield Source(path)


def _walked_to(folder: str, path: str) -> bool:
    """Whether a walk of ``folder`` comes to ``path``, or is one of it: links to folders are not followed."""
    if path == folder:
        return True
    own = PurePath(folder)
    between = [parent for parent in PurePath(path).parents if own in parent.parents]
    return (
        own in PurePath(path).parents
        and os.path.isdir(folder)
        and not any(map(os.path.islink, between))
        and not (os.path.isdir(path) and os.path.islink(path))
    )


def _images_below(folder: str, before: frozenset[str], out: str, seen: _Seen) -> Iterator[Source]:
    """The images of a folder and its subfolders but those in ``before``."""
    walks = [_entries(folder)]
    while walks:
        try:
            if (entry := next(walks[-1], None)) is None:
                walks.pop()
                continue
            path = str(Path(entry.path))
            if _is_folder(entry):
                if entry.is_symlink() or is_partial(entry.name):  # nor what a killed prediction left half-written
                    continue
                if path in before:
                    seen.images += 1
                elif out and os.path.realpath(path) == out:
                    seen.own.append(entry.name)
                else:
                    walks.append(_entries(path))
                continue
            # What leads nowhere is tried too, and reported; reading a pipe or a device might never end.
            regular = not os.path.exists(path) or entry.is_file()
        except OSError as error:
            raise ResightError(f"cannot be read: {error.strerror}", where=error.filename or folder) from error
        if not regular:
            seen.special.append(path)
            continue
        seen.files += 1
        if entry.name.lower().endswith(IMAGE_SUFFIXES):
            seen.images += 1
            if path not in before:
                yield Source(path)
        else:
            seen.others["x" + os.path.splitext(entry.name)[1].lower()] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, by name; of a huge one a window at a time, for each of which it is read again."""
    last = ""
    while True:
        with os.scandir(folder) as entries:
            after = (entry for entry in entries if entry.name > last)
            window = heapq.nsmallest(WINDOW, after, key=attrgetter("name"))
        yield from window
        if len(window) < WINDOW:
            return
        last = window[-1].name


def _stored(address: str, before: Sequence[str], seen: _Seen) -> Iterator[Source]:
    """The images below an address, or what lies at it, but those in or below ``before``."""
    for found in storage.stream(address):
        seen.files += 1
        is_image = found.address.lower().endswith(IMAGE_SUFFIXES)
        if found.address != address and not is_image:
            seen.others["x" + os.path.splitext(found.address)[1].lower()] += 1
            continue
        seen.images += 1
        if not any(found.address == one or (is_image and found.address.startswith(f"{one}/")) for one in before):
            yield Source(found.address, found)


def _tell(path: str, seen: _Seen) -> None:
    """What an input holds beside images. Raises ResightError: it holds none."""
    if seen.own:
        log.warning("%s: left out %s, the output folder", path, listed(seen.own))
    if not seen.images and not seen.files and is_remote(path):
        raise ResightError("there is no such object, nor any below it", where=path, fix=FIX)
    if not seen.images:
        videos = any(f"x{suffix}" in seen.others for suffix in VIDEO_SUFFIXES)
        remedy = f"It holds videos; name them: {os.path.join(path, 'NAME')}" if videos else ""
        fix = meant(path, "images") or remedy or f"Images are {listed(sorted(IMAGE_SUFFIXES), 20)}."
        raise ResightError("holds no image" if seen.files else "is empty and holds no image", where=path, fix=fix)
    if passed := passed_over(seen.others.elements(), "name videos to look at them"):
        log.warning("%s: passed over %s", path, passed)
    if seen.special:
        log.warning("%s: skipped non-regular files: %s", path, listed(seen.special, 5))


def _no_input(text: str) -> str:
    """How to get images of a camera or an address, or an empty string where ``text`` is neither."""
    if (text.isdigit() and not os.path.exists(text)) or text.startswith("/dev/video"):
        return (
            "Cameras are not supported. Save a picture as an image first, or hand the frames to the detector in\n"
            "  Python: resight.load(MODEL)(frame), with the frame as an [H, W, 3] uint8 RGB array."
        )
    if is_address(text) and not is_remote(text):
        return "URLs are not supported. Download the images first."
    if "*" in text and not is_remote(text) and not os.path.exists(text):
        return "No file matches this pattern."
    return ""
