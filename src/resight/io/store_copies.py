"""Copies on the local disk of what lies in a store, made anew where that has changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResightError
from . import object_store as storage
from .files import cache_folder, read_json
from .object_store import Object, StorageError
from .outputs import write_text

log = logging.getLogger(__name__)

ETAGS = ".etags.json"


def local_folder(address: str, kind: str) -> Path:
    """Where copies of what lies at ``address`` are kept."""
    key = hashlib.sha256(address.encode()).hexdigest()[:24]
    return Path(cache_folder()) / kind / key


def fetch(wanted: dict[str, Object], folder: Path) -> None:
    """Makes ``folder`` hold the objects under the names that they have in ``wanted``."""
    have: dict[str, str] = {}
    with suppress(ResightError):
        noted = read_json(folder / ETAGS)
        have = noted if isinstance(noted, dict) else {}
    for name in have.keys() - wanted.keys():
        with suppress(OSError, ValueError):
            (folder / name).unlink()
    for name, found in wanted.items():
        if have.get(name) != found.etag or not (folder / name).is_file():
            log.info("fetching %s (%.1f MB)", found.address, found.size / 1e6)
            storage.download(found, folder / name)
            have[name] = found.etag
            write_text(folder / ETAGS, json.dumps(have))  # of what is whole, where this is cut short
    write_text(folder / ETAGS, json.dumps({name: found.etag for name, found in wanted.items()}))


def fetch_file(address: str) -> Path:
    """A local copy of the object at ``address``.

    Raises:
        ResightError: there is no such object, or it cannot be read.
    """
    if not (found := storage.stat(address)):
        raise ResightError("there is no such file", where=address)
    copy = local_folder(address, "files") / address.rpartition("/")[2]
    fetch({copy.name: found}, copy.parent)
    return copy


@contextmanager
def named_as(address: str, path: Path) -> Iterator[None]:
    """Errors in the block tell ``address`` in place of its local copy at ``path``; those of the store tell both."""
    try:
        yield
    except ResightError as error:
        if not isinstance(error, StorageError):
            parts = (part.replace(str(path), address) for part in (error.message, error.where, error.fix))
            error.message, error.where, error.fix = parts
        raise
