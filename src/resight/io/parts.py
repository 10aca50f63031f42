"""A long job in parts, each done by a process of its own, wherever that runs: which part is whose, and what each leaves
in a folder or at an ``s3://`` prefix.

A part leaves its data, and then its head: a JSON file that says what it is a part of, and how long the data are. A part
without a head, as one leaves that was killed, was not done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import ResightError, listed
from . import object_store as storage
from .files import open_file, parse_json, read_file
from .object_store import is_remote
from .outputs import atomic_file, check_place, write_text

_NAME = re.compile(r"part-(\d{5,})-of-(\d{5,})\.json")
_ARRAY = "SLURM_ARRAY_TASK_{}"
_ARRAYS = {"RANK": "WORLD_SIZE", "AWS_BATCH_JOB_ARRAY_INDEX": "AWS_BATCH_JOB_ARRAY_SIZE"}
_MOST = 100_000  # parts
_THREADS = 8  # that read heads
_FORM = "It is I/N, from 1/N to N/N, or auto in an array of AWS Batch or Slurm, or under torchrun."
_NAMED = "Name the part: --part I/N, from 1/N to N/N."


@dataclass(frozen=True)
class Part:
    """``number`` counts from 1 to ``count``."""

    number: int
    count: int

    @property
    def name(self) -> str:
        """What its files are called, without a suffix."""
        return f"part-{self.number:05}-of-{self.count:05}"

    def of(self, total: int) -> range:
        """Which of ``total`` things are its own: as many as any other part's, or one more."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)


def part_of(text: str) -> Part:
    """The part that ``3/7`` names, or ``auto`` in the environment of an array of jobs. Raises ResightError: it names
    none."""
    number, count = _of_array() if text == "auto" else _numbers(text)
    if not 1 <= number <= count <= _MOST:
        raise ResightError(f"there is no part {number} of {count}", where="--part", fix=_FORM)
    return Part(number, count)


def _numbers(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)):
        raise ResightError(f"'{text}' is no part", where="--part", fix=_FORM)
    return int(found[1]), int(found[2])


def _of_array() -> tuple[int, int]:
    """Number and count by what runs this process. What runs it alone, as torchrun with one process, says nothing; of
    two that divide the work each would do all of what the other divides."""
    told = {index: (_variable(index) + 1, _variable(size)) for index, size in _ARRAYS.items() if index in os.environ}
    if (slurm := _ARRAY.format("ID")) in os.environ:
        told[slurm] = _of_slurm()
    if not told:
        message = "nothing in the environment says which part this is"
        raise ResightError(message, where="--part auto", fix=_NAMED)
    several = {index: one for index, one in told.items() if one[1] != 1} or told
    if len(set(several.values())) > 1:
        parts = listed(f"{index} says {number}/{count}" for index, (number, count) in several.items())
        raise ResightError(f"the environment contradicts itself: {parts}", where="--part auto", fix=_NAMED)
    return next(iter(several.values()))


def _of_slurm() -> tuple[int, int]:
    task, least, most, count = (_variable(_ARRAY.format(name)) for name in ("ID", "MIN", "MAX", "COUNT"))
    step = (most - least) // (count - 1) if count > 1 else 1
    if least + step * (count - 1) != most or (task - least) % max(step, 1):
        message = f"the {count} tasks of this array are not evenly spaced from {least} to {most}"
        raise ResightError(message, where="--part auto", fix="Submit it whole, as --array=0-6, or name the part: I/N.")
    return (task - least) // max(step, 1) + 1, count


def _variable(name: str) -> int:
    text = os.environ.get(name, "")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        message = f"{name} is {text!r:.40}, and no number" if text else f"{name} is not set"
        raise ResightError(message, where="--part auto", fix=_NAMED)
    return int(text)


def settings_of(kind: str, part: Part, **settings: Any) -> dict[str, Any]:
    """All that decides what a job finds: parts of other settings do not belong together."""
    return {"job": kind, "version": __version__, "parts": part.count, **settings}


def file_at(place: str, name: str) -> str:
    """The path or address of a file of a part that is left at ``place``."""
    return storage.join(place, name) if is_remote(place) else str(Path(place, name))


def check_parts(place: str) -> None:
    """Raises ResightError: no part can be left at ``place``."""
    (storage.check_writable if is_remote(place) else check_place)(place)


def find_part(place: str, part: Part, suffix: str, settings: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The head of the part that was done already; None where it is still to be done. Raises ResightError: a part of
    that name was left there by another job, and is not to be replaced."""
    if (head := _read_head(place, part.name)) is None:
        return None
    differs = [key for key in {**head["settings"], **settings} if head["settings"].get(key) != settings.get(key)]
    if not differs:
        return head if _size(place, part.name + suffix) == head["bytes"] else None
    if force:
        return None
    message = f"holds {part.name} of another job already: it differs in {listed(differs)}"
    raise ResightError(message, where=place, fix="Choose another place, or replace it with --force.")


@contextmanager
def writing(place: str, part: Part, suffix: str, settings: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A local path for the data of a part, and a dictionary for what else its head is to say. Both are in their place
    when the block has ended, the head last."""
    about: dict[str, Any] = {}
    name = part.name + suffix
    if is_remote(place):
        with tempfile.TemporaryDirectory(prefix="resight-") as folder:
            path = Path(folder, name)
            yield path, about
            written = _checksums(path)
            storage.write(storage.join(place, name), path)
    else:
        with atomic_file(Path(place, name)) as path:
            yield path, about
            written = _checksums(path)
    text = json.dumps({"part": part.name, "settings": settings, **written, **about}, indent=1)
    head = file_at(place, f"{part.name}.json")
    if is_remote(place):
        storage.write(head, text.encode())
    else:
        write_text(Path(head), text)


def all_parts(place: str, kind: str) -> list[dict[str, Any]]:
    """The heads of all parts of the one job that were left at ``place``, in order. Raises ResightError: parts are
    missing, or of several jobs; says which."""
    names = _names(place)
    found = [matched for name in names if (matched := _NAME.fullmatch(name))]
    if not found:
        fix = "Name the folder that --part wrote to."
        raise ResightError("holds no part that is done", where=place, fix=fix)
    with ThreadPoolExecutor(_THREADS) as pool:  # a store answers many at a time
        heads = list(pool.map(lambda matched: _read_head(place, matched[0].removesuffix(".json")), found))
    known = [head for head in heads if head and head["settings"].get("job") == kind]
    if not known:
        message = f"holds parts of another command than `resight {kind}`"
        raise ResightError(message, where=place, fix="Name the folder that --part of the same command wrote to.")
    digests = [json.dumps(head["settings"], sort_keys=True) for head in known]
    usual = Counter(digests).most_common(1)[0][0]
    own = {head["part"]: head for head, digest in zip(known, digests, strict=True) if digest == usual}
    if foreign := sorted(matched[0].removesuffix(".json") for matched in found if matched[0][:-5] not in own):
        message = f"holds parts of several jobs: {listed(foreign)} of another model, input or setting than most"
        raise ResightError(message, where=place, fix="Remove them, or do them again with the settings of the others.")
    count = next(iter(own.values()))["settings"]["parts"]
    wanted = [Part(number, count).name for number in range(1, count + 1)]
    if missing := [name for name in wanted if name not in own]:
        fix = f"Do them, or wait for them: --part {int(missing[0].split('-')[1])}/{count}"
        raise ResightError(f"{len(missing)} of the {count} parts are not done: {listed(missing)}", where=place, fix=fix)
    return [own[name] for name in wanted]


@contextmanager
def part_data(place: str, head: Mapping[str, Any], suffix: str) -> Iterator[Path]:
    """A local file with the data of a part. Raises ResightError: they are not what was written."""
    name = head["part"] + suffix
    with tempfile.TemporaryDirectory(prefix="resight-") as folder:
        where = file_at(place, name)
        path = Path(where)
        if is_remote(place):
            if not (stored := storage.stat(where)):
                raise ResightError("is not there", where=where, fix="Do the part again.")
            path = Path(folder, name)
            storage.download(stored, path)
        if _checksums(path) != {key: head[key] for key in ("bytes", "sha256")}:
            fix = f"Remove {head['part']}.json, and do the part again."
            raise ResightError("is damaged: it is not what was written", where=f"{place}/{name}", fix=fix)
        yield path


def _names(place: str) -> Sequence[str]:
    if is_remote(place):
        names = (found.address.removeprefix(f"{place.rstrip('/')}/") for found in storage.find(place))
        return [name for name in names if "/" not in name]
    try:
        return sorted(os.listdir(place))
    except OSError as error:
        raise ResightError(f"cannot be read: {error.strerror}", where=place) from error


def _read_head(place: str, name: str) -> dict[str, Any] | None:
    """What is at ``place`` of a part, if there is anything."""
    where = file_at(place, f"{name}.json")
    if is_remote(place):
        data = found[0] if (found := storage.read_if_there(where)) else None
    else:
        data = read_file(where) if os.path.lexists(where) else None
    if data is None:
        return None
    head = parse_json(data, where)
    kinds = {"part": str, "settings": dict, "bytes": int, "sha256": str}
    is_one = isinstance(head, dict) and all(isinstance(head.get(key), kind) for key, kind in kinds.items())
    if not is_one or not (isinstance(count := head["settings"].get("parts"), int) and 1 <= count <= _MOST):
        raise ResightError("is not the head of a part", where=where, fix="Remove it, or choose another place.")
    return head


def _size(place: str, name: str) -> int | None:
    where = file_at(place, name)
    if is_remote(place):
        return found.size if (found := storage.stat(where)) else None
    return os.stat(where).st_size if os.path.isfile(where) else None


def _checksums(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}
