"""A digest of a model's files, by which a model is known again wherever it lies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..dialect import left_by_tfod
from ..errors import ResightError, reading
from ..io.files import open_file
from ..io.object_store import ETAGS, is_remote


def fingerprint(*files: str | os.PathLike[str]) -> str:
    """A digest of a model, as :func:`resight.load` takes it: of a run its checkpoint, of an export or of a folder all
    of its files; and of other files that decide what it finds. Raises ResightError: it is not there."""
    digest = hashlib.sha256()
    for file in files:
        for path in files_of(file):
            with open_file(path) as opened, reading(path):
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def files_of(model: str | os.PathLike[str]) -> list[Path]:
    """The files of a model that decide what it finds; of one in a store, those of its local copy. Raises ResightError:
    it is not there."""
    if is_remote(model):
        from .remote import fetch_model

        model = fetch_model(model)
    path = Path(model)
    if (path / "checkpoints").is_dir():
        from .checkpoints import find_checkpoint

        path = find_checkpoint(path)
    if left := left_by_tfod(path):
        return sorted(left.files().values())
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and file.name != ETAGS)
    if not path.exists():
        raise ResightError("there is no such model", where=path, fix="Name a run folder or a checkpoint.")
    beside = sorted(path.parent.glob("*")) if path.suffix in (".onnx", ".xml") else []
    weights = (f"{path.name}.data", f"{path.name}_data", f"{path.stem}.bin")  # ONNX's and OpenVINO's
    return [path, *(file for file in beside if file.name in weights)]
