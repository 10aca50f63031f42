"""The two dialects behind one contract, and the configuration's tree completed by the model's dialect.

Outside of ``fpn/`` and ``tfod/`` no other module asks which dialect a model is of.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .config.loading import keys_of, load
from .config.tree import TFOD_MODELS, Config, DataConfig, ModelConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from onnx import ModelProto
    from torch import Tensor

    from .detection.anchors import AnchorSettings
    from .detection.boxes import Instances
    from .detection.model import DetectionModel
    from .detection.parity import Parity, Stages
    from .input.augment import Sample
    from .input.dataset import TrainingSet, Transform
    from .records.example import Record
    from .records.reader import RecordSplit
    from .tfod.checkpoint.folder import TfodModel


class NetworkInput(Protocol):
    """How an image becomes the input of an exported network, without PyTorch; pydantic's dump of it is stored."""

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """``[H, W, 3]`` uint8 RGB -> the inputs of the network by their names."""

    def model_dump(self) -> dict[str, Any]: ...


class Dialect(Protocol):
    """What differs between the two dialects; ``fpn/dialect.py`` and ``tfod/dialect.py`` are the two implementations.

    What differs in their configuration is in their ``ModelConfig``.
    """

    bfloat16: bool  # trains in it where the GPU has it, unless something else is asked
    classes_by_id: bool  # class indices are in the order of the label map's ids
    evaluates_losses: bool  # an evaluation within training takes the losses too
    export_formats: tuple[str, ...]  # of ``resight export``
    input_dtype: torch.dtype  # of an image on its way into training
    left_out: str  # by an evaluation, beside boxes without numbers; the beginning of a phrase
    pads_batches: bool  # to the largest image of the batch, and not to one size
    publishes_weights: bool  # ``model.start = "pretrained"`` has weights to begin with
    size_remedy: str  # for small objects beside a larger network input, with ``{}`` for ``model.max_size``
    stronger_models: dict[str, str]  # worth their time on a GPU, by the model that they would replace

    def check_name(self, name: str) -> None:
        """
        Raises:
            ResightError: no model of the dialect is called ``name``.
        """

    def build(self, config: ModelConfig, num_classes: int, anchors: AnchorSettings | None) -> DetectionModel:
        """The model with random weights; ``num_classes`` is without background."""

    def default_anchors(self, config: ModelConfig) -> AnchorSettings:
        """The anchors of the model where they are not fitted to a data set."""

    def level_strides(self, config: ModelConfig) -> list[int]:
        """Nominal strides of the feature maps that carry anchors."""

    def fits_anchors(self, config: ModelConfig) -> bool:
        """Whether the anchors are fitted to the training boxes: not where a trained RPN comes with its own."""

    def transform(self, config: Config, classes: Sequence[str], resized: bool = True) -> Transform:
        """How an image and its boxes become the network's input. The image may be left to the model to resize if it
        need not be ``resized``: where the model's pixels are equal, and less is handed over."""

    def ground_truth(
        self, record: Record, labels: np.ndarray, model: ModelConfig, where: str
    ) -> tuple[Record, np.ndarray]:
        """The record as it is evaluated, with class indices ``[N]`` of its boxes; -1 is no known class.

        Raises:
            ResightError: a box of the record, which is at ``where``, is refused.
        """

    def to_sample(self, record: Record, labels: np.ndarray, image: np.ndarray) -> Sample:
        """The record with its decoded ``image`` ``[H, W, 3]`` uint8, not resized."""

    def own_metrics(self, summary: Mapping[str, float | None], losses: Mapping[str, float]) -> dict[str, float | None]:
        """The numbers of ``metrics.json`` under the dialect's name, beside the common keys."""

    def prepare_plan(self, config: Config, classes: Sequence[str], train: RecordSplit) -> tuple[Config, list[str]]:
        """The configuration with what follows from the classes, and the notes of the plan.

        Raises:
            ResightError: the configuration names classes that are none.
        """

    def trained_boxes(self, split: RecordSplit) -> tuple[np.ndarray, str]:
        """``[M]`` bool: which boxes of the index training takes; and what is wrong with the others."""

    def to_onnx(self, model: DetectionModel) -> ModelProto:
        """The graph of the model: ``image`` uint8 ``[1, H, W, 3]`` RGB -> detections; its stages are named."""

    def to_body(self, model: DetectionModel) -> ModelProto:
        """The same graph behind the resizing: what :meth:`exported_input` makes of an image -> detections."""

    def exported_input(self, model: DetectionModel) -> NetworkInput:
        """The resizing, padding and normalisation of the model, as :func:`stored_input` reads it again."""

    def proposal_counts(self, model: DetectionModel) -> tuple[int | None, int]:
        """In inference: how many boxes of a level go into the suppression of the first stage, None where that is not
        limited, and how many of an image leave it at most."""

    def limit_proposals(self, model: DetectionModel, before: int | None, after: int) -> ModelConfig | None:
        """Sets those counts in ``model``; returns its configuration where that holds them."""

    def compare_stages(self, parity: Parity, model: DetectionModel, pixels: Tensor, stages: Stages) -> Instances:
        """Adds to ``parity`` how far the ``stages`` of an exported graph for an image ``[3, H, W]`` are from what the
        model makes of it; returns what the graph's detections must be."""


def dialect_of(model: ModelConfig) -> Dialect:
    """The dialect of a model."""
    if model.dialect == "tfod":
        from .tfod import dialect as tfod

        return tfod
    from .fpn import dialect as fpn

    return fpn


def anchors_for(model: ModelConfig, sizes: np.ndarray, centers: np.ndarray) -> AnchorSettings:
    """The anchors that a training of ``model`` begins with: its own, or those fitted to the training boxes, whose sizes
    ``[N, 2]`` (width, height) and centres ``[N, 2]`` are in pixels of the network's input."""
    from .detection.anchors import fit_anchors

    dialect = dialect_of(model)
    own = dialect.default_anchors(model)
    if not dialect.fits_anchors(model):
        return own
    return fit_anchors(sizes, centers, dialect.level_strides(model), per_level=len(own.sizes[0]))


def could_fit_anchors(model: ModelConfig) -> bool:
    """Whether ``model.anchors = "fit"`` would change the anchors: weights of a detector come with their own."""
    return model.anchors != "fit" and dialect_of(model).fits_anchors(model.model_copy(update={"anchors": "fit"}))


def left_by_tfod(path: Path) -> TfodModel | None:
    """The checkpoint that TFOD left at ``path``, with its configuration where that is there; None for anything else."""
    name = path.name.removesuffix(".index")
    folders = (path, path / "checkpoint") if path.is_dir() else ()
    if not any(any(folder.glob("*.index")) for folder in folders) and not (path.parent / f"{name}.index").is_file():
        return None
    from .tfod.checkpoint.folder import find_tfod

    return find_tfod(path)


def records_left_by_tfod(model: Path) -> DataConfig | None:
    """The records that the `pipeline.config` beside a model names; None where there is none."""
    from .tfod.checkpoint.folder import find_pipeline
    from .tfod.pipeline.config import records_of

    return records_of(pipeline) if (pipeline := find_pipeline(model)) else None


def training_set(split: RecordSplit, classes: Sequence[str], config: Config, *, resized: bool = True) -> TrainingSet:
    """The records of a split as training sees them; images that the model would resize on its device as they are, if
    they need not be ``resized``.

    Raises:
        ResightError: the configuration has augmentations of the other dialect.
    """
    from .input.dataset import TrainingSet

    return TrainingSet(split, dialect_of(config.model).transform(config, classes, resized), config.train.seed)


def own_lines(metrics: Mapping[str, Any]) -> str:
    """What the report of a ``metrics.json`` says in place of the losses; "" for nothing."""
    if "tfod" not in metrics:
        return ""
    from .tfod.metrics import tfod_table

    return tfod_table(metrics["tfod"])


def tree_of(values: Mapping[str, Any]) -> type[Config]:
    """The tree of the configuration for ``values``, by its ``model.name``."""
    section = values.get("model")
    if isinstance(section, Mapping) and section.get("name") in TFOD_MODELS:
        from .tfod.config import TfodTree

        return TfodTree
    from .fpn.config import FpnTree

    return FpnTree


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The section ``model`` of the configuration; raises pydantic's ValidationError."""
    return type(tree_of({"model": values}).model_fields["model"].default).model_validate(values)


def all_keys() -> list[str]:
    """Every key of the configuration, ``train.steps``, those of either dialect among them."""
    from .fpn.config import FpnTree
    from .tfod.config import TfodTree

    return list(dict.fromkeys([*keys_of(TfodTree), *keys_of(FpnTree)]))


def load_config(path: str | os.PathLike[str] | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the TOML file ``path``, then ``overrides`` of the form ``{"train.steps": 100}``.

    Raises:
        ResightError: the file cannot be read or parsed, a key is unknown or a value is wrong; all are listed.
    """
    return load(path, overrides, tree_of, all_keys)


def load_settings(path: str | os.PathLike[str], data: str = "") -> Config:
    """The configuration in a TOML file, or in a `pipeline.config` of which no path has to exist.

    Args:
        data: what is looked at in the place of a `pipeline.config`'s own records.

    Raises:
        ResightError: it cannot be read, or something in it is wrong or not supported.
    """
    from .tfod.pipeline.config import examine_pipeline, is_pipeline

    if not is_pipeline(path):
        return load_config(path)
    pipeline = examine_pipeline(path, data=data)
    if pipeline.refused:
        pipeline.check()
    return load_config(None, pipeline.overrides)


def stored_input(values: Mapping[str, Any], tfod: Mapping[str, Any] | None) -> NetworkInput:
    """What ``values`` of an export say of its network's input; raises pydantic's ValidationError.

    Args:
        tfod: options of TFOD's dialect; None: the model is of the FPN dialect.
    """
    if tfod is not None:
        from .tfod.network_input import NetworkInput as OfTfod

        return OfTfod.model_validate(values)
    from .fpn.network_input import NetworkInput as OfFpn

    return OfFpn.model_validate(values)


def exported_config(tfod: Mapping[str, Any] | None, **known: Any) -> ModelConfig:
    """The section ``model`` as far as an export tells of it.

    Args:
        tfod: options of TFOD's dialect; None: the model is of the FPN dialect, with the keys ``known``.
    """
    return model_config(known if tfod is None else {"name": TFOD_MODELS[0], "tfod": dict(tfod)})
