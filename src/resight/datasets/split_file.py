"""A split that the user wrote down: a file of lines ``filename,split``."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ..errors import ResightError, counted, listed, nearest
from ..io.files import read_text
from ..types import SPLIT_WORDS, SPLITS, Annotation
from .file_search import loosened, stem_of
from .split import RULES


def follow_split_file(path: str, items: Sequence[Annotation]) -> tuple[list[Annotation], list[str]]:
    """The images with the splits that a file of lines ``filename,split`` says (or separated by white space; a header
    line may lead), None where it says nothing; and notes on names without an image.

    A file name is an image's ``source_id``, its file name, the end of its path, or one of these without suffix;
    also in another case or Unicode form, or percent-encoded, where only one image is called so.

    Raises:
        ResightError: no such file, unreadable lines, unknown splits, or one image in two splits; all are listed.
    """
    if not os.path.isfile(path):
        rules = f"A rule is {listed(RULES)}. {nearest(path, RULES)}".rstrip()
        raise ResightError("is neither a rule nor a split file", where=path, fix=rules)
    names = _Names(items)
    named: dict[int, str] = {}
    strangers: list[str] = []
    bad: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, _, word = line.strip().replace("\t", " ").rpartition("," if "," in line else " ")
        name, word = name.strip().strip('"'), word.strip().strip('"').lower()
        split = SPLIT_WORDS.get(word)
        if not word or line.startswith("#") or (number == 1 and word in ("split", "set", "subset")):
            continue
        if not name or split is None:
            bad.append(f"line {number}: '{line.strip()[:80]}' is not 'filename,split' with {' or '.join(SPLITS)}")
            continue
        name = _slashes(name)
        found = names.find(name)
        if len(found) > 1:
            bad.append(f"line {number}: '{name}' names {len(found)} images; write more of the path")
        elif not found:
            strangers.append(name)
        elif named.setdefault(found[0], split) != split:
            bad.append(f"line {number}: '{name}' is in {named[found[0]]} already")
    if bad:
        raise ResightError("; ".join(bad[:20]) + (f" and {len(bad) - 20} more" if len(bad) > 20 else ""), where=path)
    if not named and items:
        like = f"It names {listed(strangers, 3)}; the images are {listed([item.filename for item in items], 3)}."
        raise ResightError("names none of the images", where=path, fix=like)
    note = f"{path} names {counted(len(strangers), 'file')} without an image here: {listed(strangers, 5)}"
    parted = [replace(item, split=named.get(i)) for i, item in enumerate(items)]
    return parted, [note] if strangers else []


class _Names:
    """The images by all that a split file may call them."""

    def __init__(self, items: Sequence[Annotation]) -> None:
        self.names = [_names(item) for item in items]
        self.exact: dict[str, list[int]] = defaultdict(list)
        self.by_tail: dict[str, set[int]] = defaultdict(set)
        self.loose: dict[str, set[int]] = defaultdict(set)
        for i, name in ((i, name) for i, names in enumerate(self.names) for name in names):
            self.exact[name].append(i)
            self.by_tail[stem_of(name)].add(i)
            self.by_tail[_tail(os.path.splitext(name)[0])].add(i)
            self.loose[loosened(name)].add(i)

    def find(self, name: str) -> list[int]:
        return self.exact.get(name) or self._ending(name) or list(self.loose.get(loosened(name), ()))

    def _ending(self, name: str) -> list[int]:
        """The images whose path ends with ``name``; if none does, without suffixes."""
        stem = os.path.splitext(name)[0]
        among = {i for end in (stem, name) for i in self.by_tail.get(_tail(end), ())}
        whole = [i for i in among if any(known.endswith(f"/{name}") for known in self.names[i])]
        stems = {i: [f"/{os.path.splitext(known)[0]}" for known in self.names[i]] for i in among}
        return whole or [i for i in among if any(known.endswith((f"/{name}", f"/{stem}")) for known in stems[i])]


def _tail(name: str) -> str:
    """A name with the folder that it is in: frames of all videos may have the same names."""
    return "/".join(name.split("/")[-2:])


def _names(item: Annotation) -> set[str]:
    path = "" if isinstance(item.image, bytes) else str(item.image)
    return {_slashes(name) for name in (item.source_id, item.filename, path) if name}


def _slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")
