"""Outputs that are whole or absent, and never replace what Resight did not write."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResightError, listed

_PARTIAL = ".partial-"  # in the names of what is being written
# Folders that are a part of a data set, by their usual names.
_PARTS = ("images", "jpegimages", "annotations", "labels", "train", "val", "valid", "test")


def check_output(out: str | os.PathLike[str], force: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raises ResightError: ``out`` holds something and ``force`` is off, it holds files that are not ours, or nothing
    can be made beside it."""
    check_local(out)
    try:
        present = sorted(Path(out).iterdir())
    except FileNotFoundError:
        present = []
    except OSError as error:
        raise ResightError(f"cannot be an output folder: {error.strerror}", where=out) from error
    if present and not force:
        fix = "Choose another folder, or replace it with --force."
        raise ResightError("already holds something", where=out, fix=fix)
    if others := [path.name for path in present if not is_ours(path)]:
        message = f"holds what Resight did not write, and is not replaced: {listed(others)}"
        raise ResightError(message, where=out, fix="Choose another folder, or move these away.")
    check_place(os.path.dirname(os.path.realpath(out)))


def is_address(out: str | os.PathLike[str] | None) -> bool:
    """Whether it names a place in a store of whatever kind; a ``Path`` has made one slash of two."""
    return re.match(r"\w\w+:/", str(out)) is not None


def check_local(out: str | os.PathLike[str] | None) -> None:
    """Raises ResightError: ``out`` is an address in a store, where only runs are written."""
    if is_address(out):
        message = "this output must be local: only runs are written to a store"
        raise ResightError(message, where=out, fix="Choose a local place, and copy it.")


def beside(source: str | os.PathLike[str], name: str = "records") -> str:
    """A folder for what is made of a data set, one of its files or folders, that does not lie in it."""
    folder = os.path.realpath(source)
    while os.path.isfile(folder) or os.path.basename(folder).lower() in _PARTS:
        folder = os.path.dirname(folder)
    parent, own = os.path.split(folder)
    if not os.access(parent, os.W_OK):
        here = os.getcwd()
        parent = os.path.expanduser("~") if os.path.commonpath([here, folder]) == folder else here
    place = os.path.join(parent, f"new_{name}" if own == name else name)
    relative = os.path.relpath(place)
    return place if relative.startswith(os.path.join(os.pardir, os.pardir)) else relative


@contextmanager
def atomic_folder(out: str | os.PathLike[str], force: bool, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place when the block ends, and vanishes when it fails. Raises
    ResightError: see :func:`check_output`; or a file in the block or the folder cannot be written."""
    check_output(out, force, is_ours)
    target = Path(os.path.realpath(out))
    partial = replaced = target
    try:
        with _partial_folder(target) as partial:
            replaced = target.with_name(f"{partial.name}.replaced")
            yield partial
            # A folder replaces an empty one only: of two that were made at the same time the second is refused.
            if force and target.is_dir():
                check_output(target, force, is_ours)
                os.rename(target, replaced)
            os.rename(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and error.filename2 == str(target):
            message = "was written by another process in the meantime, and is kept"
            raise ResightError(message, where=out, fix="Choose another folder.") from error
        where = str(error.filename or target).replace(str(partial), str(target))
        raise ResightError(f"cannot be written: {error.strerror or error}", where=where) from error
    finally:
        if replaced.is_dir() and not target.is_dir():
            os.rename(replaced, target)
        if replaced != target:
            shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target``, locked as long as its writer lives; those of dead writers are removed."""
    clear_partials(target.parent, target.name)
    folder = target.with_name(f".{target.name}{_PARTIAL}{uuid.uuid4().hex[:8]}")
    while True:
        folder.mkdir(parents=True)
        lock = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # not every file system has locks; then nothing is taken for dead
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            break
        os.close(lock)  # another process took it for a dead one's before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_partials(parent: Path, name: str = "") -> None:
    """Removes what killed writers of ``name``, or of anything, left half-written in ``parent``. What a living process
    writes, and the only copy of what was being replaced, stay."""
    with suppress(OSError):
        for left in sorted(parent.glob(f".{glob.escape(name) or '*'}{_PARTIAL}*/")):
            target = left.name[1:].partition(_PARTIAL)[0]
            if left.name.endswith(".replaced") and not (parent / target).exists():
                continue
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except OSError:
                continue
            finally:
                os.close(lock)


def check_place(path: str | os.PathLike[str], fix: str = "") -> None:
    """Raises ResightError: no folder can be made at ``path``, or nothing written into the one there."""
    there = next(place for place in (Path(path), *Path(path).absolute().parents) if os.path.exists(place))
    if not there.is_dir():
        raise ResightError("is not a folder", where=there, fix=fix)
    try:  # what is allowed is not all: a disk can be full, or mounted for reading
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ResightError(f"cannot be written to: {error.strerror}", where=there, fix=fix) from error


def is_partial(name: str) -> bool:
    """Whether a file of that name is what a killed :func:`atomic_file` left."""
    return name.startswith(".") and _PARTIAL in name


@contextmanager
def atomic_file(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A name in a hidden folder beside ``out`` for a file that takes its place when the block ends, and vanishes when
    it fails, with whatever a library keeps beside it meanwhile. The file gets the umask's mode. Raises ResightError: it
    cannot be written."""
    target = Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _partial_folder(target) as folder:
            partial = folder / target.name
            yield partial
            partial.chmod(folder.stat().st_mode & 0o666)  # some libraries make it for its owner alone
            os.replace(partial, target)
    except OSError as error:
        raise ResightError(f"cannot be written: {error.strerror or error}", where=out) from error


def write_text(out: str | os.PathLike[str], text: str) -> None:
    """A text as UTF-8, whole or not at all; see :func:`atomic_file`."""
    with atomic_file(out) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_file(out: str | os.PathLike[str], force: bool, is_ours: Callable[[Path], bool] | None = None) -> None:
    """Makes the folder of ``out`` where it is missing. Raises ResightError: the file exists and ``force`` is off, or it
    is not ours; or its folder cannot be made or written to."""
    check_local(out)
    path = Path(out)
    if path.is_dir():
        raise ResightError("is a folder, and a file is to be written", where=out)
    if path.exists() and not force:
        raise ResightError("exists already", where=out, fix="Choose another name, or replace it with --force.")
    if path.exists() and is_ours is not None and not is_ours(path):
        fix = "Choose another name, or move it away."
        raise ResightError("was not written by Resight, and is not replaced", where=out, fix=fix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make its folder: {error.strerror}", where=out) from error
    check_place(path.parent)
