"""Checkpoints: one safetensors file, whole or absent.

Tensors are named ``model.*``, ``ema.*`` and ``optimizer.*``; everything else is JSON in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._version import __version__
from ..config.loading import first_faults
from ..config.toml_text import to_toml
from ..config.tree import Config, Fraction, ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.heads import set_norm_eps
from ..detection.model import DetectionModel
from ..dialect import dialect_of, model_config
from ..errors import ResightError
from ..io.files import check_regular, parse_json
from ..io.misplaced import meant
from ..io.outputs import atomic_file
from ..label_map import LabelMap, parse_label_map, to_pbtxt
from .build import build_model

if TYPE_CHECKING:
    from ..tfod.checkpoint.trained import Trained

FORMAT = 1
KEY = "resight"
KINDS = "A model is a run folder, a .safetensors checkpoint, an .onnx, or the folder of another export."
BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.safetensors"  # in a run folder


_ANCHORS, _NUMBER, _SCORE = TypeAdapter(AnchorSettings), TypeAdapter(float | None), TypeAdapter(Fraction | None)


@dataclass(frozen=True)
class ModelMetadata:
    """All that is needed to build and use a model, beside its weights."""

    model: ModelConfig
    label_map: LabelMap
    anchors: AnchorSettings
    norm_eps: float | None = None  # where it is not the architecture's own
    score: float | None = None  # operating point

    @classmethod
    def of(
        cls, model: DetectionModel, config: ModelConfig, label_map: LabelMap, score: float | None = None
    ) -> ModelMetadata:
        return cls(config, label_map, model.anchors, model.norm_eps, score)

    def build(self) -> DetectionModel:
        model = build_model(self.model, len(self.label_map.names), self.anchors)
        if self.norm_eps is not None:
            set_norm_eps(model, self.norm_eps)
        return model

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model.model_dump(),
            "label_map": to_pbtxt(self.label_map),
            "anchors": {"sizes": self.anchors.sizes, "ratios": self.anchors.ratios},
            "norm_eps": self.norm_eps,
            "score": self.score,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelMetadata:
        return cls(
            model_config(data["model"]).of_earlier_version(),
            parse_label_map(data["label_map"]),
            _ANCHORS.validate_python(data["anchors"]),
            _NUMBER.validate_python(data["norm_eps"]),
            _SCORE.validate_python(data["score"]),
        )


@dataclass(frozen=True)
class Checkpoint:
    card: ModelMetadata
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # of the training: step, elapsed seconds, best so far

    @classmethod
    def left_by_tfod(cls, trained: Trained, score: float | None = None) -> Checkpoint:
        """What TFOD trained, as a checkpoint of ours; ``score`` is its operating point, where that is known."""
        model = trained.config.model
        metadata = ModelMetadata(model, trained.label_map, dialect_of(model).default_anchors(model), score=score)
        return cls(metadata, {f"model.{name}": value for name, value in trained.weights.items()}, {})

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix.``, without it."""
        start = prefix + "."
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}

    def weights(self) -> dict[str, Tensor]:
        """The weights to use: averaged where there are such."""
        return {**self.part("model"), **self.part("ema")}


def find_checkpoint(model: str | os.PathLike[str]) -> Path:
    """The checkpoint that ``model`` means: a ``.safetensors`` file, or a run folder's best, else last.

    Raises:
        ResightError: there is none; says what was looked for.
    """
    path = Path(model)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        if (path / "config.toml").exists():
            fix = f"Its training has saved none yet. Go on: resight train --resume -o {shlex.quote(str(path))}"
        else:
            fix = meant(path, "model") or f"A run folder holds {BEST} or {LAST}."
        raise ResightError("holds no checkpoint", where=path, fix=fix)
    if not path.exists():
        raise ResightError("there is no such model", where=path, fix=KINDS)
    if path.suffix == ".onnx":
        raise ResightError("is an exported model, which cannot be trained", where=path, fix="Take the run it is from.")
    if not path.is_file():
        raise ResightError("is neither a file nor a folder", where=path, fix="A model is a run folder or a file.")
    fix = meant(path, "model") or KINDS
    raise ResightError("is not a model", where=path, fix=fix)


def save_checkpoint(path: Path, checkpoint: Checkpoint, config: Config | None = None) -> None:
    """Writes beside ``path``, syncs and renames, so that ``path`` is the old or the new file, never a part of one.

    Raises:
        ResightError: the file cannot be written; the previous one is as it was.
    """
    meta = {"format": FORMAT, "version": __version__, "card": checkpoint.card.to_json(), "state": checkpoint.state}
    if config is not None:
        meta["config"] = to_toml(config)
    tensors = {key: value.detach().to("cpu").contiguous() for key, value in checkpoint.tensors.items()}
    try:
        with atomic_file(path) as partial:
            save_file(tensors, partial, metadata={KEY: json.dumps(meta)})
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
    except (ResightError, SafetensorError) as error:
        reason = error.message if isinstance(error, ResightError) else f"cannot be written: {error}"
        raise ResightError(
            f"the checkpoint {reason}", where=path, fix="The previous checkpoint is as it was."
        ) from error


def load_checkpoint(path: Path, *, tensors: bool = True) -> Checkpoint:
    """
    Args:
        tensors: read them too, and not only what the file says of itself.

    Raises:
        ResightError: the file is missing, damaged or none of ours.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(KEY)
            if described is None:
                raise ResightError("holds weights, but no description of a Resight model", where=path)
            read = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118
    except OSError as error:
        raise ResightError(f"cannot read the checkpoint: {error}", where=path) from error
    except SafetensorError as error:
        fix = "The file is damaged or cut short: use another checkpoint, or train a new run from one (--start)."
        raise ResightError(f"cannot read the checkpoint: {error}", where=path, fix=fix) from error
    try:
        meta = parse_json(described)
        found = meta.get("format") if isinstance(meta, dict) else None
        if found == FORMAT:
            return Checkpoint(ModelMetadata.from_json(meta["card"]), read, dict(meta["state"]))
    except ValidationError as error:
        wrong = first_faults(error)
        if any(item["type"] == "extra_forbidden" for item in error.errors()):
            fix = f"Version {meta.get('version')} of Resight wrote it, this is {__version__}: upgrade."
            raise ResightError(f"the checkpoint is of another version: {wrong}", where=path, fix=fix) from error
        raise ResightError(f"the checkpoint's description is damaged: {wrong}", where=path) from error
    except (ResightError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResightError(f"the checkpoint's description is damaged: {error}", where=path) from error
    raise ResightError(f"is of format {found}, this version reads {FORMAT}", where=path, fix="Upgrade Resight.")


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
