"""A run in a store: it trains in a local folder, which is copied there at every save and from there at a resumption."""

from __future__ import annotations

import logging
import shlex
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ResightError
from ..io import object_store as storage
from ..io.object_store import Conflict, Passing, StorageError, fetch, local_folder, named_as
from ..io.outputs import is_partial
from ..models.checkpoints import LAST
from ..models.remote import POINTERS, objects_of, pointed
from .distributed import Distributed
from .run_folder import METRICS
from .run_record import FILE, LAUNCH

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds for which a save that the store fails is tried again; it has its stop timeout to end in
LEASE = 30.0  # seconds after which a lock that is not renewed is nobody's
_FETCHED = ("config.toml", "label_map.pbtxt", "environment.json", METRICS)


@dataclass(frozen=True)
class Workplace:
    """Where a training writes, and what is to be done after each save."""

    path: Path
    name: str  # as the user calls it
    saved: Callable[[], None] = lambda: None
    locked: bool = False  # already, against other trainings


def check_remote_run(address: str, resume: bool) -> None:
    """Raises ResightError: there is a run already, or something else, or the store cannot be used."""
    present = objects_of(address)
    if "" in present:
        raise ResightError("expected a folder, found an object", where=address, fix="Choose another with -o.")
    if not resume and ("config.toml" in present or POINTERS[LAST] in present):
        fix = f"Continue it with --resume -o {shlex.quote(address)}, or choose another address."
        raise ResightError("holds a run already", where=address, fix=fix)
    others = [name for name in present if name not in (_Lease.NAME, FILE) and not name.startswith(f"{LAUNCH}/")]
    if others and "config.toml" not in present:
        raise ResightError("is not empty", where=address, fix="Choose another address with -o.")


@contextmanager
def workplace(run: str | Path, resume: bool, distributed: Distributed) -> Iterator[Workplace]:
    """The folder to train in: ``run`` itself, or a local one for an address, with what a resumed run needs in it.
    Raises ResightError: another training is writing there, or the store cannot be used."""
    if isinstance(run, Path):
        yield Workplace(run, str(run))
        return
    folder = local_folder(run, f"runs/{distributed.rank}")
    lease = _Lease(run)
    distributed.from_main(lease.take)
    mirror = _Mirror(run, folder, lease)
    with named_as(run, folder), lease if distributed.is_main else nullcontext():
        mirror.begin(resume)
        copy = mirror.copy if distributed.is_main else lambda: None
        try:
            yield Workplace(folder, run, copy, locked=True)
        except ResightError as error:
            if not isinstance(error, StorageError):
                copy()
            raise
        copy()
        shutil.rmtree(folder, ignore_errors=True)


class _Mirror:
    """Copies the files of ``folder`` that have changed."""

    def __init__(self, run: str, folder: Path, lease: _Lease) -> None:
        self.run, self.folder, self.lease = run, folder, lease
        self.sent: dict[str, tuple[int, int]] = {}

    def begin(self, resume: bool) -> None:
        """An empty folder, or what the run at the address needs to go on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "checkpoints").mkdir(parents=True)
        present = objects_of(self.run) if resume else {}
        wanted = {name: present[name] for name in _FETCHED if name in present}
        if last := pointed(present, LAST):
            wanted[LAST] = last
        if wanted:
            fetch(wanted, self.folder)
        for name in present:
            if name.startswith("checkpoints/step-"):
                (self.folder / name).touch()  # stands for the object, so that the oldest is known and removed
        self.sent = {name: _stamp(self.folder / name) for name in self._names()}

    def copy(self) -> None:
        """Raises ResightError: the store fails, or another training has taken the run over."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self._copy()
            except StorageError as error:
                if not isinstance(error, Passing) or time.monotonic() >= until:
                    error.fix += f" What has been trained lies in {self.folder}."
                    raise
                log.warning("the run cannot be saved at the moment, and is tried again: %s", error)

    def _copy(self) -> None:
        self.lease.renew()
        names = self._names()
        # What the last checkpoint goes with is there before it; a resumption cuts off what is of later steps. The
        # checkpoints come after config.toml, without which a resumption takes them for something else than a run's.
        for name in sorted(names, key=lambda name: (name == LAST, name.startswith("checkpoints/"), name)):
            path = self.folder / name
            stamp = _stamp(path)
            if self.sent.get(name) == stamp:
                continue
            if name in POINTERS:
                self._point(name, path)
            else:
                storage.write(storage.join(self.run, name), path)
            self.sent[name] = stamp
        for name in self.sent.keys() - set(names):
            storage.delete(storage.join(self.run, name))
            del self.sent[name]

    def _point(self, name: str, path: Path) -> None:
        pointer = storage.join(self.run, POINTERS[name])
        new = f"{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}"
        before = storage.read(pointer).decode() if storage.stat(pointer) else ""
        storage.write(storage.join(self.run, "checkpoints", new), path)
        storage.write(pointer, new.encode())
        for found in storage.find(storage.join(self.run, "checkpoints")):
            file = found.address.rpartition("/")[2]
            # The one before stays for whoever is reading it.
            if file.startswith(f"{path.stem}-") and file not in (new, before):
                storage.delete(found.address)

    def _names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return [path.relative_to(self.folder).as_posix() for path in files if not is_partial(path.name)]


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


class _Lease:
    """The lock of a run in a store: an object that its holder writes anew again and again.

    No clocks are compared: one that somebody else finds unchanged for ``LEASE`` seconds is left by a killed training.
    """

    NAME = ".lock"

    def __init__(self, run: str) -> None:
        self.run, self.address = run, storage.join(run, self.NAME)
        self.token = uuid.uuid4().hex
        self.etag = ""
        self.lost: ResightError | None = None
        self._busy, self._ended = threading.Lock(), threading.Event()

    def take(self) -> None:
        """Raises ResightError: another training holds it."""
        try:
            self._write("")
            return
        except Conflict:
            found = storage.stat(self.address)
        log.info("%s is locked; waiting %.0f s to see whether the other training is still running", self.run, LEASE)
        until = time.monotonic() + LEASE
        while found and time.monotonic() < until:
            time.sleep(LEASE / 10)
            now = storage.stat(self.address)
            if now and now.etag != found.etag:
                break
            found = now
        else:
            with suppress(Conflict):
                self._write(found.etag if found else "")
                return
        fix = "Wait for it, or choose another."
        raise ResightError("another training is writing to this run", where=self.run, fix=fix)

    def renew(self) -> None:
        """Raises ResightError: somebody else has it."""
        with self._busy:
            try:
                self._write(self.etag)
            except Conflict:
                message = "another training has taken this run over"
                self.lost = ResightError(message, where=self.run, fix="This one has ended; the other continues.")
                raise self.lost from None

    def _write(self, replacing: str) -> None:
        body = f"{self.token} {time.time_ns()}".encode()
        try:
            self.etag = storage.write(self.address, body, replacing=replacing)
        except Conflict:
            # The answer to a write may be lost, and its repetition is refused then.
            found = storage.stat(self.address)
            if found is None or storage.read(self.address) != body:
                raise
            self.etag = found.etag

    def __enter__(self) -> _Lease:
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def _keep(self) -> None:
        while not self._ended.wait(LEASE / 3) and not self.lost:
            try:
                self.renew()
            except StorageError as error:
                log.warning("the lock of the run cannot be renewed: %s", error)
            except ResightError as error:
                log.error("%s", error)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(ResightError):
            found = storage.stat(self.address)
            if found and found.etag == self.etag:
                storage.delete(self.address)
