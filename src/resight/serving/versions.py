"""The versions of a served model: the newest is loaded beside the one that serves, and takes over when it is ready."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import ResightError
from ..io.object_store import is_remote
from .request import Version
from .workers import Pool

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0
KEPT = 16  # versions that are no longer served and still told of
FAILED = "cannot be loaded; the server's log says why"  # which may name places on the machine
MODEL_SUFFIXES = (".onnx", ".safetensors")

Fingerprint = tuple[tuple[str, int, int], ...]


def find_versions(model: str | os.PathLike[str]) -> dict[int, str]:
    """The models of a folder whose subfolders are numbered, as TensorFlow Serving has them, by number; what is no such
    folder is version 1."""
    if is_remote(model) or not os.path.isdir(model):
        return {1: os.fspath(model)}
    numbered = [entry for entry in Path(model).iterdir() if re.fullmatch("[0-9]{1,18}", entry.name) and entry.is_dir()]
    return {int(entry.name): str(_model_in(entry)) for entry in numbered} or {1: os.fspath(model)}


def _model_in(folder: Path) -> Path:
    """The only model file of a version's folder, else the folder."""
    files = [path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES]
    return files[0] if len(files) == 1 else folder


def fingerprint(model: str) -> Fingerprint:
    """Changes with the files of a model."""
    paths = [model, *(os.path.join(parent, name) for parent, _, names in os.walk(model) for name in names)]
    found = []
    for path in paths:
        with suppress(OSError):  # it went meanwhile
            state = os.stat(path)
            found.append((path, state.st_size, state.st_mtime_ns))
    return tuple(sorted(found))


class Versions:
    """
    Args:
        model: a model, or a folder of numbered versions.
        pool: whose workers serve the first; those of others are made like it.
    """

    def __init__(self, model: str, pool: Pool) -> None:
        self.model, self.current = model, pool
        self._all: dict[int, Version] = {}
        self._failed: dict[int, Fingerprint] = {}
        self._seen: dict[int, Fingerprint] = {}
        self._leaving: dict[Pool, asyncio.Task[None]] = {}
        self._asked = asyncio.Event()

    async def start(self) -> None:
        """Loads the newest version. Raises ResightError: it cannot be loaded."""
        found = find_versions(self.model)
        newest = max(found)
        self.current = self.current.of_version(newest, found[newest])
        await self._load(self.current)

    def all(self, draining: bool = False) -> Sequence[Version]:
        """What is known of each; available is one that has a worker."""
        serves = self.current.task.version
        versions = self._all.values()
        if draining:
            return [replace(one, state="UNLOADING") if one.state == "AVAILABLE" else one for one in versions]
        if self.current.ready:
            return list(versions)
        return [replace(one, state="LOADING") if one.number == serves else one for one in versions]

    def reload(self) -> None:
        """Soon the newest version is loaded, also where it is served or could not be loaded before."""
        self._failed.clear()
        self._asked.set()

    async def watch(self) -> None:
        """Takes up each new version, until it is cancelled."""
        told = ""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS_BETWEEN_LOOKS):
                    await self._asked.wait()
            try:
                await self._look(forced=self._asked.is_set())
                told = ""
            except OSError as error:  # a file system that is away for a while
                if told != (told := str(error)):
                    log.warning("%s: cannot be looked at, what is loaded is served on: %s", self.model, error.strerror)
            except Exception:
                log.exception("this is a bug of Resight; what is loaded is served on")

    async def _look(self, forced: bool) -> None:
        found, seen = await asyncio.to_thread(self._look_at_files)
        before, self._seen = self._seen, seen
        wanted = [number for number in found if self._failed.get(number) != seen[number]]
        newest = max(wanted, default=self.current.task.version)
        # One that is still being copied is another at the next look.
        if forced or (newest != self.current.task.version and seen[newest] == before.get(newest)):
            self._asked.clear()
            await self._take_over(newest, found[newest], seen[newest])

    def _look_at_files(self) -> tuple[dict[int, str], dict[int, Fingerprint]]:
        found = find_versions(self.model)
        if found == {1: self.model} and self.current.task.model != self.model:  # all numbered ones are gone
            found = {self.current.task.version: self.current.task.model}
        serves = self.current.task.version
        return found, {number: () if number == serves else fingerprint(path) for number, path in found.items()}

    async def _take_over(self, number: int, path: str, seen: Fingerprint) -> None:
        serves = self.current
        new = serves.of_version(number, path)
        log.info("loading version %d of %s: %s", number, new.task.name, path)
        try:
            await self._load(new)
        except (ResightError, OSError) as error:
            self._failed[number] = seen
            log.error("version %d cannot be loaded, %d is served on: %s", number, serves.task.version, error)
            return
        self.current = new
        log.info("version %d of %s is served", number, new.task.name)
        self._leaving[serves] = asyncio.create_task(self._leave(serves))

    async def _load(self, pool: Pool) -> None:
        number, before = pool.task.version, self._all.get(pool.task.version)
        if not before or before.state != "AVAILABLE":  # it may be loaded a second time
            self._all[number] = Version(number, "LOADING")
        try:
            await pool.start()
        except BaseException:
            await pool.stop()
            failed = Version(number, "END", error=FAILED)
            self._all[number] = before if before and before.state == "AVAILABLE" else failed
            raise
        self._all[number] = Version(number, "AVAILABLE", pool.loaded.signature if pool.loaded else None)

    async def _leave(self, pool: Pool) -> None:
        """An old version answers what it took on, and ends."""
        number = pool.task.version
        if number != self.current.task.version:
            self._all[number] = replace(self._all[number], state="UNLOADING")
        await pool.drain()
        await pool.stop()
        self._leaving.pop(pool, None)
        if number != self.current.task.version:
            self._all[number] = Version(number, "END")
        ended = [one for one, version in self._all.items() if version.state == "END"]
        for one in ended[:-KEPT]:
            del self._all[one]

    @property
    def pools(self) -> list[Pool]:
        return [self.current, *self._leaving]

    async def drain(self) -> None:
        """Returns when every request has its answer."""
        await asyncio.gather(*(pool.drain() for pool in self.pools))

    async def stop(self) -> None:
        """Ends all workers at once."""
        for leaving in self._leaving.values():
            leaving.cancel()
        await asyncio.gather(*(pool.stop() for pool in self.pools))
