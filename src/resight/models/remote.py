"""Models and runs that lie in a store: which objects they are, and copies of them on the local disk.

In a run's ``checkpoints`` the objects ``last`` and ``best`` say which file holds these checkpoints. A file is uploaded
under a new name before the pointer names it, so whoever follows the pointer finds a whole one.
"""

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ResightError, shown
from ..io import object_store as storage
from ..io.files import IS_RECORD, SMALL
from ..io.object_store import ETAGS, Object, fetch, local_folder, named_as
from ..io.outputs import check_place
from .checkpoints import BEST, LAST

log = logging.getLogger(__name__)

POINTERS = {BEST: "checkpoints/best", LAST: "checkpoints/last"}  # file of a run folder -> what it is in a store
_RUN = ("config.toml", "label_map.pbtxt", "environment.json")
_IN_STORES = re.compile(r"\.lock|checkpoints/(last|best)(-.*)?")  # what a run has nowhere else
# A file alone, and in a folder an export or what TFOD left: nothing else is worth fetching all that lies below.
_MODEL = re.compile(r"[^/]+\.(safetensors|onnx)|model\.xml|(saved_model/)?saved_model\.pb|(checkpoint/)?[^/]+\.index")


def objects_of(address: str) -> dict[str, Object]:
    """The objects below ``address`` by the rest of their names, "" for the object itself."""
    return {found.address.removeprefix(address).lstrip("/"): found for found in storage.find(address)}


def pointed(present: dict[str, Object], name: str) -> Object | None:
    """The object that holds the checkpoint ``name`` (``BEST`` or ``LAST``) of a run with the objects ``present``."""
    if not (pointer := present.get(POINTERS[name])):
        return None
    folder, _, _ = pointer.address.rpartition("/")
    file = storage.read(pointer.address).decode("utf-8", "replace").strip()
    if not re.fullmatch(r"[\w-][\w.-]{0,200}", file):
        raise ResightError(f"names no checkpoint, but {shown(file)}", where=pointer.address, fix="Save the run again.")
    # Asked for itself where the run saved again after its objects were listed.
    return present.get(f"checkpoints/{file}") or storage.stat(storage.join(folder, file))


def fetch_model(address: str) -> Path:
    """A local copy of the model at ``address``, made anew if that has changed; of a run its best checkpoint, else its
    last, and what describes it.

    Raises:
        ResightError: there is no such model, or it cannot be read.
    """
    address = address.rstrip("/")
    present = objects_of(address)
    if not present:
        raise ResightError("there is no such model", where=address, fix="Name a run or a checkpoint.")
    if any(IS_RECORD.search(name or address) for name in present):
        raise ResightError("is a records folder, and no model", where=address)
    own = address.rpartition("/")[2]
    wanted = {name or own: found for name, found in present.items()}
    if any(pointer in present for pointer in POINTERS.values()):
        wanted = {name: found for name, found in present.items() if name in _RUN}
        for name in (BEST, LAST):
            if found := pointed(present, name):
                wanted[name] = found
                break
    elif not any(map(_MODEL.fullmatch, wanted)):
        raise ResightError("holds no model", where=address, fix="Name a run that has a checkpoint, or a model file.")
    folder = local_folder(address, "models")
    fetch(wanted, folder)
    return folder / own if "" in present else folder


def fetch_config(address: str) -> Path | None:
    """A local copy of the configuration of the run at ``address``, if it has one."""
    found = storage.stat(storage.join(address, "config.toml"))
    folder = local_folder(address, "configs")
    if found is None:
        return None
    fetch({"config.toml": found}, folder)
    return folder / "config.toml"


@contextmanager
def config_at(address: str) -> Iterator[str]:
    """The path of a local copy of the configuration at ``address``; errors in the block tell the address.

    Raises:
        ResightError: there is no such object.
    """
    if not (found := storage.stat(address)):
        what, fix = "there is no such configuration", f"Copy it there: aws s3 cp CONFIG {shlex.quote(address)}"
        if some := storage.find(address, 5):  # it may hold millions
            what = "is a folder, and a configuration is a file"
            fix = f"Name one in it, such as {some[0].address}"
        raise ResightError(what, where=address, fix=fix)
    if found.size > SMALL:
        raise ResightError(f"is too large for a configuration: {found.size:,} bytes", where=address)
    copy = local_folder(address, "configs") / address.rstrip("/").rpartition("/")[2]
    fetch({copy.name: found}, copy.parent)
    with named_as(address, copy):
        yield str(copy)


def fetch_run(address: str, folder: Path) -> None:
    """Copies the run at ``address`` into ``folder``, where it is as if it had been trained there. A copy that was cut
    short goes on.

    Raises:
        ResightError: there is no such run, it has saved nothing yet, or the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ResightError("expected a folder, found a file", where=folder, fix="Choose another with -o.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ETAGS).exists():
        raise ResightError("already holds something", where=folder, fix="Choose another folder with -o.")
    check_place(folder)
    present = objects_of(address)
    if not any(pointer in present for pointer in POINTERS.values()):
        raise ResightError("has saved nothing yet" if present else "there is no such run", where=address)
    checkpoints = {name: found for name in POINTERS if (found := pointed(present, name))}
    others = {name: found for name, found in present.items() if not _IN_STORES.fullmatch(name)}
    fetch(others | checkpoints, folder)
    (folder / ETAGS).unlink()
