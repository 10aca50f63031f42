"""The folder that the formats look at, and what the names in it tell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice

from ...errors import ResightError, reading
from ...io.files import IMAGE_SUFFIXES, encoding_of, odd_kind, open_file
from ...io.object_store import is_remote
from ...types import SPLIT_WORDS, Split
from ..file_search import grouped

_MAX_LISTED = 200_000  # files below one that is named


@dataclass(frozen=True)
class DatasetDir:
    """A folder as the formats see it: listed once, however many of them look.

    ``root`` is absolute; ``only`` is the one file in it that the user named, or "". Names are relative to the root,
    with "/" between folders.
    """

    root: str
    only: str = ""

    @staticmethod
    def of(path: str | os.PathLike[str]) -> DatasetDir:
        """The tree of a folder, or of the folder that an annotation file belongs to."""
        if is_remote(path):
            message, fix = "annotations are read from local files", "Copy them; records can stay where they are."
            raise ResightError(message, where=path, fix=fix)
        full = os.path.abspath(path)
        if os.path.isdir(full):
            return DatasetDir(full)
        if not os.path.isfile(full):
            kind = odd_kind(full)
            raise ResightError(f"is a {kind}" if kind else "no such file or folder", where=path)
        root, name = os.path.split(full)
        if os.path.basename(root).lower() == "annotations":
            root, folder = os.path.split(root)
            name = f"{folder}/{name}"
        return DatasetDir(root, name)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file, sorted; hidden ones and archive leftovers are none."""
        return tuple(sorted(_walk(self.root)))

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The files that are images by their suffix."""
        return tuple(name for name in self.files if name.lower().endswith(IMAGE_SUFFIXES))

    @cached_property
    def around(self) -> tuple[str, ...]:
        """``files``; where one file was named those around it, or none of too many: in a part of them nobody could tell
        what is there only once."""
        if not self.only:
            return self.files
        names = tuple(islice(_walk(self.root), _MAX_LISTED + 1))
        return names if len(names) <= _MAX_LISTED else ()

    def candidates(self, *suffixes: str) -> list[str]:
        """Files with one of these suffixes, sorted; the named file alone, where there is one."""
        if self.only:
            return [self.only] if self.only.lower().endswith(suffixes) else []
        return sorted(name for suffix in suffixes for name in self._by_suffix.get(suffix, ()))

    @cached_property
    def _by_suffix(self) -> dict[str, list[str]]:
        return grouped(self.files, lambda name: [os.path.splitext(name)[1].lower()])

    def path(self, name: str) -> str:
        return os.path.normpath(os.path.join(self.root, name))

    def places(self, name: str, *folders: str) -> list[str]:
        """``folders``, relative to the one that the file ``name`` is in, as paths."""
        return [self.path(os.path.join(os.path.dirname(name), folder)) for folder in folders]

    def name(self, path: str) -> str:
        """The inverse of ``path``; a path elsewhere stays as it is."""
        return path[len(self._prefix) :].replace(os.sep, "/") if path.startswith(self._prefix) else path

    @cached_property
    def _prefix(self) -> str:
        return os.path.join(self.root, "")


@lru_cache(10_000)
def split_of(*names: str) -> Split | None:
    """The split of the first name that contains a split word: "images/train2017" -> "train"; "train_val" has none."""
    for name in names:
        found = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
        if len(found) == 1:
            return found.pop()
    return None


def told_split(path: str) -> Split | None:
    """The split that the folders of a path tell."""
    return split_of(*folders_of(path.replace("\\", "/")))


def is_of(split: Split | None, path: str) -> bool:
    """Whether a path may be of ``split``: its folders tell no other one."""
    return not split or told_split(path) in (None, split)


def folders_of(name: str) -> list[str]:
    """The names of the folders around a file, the nearest first."""
    return name.split("/")[-2::-1]


def peek(path: str, size: int = 4096) -> str:
    """The first ``size`` bytes of a file as text, however damaged: for looking only."""
    with open_file(path) as file, reading(path):
        data = file.read(size)
    return data.decode(encoding_of(data), errors="replace")


def _walk(root: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise ResightError(f"cannot list the folder: {error.strerror}", where=error.filename) from error

    seen = set()
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = [name for name in inner if real not in seen and not _is_hidden(name)]
        if real not in seen:  # else a link led to a folder above or beside
            seen.add(real)
            prefix = os.path.relpath(folder, root).replace(os.sep, "/") + "/"
            names = [name for name in files if not _is_hidden(name)]
            # A pipe is no file: its reading would never end.
            yield from (f"{prefix}{name}".removeprefix("./") for name in names if os.path.isfile(f"{folder}/{name}"))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
