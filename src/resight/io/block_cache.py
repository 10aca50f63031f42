"""Remote shards in blocks on the local disk, so that a set larger than the disk can be read in any order."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ..errors import ResightError
from . import object_store as storage
from .files import cache_folder, open_file
from .object_store import BLOCK, Conflict, Object
from .outputs import atomic_file, clear_partials

RECHECK = 60.0  # seconds after which a process asks again whether a shard is still the same


class BlockCache:
    """Reads objects through blocks that all processes share; the least recently used go when they take more than
    ``limit`` bytes. A read fetches the blocks it needs, so loader workers fetch ahead. Can be pickled."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.folder = Path(cache_folder()) / "blocks"
        self._seen: dict[str, float] = {}  # when a shard was last known to be the same

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_seen": {}}

    def read(self, shard: Object, length: int, offset: int) -> bytes:
        """The bytes of a shard, fewer at its end. Raises ResightError: the store fails, the shard is no more what it
        was when it was opened, or the disk is full."""
        self._check(shard)
        end = min(offset + length, shard.size)
        blocks = range(offset // BLOCK, -(-end // BLOCK))
        parts = [self._read_block(shard, b, max(offset - b * BLOCK, 0), end - b * BLOCK) for b in blocks]
        return b"".join(parts)

    def _read_block(self, shard: Object, block: int, start: int, stop: int) -> bytes:
        key = f"{shard.address}\0{shard.etag}\0{shard.size}\0{os.environ.get('AWS_ENDPOINT_URL', '')}"
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}-{block:06}"
        size = min(BLOCK, shard.size - block * BLOCK)
        with suppress(OSError, ResightError), open_file(path) as file:
            os.utime(path)
            file.seek(start)
            if os.fstat(file.fileno()).st_size == size:
                return file.read(min(stop, size) - start)
        data = storage.read_range(shard, block * BLOCK, BLOCK)
        self._keep(path, data)
        return data[start : min(stop, size)]

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                clear_partials(self.folder)
                self._make_room(len(data))
                with atomic_file(path) as partial:
                    partial.write_bytes(data)
        except (OSError, ResightError) as error:
            full = "the disk is full" if getattr(error.__cause__ or error, "errno", 0) == errno.ENOSPC else str(error)
            fix = "Make room, lower data.cache_gb, or name another folder with RESIGHT_CACHE."
            raise storage.StorageError(f"cannot keep shards: {full}", where=self.folder, fix=fix) from error

    def _make_room(self, size: int) -> None:
        entries = [(entry, entry.stat()) for entry in os.scandir(self.folder) if not entry.name.startswith(".")]
        total = sum(stat.st_size for _, stat in entries) + size
        for entry, stat in sorted(entries, key=lambda pair: pair[1].st_mtime_ns):
            if total <= self.limit:
                break
            os.unlink(entry.path)  # who reads it just now still can
            total -= stat.st_size

    def _check(self, shard: Object) -> None:
        now = time.monotonic()
        if now - self._seen.setdefault(shard.address, now) < RECHECK:
            return
        if storage.stat(shard.address) != shard:
            fix = "Do not change records that a training reads; start a new training on these."
            raise Conflict("the shard has changed since it was opened", where=shard.address, fix=fix)
        self._seen[shard.address] = now


@dataclass(frozen=True)
class CachedFile(Object):
    """An object of a store, read through the blocks of ``cache``."""

    cache: BlockCache

    def read(self, length: int, offset: int) -> bytes:
        return self.cache.read(Object(self.address, self.size, self.etag), length, offset)

    def __str__(self) -> str:
        return self.address
