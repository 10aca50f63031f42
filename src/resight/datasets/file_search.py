"""Finding the file that a name means, though another machine or another tool wrote it a little differently."""

from __future__ import annotations

import bisect
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from urllib.parse import unquote

from ..io.files import IMAGE_SUFFIXES

# Other suffixes that names of images carry: a file may have been converted since.
_SUFFIXES = frozenset((*IMAGE_SUFFIXES, ".jp2", ".tga", ".txt"))
_MAX_COMPARED = 64  # candidates that are compared one by one

# In what a name may differ from its file's, the least difference first; after an exact name.
STEM, SAME_SUFFIX, SUFFIX, CASE, UNICODE, PERCENT, SEVERAL, PATH = range(1, 9)
WORDS = {
    STEM: "without its suffix",
    SAME_SUFFIX: "with its suffix written differently",
    SUFFIX: "with another suffix",
    CASE: "in another case",
    UNICODE: "in another Unicode form",
    PERCENT: "percent-encoded",
    SEVERAL: "with several differences",
    PATH: "of which only the end of the path is here",
}


@dataclass(frozen=True)
class Match:
    """The file that a name means.

    Args:
        path: the file; "" where there is none, or no telling which.
        rung: 0 for an exact name, else in what it differs, one of ``WORDS``.
        candidates: of several files that are equally near, all.
    """

    path: str = ""
    rung: int = 0
    candidates: tuple[str, ...] = ()


class FileSearch:
    """Finds files, by absolute paths with "/" between folders. A search takes time linear in the length of the name,
    and next to none in the number of files.

    Args:
        paths: the files.
        below: a folder of which ``paths`` has every image; "" where there is none.
    """

    def __init__(self, paths: Iterable[str], below: str = "") -> None:
        self._paths = dict.fromkeys(paths)
        self._all = _Sharing(list(self._paths), 0)
        self._below = f"{below}/" if below else "\0"
        self._places: dict[tuple[str, ...], list[str]] = {}

    @cached_property
    def _folders(self) -> set[str]:
        folders = {os.path.dirname(path) for path in self._all.files}
        return {_loose(part) for folder in folders for part in folder.split("/")}

    def find(
        self,
        name: str,
        folders: Sequence[str],
        *,
        near: Iterable[str] = (),
        elsewhere: bool | Callable[[str], bool] = True,
    ) -> Match:
        """The file that ``name``, relative to one of ``folders``, absolute or a URL, means.

        An exact name in the first folder that has it; else in one of the folders under a name that differs by the least
        of ``WORDS``; else, with ``elsewhere``, the name anywhere, or the longest end of its path. An end is not enough
        where the folder before it is here, too, without the file: then the file is missing.

        Args:
            folders: absolute and normalised.
            near: names of folders; of candidates that are equally near the one in most of them is taken.
            elsewhere: whether other folders count, or which of the files there do.
        """
        name, folders = _rooted(name, folders)
        for folder in self._existing(tuple(folders)):
            if (path := f"{folder}/{name}") in self._paths or (not self._is_listed(path) and os.path.isfile(path)):
                return Match(path)
        parts = [part for part in name.split("/") if part]
        sharing = self._all
        for depth, part in enumerate(reversed(parts)):
            if (longer := sharing.child(_loose(part) if depth else loose_stem(part))) is None:
                break
            sharing = longer
        if not sharing.depth:
            return Match()
        end = parts[-sharing.depth :]
        here = sharing.within(set(map(_loose, folders)))
        if not elsewhere or (here and sharing.depth == len(parts)):
            return _best(here if sharing.depth == len(parts) else [], sharing, end)
        hints = [*near, *parts[: -sharing.depth]]
        if len(files := sharing.near(hints)) <= _MAX_COMPARED:
            # A file of another suffix elsewhere may well be another thing of the same name: a mask, a thumbnail.
            suffix = _plain(split_suffix(name)[1])
            files = [path for path in files if not suffix or path in here or _plain(split_suffix(path)[1]) == suffix]
            if sharing.depth < len(parts) and (before := _loose(parts[-sharing.depth - 1])) in self._folders:
                files = [path for path in files if before in _folders(path)]
            if callable(elsewhere):
                files = [path for path in files if path in here or elsewhere(path)]
        found = _best(files, sharing, end, hints)
        return Match(found.path, PATH) if found.path and sharing.depth < len(parts) else found

    def nearest(self, name: str) -> str:
        """The file whose own name is most like that of ``name``, wherever it lies; "" where none is like it."""
        name = _rooted(name, ())[0].rpartition("/")[2]
        found = _close(name, [own for own, _ in self._by_name])
        return self._by_name[bisect.bisect_left(self._by_name, (found, ""))][1] if found else ""

    @cached_property
    def _by_name(self) -> list[tuple[str, str]]:
        return sorted((os.path.basename(path), path) for path in self._paths)

    def _is_listed(self, path: str) -> bool:
        """Whether ``path``, if it were there, would be among the paths."""
        return path.startswith(self._below) and path.lower().endswith(IMAGE_SUFFIXES) and "/." not in path

    def _existing(self, folders: tuple[str, ...]) -> list[str]:
        if folders not in self._places:
            self._places[folders] = [folder.rstrip("/") for folder in folders if not folder or os.path.isdir(folder)]
        return self._places[folders]


class _Sharing:
    """The files that share the last ``depth`` parts of their paths, but for how these are written."""

    def __init__(self, files: list[str], depth: int) -> None:
        self.files, self.depth = files, depth

    def child(self, part: str) -> _Sharing | None:
        if len(self.files) == 1:
            return _Sharing(self.files, self.depth + 1) if self._part(self.files[0]) == part else None
        return self._children.get(part)

    @cached_property
    def _children(self) -> dict[str, _Sharing]:
        groups = grouped(self.files, lambda path: [self._part(path)])
        return {part: _Sharing(files, self.depth + 1) for part, files in groups.items()}

    def within(self, folders: set[str]) -> list[str]:
        """The files whose paths, without what they share, are ``folders``."""
        if len(self.files) <= _MAX_COMPARED:
            return [path for path in self.files if self._place(path) in folders]
        return [path for folder in sorted(folders) for path in self._by_place.get(folder, ())]

    @cached_property
    def _by_place(self) -> dict[str, list[str]]:
        return grouped(self.files, lambda path: [self._place(path)])

    def _place(self, path: str) -> str:
        return _loose(path[: -len(self.tail(path)) - 1])

    def near(self, folders: Sequence[str]) -> list[str]:
        """The files; of more than are compared one by one, those below the rarest of the ``folders`` that are here:
        frames of all videos may have the same names."""
        if len(self.files) <= _MAX_COMPARED:
            return self.files
        below = [found for folder in folders if (found := self._by_folder.get(_loose(folder)))]
        return min(below, key=len, default=self.files)

    @cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        return grouped(self.files, _folders)

    def _part(self, path: str) -> str:
        parts = path.rsplit("/", self.depth + 1)
        if self.depth:
            return _loose(parts[1]) if len(parts) == self.depth + 2 else "\0"
        return loose_stem(parts[-1])

    def tail(self, path: str) -> str:
        return "/".join(path.rsplit("/", self.depth)[1:])


def _best(files: Sequence[str], sharing: _Sharing, end: Sequence[str], hints: Iterable[str] = ()) -> Match:
    """The one of ``files`` whose last parts differ least from ``end``."""
    name = "/".join(end)
    if len(files) > _MAX_COMPARED:
        same = [path for path in files if path.endswith(f"/{name}")]
        if len(same) != 1:
            return Match(candidates=tuple((same or files)[:_MAX_COMPARED]))
        files = same
    if not files:
        return Match()
    rungs = {path: rung(name, sharing.tail(path)) for path in files}
    least = min(rungs.values())
    best = [path for path in files if rungs[path] == least]
    if len(best) > 1:
        likely = {_loose(hint) for hint in hints}
        shared = [len(likely & _folders(path)) for path in best]
        best = [path for path, number in zip(best, shared, strict=True) if number == max(shared)]
    return Match(best[0], least) if len(best) == 1 else Match(candidates=tuple(sorted(best)))


def grouped(paths: Iterable[str], keys: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for path in paths:
        for key in keys(path):
            groups[key].append(path)
    return groups


def _folders(path: str) -> set[str]:
    return {_loose(folder) for folder in path.split("/")[:-1]}


def rung(name: str, other: str) -> int:
    """In what two names differ that are the same but for how they are written."""
    if name == other:
        return 0
    (stem, suffix), (other_stem, other_suffix) = split_suffix(name), split_suffix(other)
    if stem == other_stem:
        if not suffix:
            return STEM
        return SAME_SUFFIX if _plain(suffix) == _plain(other_suffix) else SUFFIX
    changes: dict[int, Callable[[str], str]] = {CASE: str.casefold, UNICODE: _composed, PERCENT: unquote}
    return next((rung for rung, change in changes.items() if change(name) == change(other)), SEVERAL)


def stem_of(name: str) -> str:
    """The name of a file without its folders and suffix."""
    return os.path.splitext(os.path.basename(name))[0]


def split_suffix(name: str) -> tuple[str, str]:
    """``name`` without the suffix of an image or a label file, and that suffix, or ""."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem and dot + suffix.lower() in _SUFFIXES else (name, "")


def _plain(suffix: str) -> str:
    return ".jpg" if suffix.lower() == ".jpeg" else suffix.lower()


def loose_stem(name: str) -> str:
    """What all writings of the name of a file have in common, its suffix apart."""
    return _loose(split_suffix(name)[0])


def loosened(path: str) -> str:
    """The same of a path."""
    folder, name = os.path.split(path)
    return f"{_loose(folder)}/{loose_stem(name)}"


@lru_cache(4096)  # the same folders again and again
def _loose(part: str) -> str:
    plain = unquote(part) if "%" in part else part
    return plain.lower() if plain.isascii() else _composed(plain.casefold())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _rooted(name: str, folders: Sequence[str]) -> tuple[str, list[str]]:
    """``name`` without dots, and the folders that it is in: [""] for an absolute one."""
    if "://" in name:
        name = re.split("[?#]", name.partition("://")[2])[0]
    name = name.replace("\\", "/")
    if not name.startswith("/") and ("./" in name or "//" in name or name.endswith(".")):
        name = os.path.normpath(name)
    if name.startswith("/"):
        return os.path.normpath(name).lstrip("/"), [""]
    rest = re.sub(r"^(\.\./)*", "", name)
    dots = name.removesuffix(rest)
    return rest, [os.path.normpath(f"{folder}/{dots}") for folder in folders] if dots else list(folders)


def did_you_mean(path: str) -> str:
    """ "Did you mean ...?" for the file, or the folder on the way to it, that is most like one that is missing."""
    folder, *parts = path.split("/")
    while len(parts) > 1 and os.path.isdir(f"{folder}/{parts[0]}"):
        folder = f"{folder}/{parts.pop(0)}"
    try:
        names = sorted(os.listdir(f"{folder}/"))
    except (OSError, ValueError):
        return ""
    close = _close(parts[0], names)
    return f"Did you mean {folder}/{close}?" if close else ""


def _close(name: str, names: list[str]) -> str:
    """The one of sorted ``names`` that is most like ``name``, "" where none is."""
    if len(names) > _MAX_COMPARED:  # a name mostly has its nearest beside it in the alphabet
        at = bisect.bisect(names, name)
        names = names[max(at - _MAX_COMPARED // 2, 0) : at + _MAX_COMPARED // 2]
    return next(iter(get_close_matches(name[:255], names, n=1, cutoff=0.6)), "")
