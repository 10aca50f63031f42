"""What TFOD leaves on disk: exported models, folders of a training, checkpoints."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from ...config.defaults import PIPELINE as PIPELINE
from ...errors import ResightError
from ...io.textproto import parse, read
from ...records.index import INDEX

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TfodModel:
    """A checkpoint by its prefix (`.../ckpt-0`) and the configuration beside it, where there is one."""

    folder: Path
    prefix: Path
    pipeline: Path | None

    def files(self) -> dict[str, Path]:
        """Its files by the names under which a copy of them is a model, too."""
        checkpoint = (file for file in self.prefix.parent.iterdir() if file.stem == self.prefix.name)
        named = {f"checkpoint/{file.name}": file for file in checkpoint}
        return named | ({PIPELINE: self.pipeline} if self.pipeline else {})


def find_tfod(path: str | Path) -> TfodModel | None:
    """The model that ``path`` is, or None where it is nothing of TFOD's.

    Args:
        path: an exported model or one of the zoo's (`checkpoint/ckpt-0.index`, `pipeline.config`), the folder of a
            training (its latest `ckpt-N.index`), a folder `checkpoint/`, or a prefix.
    """
    prefix = find_checkpoint_prefix(path)
    if prefix is None:
        return None
    folder = prefix.parent.parent if prefix.parent.name == "checkpoint" else prefix.parent
    pipelines = [place / PIPELINE for place in (Path(path), prefix.parent, folder) if (place / PIPELINE).is_file()]
    return TfodModel(folder, prefix, pipelines[0] if pipelines else None)


def find_pipeline(path: str | Path) -> Path | None:
    """The `pipeline.config` of a model that TFOD left, a SavedModel of its too; None where there is none."""
    if left := find_tfod(path):
        return left.pipeline
    return next((file for place in (Path(path), Path(path).parent) if (file := place / PIPELINE).is_file()), None)


def find_checkpoint_prefix(path: str | Path) -> Path | None:
    """The prefix that ``path`` names, or the latest of the folder ``path`` or of the `checkpoint` in it, or None."""
    path = Path(path)
    if path.is_dir():
        return next(filter(None, map(_latest, (path, path / "checkpoint"))), None)
    name = path.name.removesuffix(".index")
    return path.with_name(name) if name and path.with_name(f"{name}.index").is_file() else None


def _latest(folder: Path) -> Path | None:
    """What the file `checkpoint` of TensorFlow says, else the `ckpt-N` (or any other) with the highest number."""
    found = {index.name.removesuffix(".index") for index in folder.glob("*.index") if index.name != INDEX}
    if not found:
        return None
    state = folder / "checkpoint"
    if state.is_file():
        try:
            fields = parse(read(state), state)
        except ResightError as error:
            log.warning("%s: cannot be read; using the highest-numbered checkpoint: %s", state, error)
            fields = []
        # Only the name: the folder may have been moved since.
        names = [Path(str(field.value)).name for field in fields if field.name == "model_checkpoint_path"]
        if names and names[0] in found:
            return folder / names[0]
        if names:
            log.warning("%s: names %s, which is not there; using the highest-numbered checkpoint", state, names[0])
    return folder / max(found, key=lambda name: (int((re.findall(r"-(\d+)$", name) or [-1])[0]), name))
