"""A SavedModel with TFOD's signature as a detector, whoever exported it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..boxes import Detections
from ..config import TfodConfig, load_config
from ..data.example import Record, encode_example
from ..detector import Detector
from ..errors import ResightError, listed
from ..labels import LabelMap, read_label_map
from ..tfod.folder import PIPELINE
from ..tfod.pipeline_config import Pipeline, read_pipeline
from .tensorflow_session import STRING, TYPES, Session

FILE = "saved_model.pb"
# An export's files; the last two are what a SavedModel itself does not hold.
EXPORT = ("saved_model", "checkpoint", "pipeline.config", "label_map.pbtxt", "resight.json")
LABEL_MAP, CARD = EXPORT[3:]
NEEDED = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")


class SavedModelDetector(Detector):
    """The same calls as a :class:`~resight.detector.Detector`; losses and NMS are not for it to tell or change."""

    def __init__(self, session: Session, classes: tuple[str, ...], score: float | None, input_type: str) -> None:
        super().__init__(classes, score, str(session.folder))
        self.session, self.input_type = session, input_type
        ((self.input, info),) = session.inputs.items()
        self.kind = info.dtype

    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        if iou is not None or class_agnostic:
            raise ResightError(
                "NMS is inside an exported model and cannot be changed", where=self.name, fix="Use the run it is from."
            )

    def detect_whole(self, image: np.ndarray) -> Detections:
        found = self.session.run(self.input, self._given(image))
        return detections_of(found, self.classes, image.shape[1], image.shape[0])

    def losses(self, record: Record, labels: np.ndarray, image: np.ndarray) -> None:
        return None

    def _given(self, image: np.ndarray) -> np.ndarray | bytes:
        """The image as the model takes it: an array, a PNG, or a ``tf.train.Example`` with a PNG."""
        if self.kind != STRING:
            return image[None].astype(TYPES[self.kind])
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        if self.input_type != "tf_example":
            return stream.getvalue()
        height, width = image.shape[:2]
        none = np.zeros(0, np.int64)
        boxes = np.zeros((0, 4), np.float32)
        return encode_example(
            Record(stream.getvalue(), "png", "", "", width, height, boxes, (), none, none, none, none, none)
        )


def detections_of(found: Mapping[str, np.ndarray], classes: tuple[str, ...], width: int, height: int) -> Detections:
    """TFOD's outputs for one image ``width`` x ``height`` in Resight's terms."""
    count = int(found["num_detections"][0])
    boxes = found["detection_boxes"][0, :count, [1, 0, 3, 2]].T * np.array([width, height, width, height], np.float32)
    labels = found["detection_classes"][0, :count].astype(np.int64) - 1
    return Detections(boxes, found["detection_scores"][0, :count], labels, classes, width, height)


def find_saved_model(path: Path) -> Path | None:
    """The SavedModel that ``path`` is, or that it holds beside no checkpoint; None where there is none."""
    if (path / FILE).is_file():
        return path
    inside = path / "saved_model"
    return inside if (inside / FILE).is_file() and not (path / "checkpoint").exists() else None


def load_saved_model(folder: Path, labels: str | os.PathLike[str] | None = None) -> SavedModelDetector:
    """
    Args:
        labels: label map; by default the ``label_map.pbtxt`` in the model's assets, in it or beside it, else the one
            that the `pipeline.config` beside it names.

    Raises:
        ResightError: TensorFlow is missing, the model is damaged, or has not the signature of a TFOD detector.
    """
    session = Session(folder)
    missing = [name for name in NEEDED if name not in session.outputs]
    if missing or len(session.inputs) != 1:
        raise ResightError(f"is no detector as TFOD exports it: no output {listed(missing)}", where=folder)
    card: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        card = json.loads((folder.parent / CARD).read_text(encoding="utf-8"))
    pipeline = _pipeline_beside(folder)
    if labels is None:
        places = (folder / "assets", folder, folder.parent)
        there = next((place / LABEL_MAP for place in places if (place / LABEL_MAP).is_file()), None)
        labels = there or (pipeline.label_map or None if pipeline else None)
    stated = session.outputs.get("detection_multiclass_scores") or session.outputs.get("raw_detection_scores")
    count = max(stated.tensor_shape.dim[-1].size - 1, 0) if stated else 0
    names = (read_label_map(labels) if labels is not None else LabelMap(())).by_id(count).names
    if not names:
        raise ResightError("does not say how many classes it has", where=folder, fix="Name them with --labels MAP.")
    detector = SavedModelDetector(session, names, card.get("score"), card.get("input_type", ""))
    detector.tfod = load_config(None, pipeline.overrides).model.tfod if pipeline else TfodConfig()
    return detector


def _pipeline_beside(folder: Path) -> Pipeline | None:
    """The configuration that TFOD exports with the model, where it is there and of a model that Resight has."""
    path = folder.parent / PIPELINE
    with suppress(ResightError):  # the model runs without it
        if path.is_file():
            return read_pipeline(path, model_only=True)
    return None


def written_before(out: Path) -> Callable[[Path], bool]:
    """Tells the files of an earlier export in ``out`` from others."""
    ours = EXPORT if (out / CARD).is_file() else ()
    return lambda path: path.name in ours
