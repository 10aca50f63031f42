"""Which files of a folder are the records of which split, and which is their label map, by their names."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ..errors import Problem, ResightError, listed, nearest
from ..io import object_store as storage
from ..io.files import IS_RECORD, decode_text
from ..io.misplaced import kind_of, meant
from ..io.object_store import is_remote
from ..label_map import LabelMap, parse_label_map, read_label_map
from ..types import SPLITS

MISSING = "missing_records"  # the kind of problem that a shard is not there
_TELLS = re.compile(r"(?<![a-z])(?:(?P<train>train)|(?P<val>val(?![a-z])|valid|eval)|(?P<test>test))")
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)(?=$|\.)")
_TAKES = "Training takes --set {0}, data check and data show a TOML file with {1} (--config FILE)."
_KEYS = "Rename them, or name them by keys. " + _TAKES.format(
    "data.train=GLOB --set data.val=GLOB --set data.test=GLOB", "train, val and test in [data]"
)


def find_records(root: str, globs: Mapping[str, str | Sequence[str]], problems: list[Problem]) -> dict[str, list[str]]:
    """The shards of each split: by ``globs`` where given, else by the names of files, else of subfolders.

    Files that no name assigns are listed in ``problems`` when others are assigned, and so are missing shards.

    Raises:
        ResightError: nothing found, annotations instead of records, names that leave a choice.
    """
    if not root and not globs:
        raise ResightError("no records are named", where="data.path", fix="Give a records folder: --data RECORDS.")
    found = {}
    for split, patterns in globs.items():
        several = [patterns] if isinstance(patterns, str) else patterns
        found[split] = list(dict.fromkeys(file for pattern in several for file in _by_glob(root, split, pattern)))
    given = {file for files in found.values() for file in files}
    files = [file for file in _files(root) if IS_RECORD.search(file) and file not in given]
    if is_file(root):
        if not files:
            _no_records(root)
        return found | {_told_split(os.path.basename(root)) or "train": files}
    sets, untold = _by_name(root, files)
    sets = {split: keys for split, keys in sets.items() if split not in globs}
    if not found and not sets:
        if untold:
            raise ResightError(f"no file name contains a split word: {listed(untold)}", where=root, fix=_KEYS)
        _no_records(root)
    if ambiguous := {split: keys for split, keys in sets.items() if len(keys) > 1}:
        choices = "; ".join(f"{split}: {listed(sorted(keys))}" for split, keys in ambiguous.items())
        raise ResightError(f"ambiguous file names, several sets of records for {choices}", where=root, fix=_KEYS)
    if untold:
        message = f"belong to no split and are not read: {listed(untold)}"
        problems.append(Problem("warning", "unassigned_records", root, message))
    for split, keys in sets.items():
        found[split] = sorted(*keys.values())
        problems += _missing_shards(found[split])
    return {split: found[split] for split in SPLITS if split in found}


def _by_name(root: str, files: Sequence[str]) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """``{split: {name of the set: its shards}}`` by the names of files and folders, and the files of no split."""
    sets: dict[str, dict[str, list[str]]] = {}
    untold = []
    for file in files:
        name, folder = os.path.basename(file), os.path.relpath(os.path.dirname(file), root)
        by_name = _told_split(name)
        if split := by_name or _told_split(folder):
            key = os.path.join(folder, _set_of(name)) if by_name or _NUMBERED.search(name) else folder
            sets.setdefault(split, {}).setdefault(os.path.normpath(key), []).append(file)
        else:
            untold.append(os.path.relpath(file, root))
    return sets, untold


def find_label_map(
    folder: str, given: str = "", otherwise: str | os.PathLike[str] | LabelMap | None = None
) -> tuple[str, LabelMap]:
    """The label map ``given``, else the only one in ``folder`` (copies count once), with its path.

    Args:
        otherwise: the one to take where there is none in the folder, or where several differ.

    Raises:
        ResightError: there is none, several differ, or it cannot be read.
    """
    if given:
        beside = os.path.join(folder, given)
        if is_remote(folder) and not is_remote(given) and not os.path.exists(given):
            return beside, _label_map(beside)
        path = beside if os.path.exists(beside) and not os.path.exists(given) else given
        return path, _label_map(path)
    fix = "Name it. " + _TAKES.format("data.label_map=FILE", "label_map in [data]") + " data build takes --labels MAP."
    maps = {path: _label_map(path) for path in _files(folder or ".") if path.lower().endswith(".pbtxt")}
    if len({found.items for found in maps.values()}) == 1:
        return next(iter(maps.items()))
    if otherwise is not None:
        if isinstance(otherwise, LabelMap):
            return "the label map", otherwise
        return os.fspath(otherwise), _label_map(os.fspath(otherwise))
    if not maps:
        raise ResightError("records need a label map (*.pbtxt), and there is none", where=folder or ".", fix=fix)
    names = listed(os.path.relpath(path, folder or ".") for path in maps)
    raise ResightError(f"there are different label maps: {names}", where=folder or ".", fix=fix)


def is_file(path: str) -> bool:
    """Whether ``path`` is a file; a remote one by its name."""
    return bool(IS_RECORD.search(path)) if is_remote(path) else os.path.isfile(path)


def _label_map(path: str) -> LabelMap:
    return parse_label_map(decode_text(storage.read(path), path), path) if is_remote(path) else read_label_map(path)


def _files(root: str) -> list[str]:
    """Files of a folder and its subfolders (not theirs), sorted; hidden ones are left out; a file is its own list."""
    if is_remote(root):
        names = [found.address for found in storage.find(root)]
        if not names:
            raise ResightError("there is nothing at this address", where=root, fix="Check bucket and key.")
        inside = {name: name.removeprefix(root).strip("/").split("/") for name in names}
        return [name for name, parts in inside.items() if len(parts) <= 2 and not any(p.startswith(".") for p in parts)]
    if os.path.isfile(root):
        return [root]
    found: list[str] = []
    try:
        for entry in _visible(root) if root else ():
            # Not the entry's own methods: they fail at a link that leads to itself.
            folder = os.path.isdir(entry.path)
            inner = [one for one in _visible(entry.path) if os.path.isfile(one.path)] if folder else [entry]
            found.extend(one.path for one in inner)
    except FileNotFoundError as error:
        parent = os.path.dirname(os.path.abspath(root))
        siblings = os.listdir(parent) if os.path.isdir(parent) else []
        fix = nearest(os.path.basename(root.rstrip("/")), siblings)
        raise ResightError("no such file or folder", where=root, fix=fix) from error
    except OSError as error:
        raise ResightError(f"cannot be read: {error.strerror}", where=error.filename or root) from error
    return found


def _visible(folder: str) -> list[os.DirEntry[str]]:
    return sorted((entry for entry in os.scandir(folder) if entry.name[0] != "."), key=lambda entry: entry.name)


def _by_glob(root: str, split: str, pattern: str) -> list[str]:
    if is_remote(pattern) or is_remote(root):
        pattern = pattern if is_remote(pattern) else storage.join(root, pattern)
        fixed = re.split(r"[*?\[]", pattern)[0]
        matching = fnmatch.filter((found.address for found in storage.find(fixed.rpartition("/")[0])), pattern)
        if not matching:
            raise ResightError(f"no object matches {pattern!r}", where=f"data.{split}")
        return matching
    folder = root if os.path.isdir(root) else os.path.dirname(root)
    inside = glob.glob(os.path.join(glob.escape(folder), pattern))
    files = sorted(file for file in inside or glob.glob(pattern) if os.path.isfile(file))
    if not files:
        raise ResightError(f"no file matches {pattern!r}", where=f"data.{split}", fix=f"Looked in {folder or '.'}.")
    return files


def _told_split(name: str) -> str:
    """The split that a file or folder name tells, "" when it tells none or several."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    told = {str(match.lastgroup) for match in _TELLS.finditer(words)}
    return told.pop() if len(told) == 1 else ""


def _set_of(name: str) -> str:
    """What the shards of one set have in common: `a-*-of-00003.tfrecord`, `a*.record` (but a year stays)."""
    stem = _NUMBERED.sub(r"-*-of-\2", name)
    return stem if stem != name else re.sub(r"[-_.](\d{1,3}|\d{5,})(?=\.\w+$)", "*", name)


def _missing_shards(files: Sequence[str]) -> list[Problem]:
    found = [match for file in files if (match := _NUMBERED.search(os.path.basename(file)))]
    numbers, totals = {int(match[1]) for match in found}, {int(match[2]) for match in found}
    if len(totals) != 1 or len(found) != len(files) or (total := totals.pop()) > 10**6:
        return []
    missing = sorted(set(range(total)) - numbers)
    message = f"of {total} shards {len(missing)} are missing: number {listed(missing)}"
    return [Problem("error", MISSING, files[0], message)] if missing else []


def _no_records(root: str) -> NoReturn:
    files = _files(root)
    fix = meant(root, "records")
    if kind_of(root) == "images":
        raise ResightError("holds annotations or images, and no records", where=root, fix=fix)
    if os.path.isfile(root):
        raise ResightError("is a file, not a records folder", where=root, fix=fix)
    if not files:
        raise ResightError("the folder is empty", where=root, fix="Give a folder that `resight data build` wrote.")
    names = listed((os.path.relpath(file, root) for file in files), 5)
    message = f"holds no records (*.record, *.tfrecord), but {names}"
    raise ResightError(message, where=root, fix=fix or "Is it the right folder?")
