"""A SavedModel with TFOD's signature as a detector, whoever exported it."""

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from ..dialect import exported_config, load_config
from ..errors import ResightError, listed
from ..io.files import SMALL, check_regular, read_text
from ..label_map import LabelMap, read_label_map
from ..records.example import Record, encode_example
from ..tfod.checkpoint.folder import PIPELINE
from ..tfod.checkpoint.reader import KINDS, STRING
from ..tfod.pipeline.config import Pipeline, examine_pipeline
from .exported import SAVED_MODEL, Card, ExportedDetector, read_card
from .tensorflow_session import Session

# An export's files; the last two are what a SavedModel itself does not hold.
EXPORT = ("saved_model", "checkpoint", "pipeline.config", "label_map.pbtxt", "resight.json")
LABEL_MAP, CARD = EXPORT[3:]
NEEDED = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")


class SavedModelDetector(ExportedDetector):
    engine = "TensorFlow"
    session: Session
    input_type: str

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        ((name, info),) = self.session.inputs.items()
        return self.session.run(name, self._given(image, info.dtype))

    def _given(self, image: np.ndarray, kind: int) -> np.ndarray | bytes:
        """The image as the model takes it: an array, a PNG, or a ``tf.train.Example`` with a PNG."""
        if kind != STRING:
            return image[None].astype(KINDS[kind])
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        if self.input_type != "tf_example":
            return stream.getvalue()
        height, width = image.shape[:2]
        none, boxes = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
        record = Record(stream.getvalue(), "png", "", "", width, height, boxes, (), none, none, none, none, none)
        return encode_example(record)


def load_saved_model(
    folder: Path, labels: str | os.PathLike[str] | None = None, threads: int | None = None
) -> SavedModelDetector:
    """
    Args:
        labels: label map; by default the ``label_map.pbtxt`` in the model's assets, in it or beside it, else the one
            that the `pipeline.config` beside it names.
        threads: of the CPU; by default one a core.

    Raises:
        ResightError: TensorFlow is missing, the model is damaged, or has not the signature of a TFOD detector.
    """
    check_regular(folder / SAVED_MODEL)
    session = Session(folder, threads)
    missing = [name for name in NEEDED if name not in session.outputs]
    if missing or len(session.inputs) != 1:
        raise ResightError(f"is not a detector as TFOD exports it: no output {listed(missing)}", where=folder)
    card = card_beside(folder)
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
    boxes = session.outputs["detection_boxes"]
    shape = [side.size for side in boxes.tensor_shape.dim] if boxes else []
    most = {"detections": shape[1], "detections_per_class": shape[1]} if len(shape) == 3 and shape[1] > 0 else {}
    config = load_config(None, pipeline.overrides).model if pipeline else exported_config(most)
    detector = SavedModelDetector(names, card.score, str(folder), config)
    detector.session, detector.input_type, detector.weights = session, card.input_type, card.digest
    return detector


def card_beside(folder: Path) -> Card:
    """What Resight noted beside the SavedModel ``folder`` when it exported that; nothing where another did."""
    path = folder.parent / CARD
    return read_card(read_text(path, SMALL), path) if path.is_file() else Card(classes=(), score=None)


def _pipeline_beside(folder: Path) -> Pipeline | None:
    """The configuration that TFOD exports with the model, where it is there and of a model that Resight has."""
    path = folder.parent / PIPELINE
    with suppress(ResightError):  # the model runs without it
        if path.is_file():
            return examine_pipeline(path, model_only=True).check()
    return None


def written_before(out: Path) -> Callable[[Path], bool]:
    """Tells the files of an earlier export in ``out`` from others."""
    ours = EXPORT if (out / CARD).is_file() else ()
    return lambda path: path.name in ours
