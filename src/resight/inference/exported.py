"""What the detectors of exported models share, whatever runs them."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .._version import __version__
from ..config.defaults import Precision
from ..config.loading import first_faults
from ..config.tree import Fraction, ModelConfig
from ..dialect import dialect_of, exported_config
from ..errors import ResightError
from ..records.example import Record
from ..types import Detections
from .detector import Detector

SAVED_MODEL = "saved_model.pb"  # in the folder of one
OPENVINO = "model.xml"  # of OpenVINO, in its folder


class ExportedDetector(Detector):
    """The same calls as a :class:`Detector`; losses and NMS are not for it to tell or change. ``weights``: the digest
    of those that were exported, where the export tells."""

    weights: str | None = None

    def digest(self) -> str | None:
        return self.weights

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Everything that the graph answers for the image, by name."""
        raise NotImplementedError

    def read(self, found: Mapping[str, np.ndarray], image: np.ndarray) -> Detections:
        """The detections among the outputs, which are the FPN graph's or TFOD's."""
        height, width = image.shape[:2]
        if "detection_boxes" not in found:
            return Detections(found["boxes"], found["scores"], found["labels"], self.classes, width, height)
        count, sides = int(found["num_detections"][0]), np.array([width, height, width, height], np.float32)
        boxes = found["detection_boxes"][0, :count, [1, 0, 3, 2]].T * sides
        labels = found["detection_classes"][0, :count].astype(np.int64) - 1
        return Detections(boxes, found["detection_scores"][0, :count], labels, self.classes, width, height)

    def detect_whole(self, image: np.ndarray) -> Detections:
        return self.read(self.outputs(image), image)

    def _detect_wholes(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return [self.detect_whole(image) for image in images]  # the graph takes one

    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        if iou is not None or class_agnostic:
            raise ResightError(
                "NMS is inside an exported model and cannot be changed", where=self.name, fix="Use the run it is from."
            )

    def set_precision(self, precision: Precision) -> None:
        if precision != self.precision:
            message = f"an exported model computes in {self.precision} and not in {precision}"
            raise ResightError(message, where=self.name, fix="Use the run it is from.")

    def losses(self, record: Record, labels: np.ndarray, image: np.ndarray) -> None:
        return None


class Card(BaseModel):
    """What Resight notes with an exported model, as far as it is read again."""

    model_config = ConfigDict(frozen=True, strict=True)

    classes: tuple[str, ...]
    score: Fraction | None
    tile: int = Field(0, ge=0)
    detections: int = Field(100, gt=0)
    tfod: dict[str, Any] | None = None
    input_type: str = ""
    digest: str | None = None
    input: dict[str, Any] = {}  # of the network, where resizing is not in the graph

    @cached_property
    def model(self) -> ModelConfig:
        """The model's configuration, as far as the export tells."""
        return exported_config(self.tfod, tile=self.tile, detections=self.detections)


def find_saved_model(path: Path) -> Path | None:
    """The SavedModel that ``path`` is, or that it holds beside no checkpoint; None where there is none."""
    if (path / SAVED_MODEL).is_file():
        return path
    inside = path / "saved_model"
    return inside if (inside / SAVED_MODEL).is_file() and not (path / "checkpoint").exists() else None


def find_openvino(path: Path) -> Path | None:
    """The ``model.xml`` that ``path`` is, or that it holds; None where there is none."""
    file = path / OPENVINO if path.name != OPENVINO else path
    return file if file.is_file() else None


def is_exported(model: str) -> bool:
    """Whether ``model`` is an exported one, by its name or what lies in it."""
    return model.endswith(".onnx") or bool(find_openvino(Path(model)) or find_saved_model(Path(model)))


def card_of(detector: Detector, **more: object) -> str:
    """What :func:`read_card` reads, ``more`` of it, and what the model was, as JSON."""
    card = {
        "classes": list(detector.classes),
        "score": detector.score if detector.has_score else None,
        "detections": detector.most.image,
        "digest": detector.digest(),
        "proposals": dialect_of(detector.config).proposal_counts(detector.model),
        "version": __version__,
    }
    return json.dumps({**card, **more}, indent=1, ensure_ascii=False) + "\n"


def graph_card(detector: Detector, **more: object) -> str:
    """:func:`card_of` for a graph that has no files beside it which say of what dialect it is."""
    config = detector.config
    return card_of(detector, dialect=config.dialect, tfod=config.model_dump()["tfod"], tile=detector.tile, **more)


def read_card(text: str, where: object) -> Card:
    """
    Args:
        text: JSON.
        where: it was found.

    Raises:
        ResightError: it is damaged; says how.
    """
    try:
        card = Card.model_validate_json(text)
        _ = card.model  # its options are looked at now
        return card
    except ValidationError as error:
        message = f"what Resight noted with the model is damaged: {first_faults(error)}"
        raise ResightError(message, where=where, fix="Export the model again.") from error
