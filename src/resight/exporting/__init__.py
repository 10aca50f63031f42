"""``resight export``: a trained model in a format that needs no Resight to run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..arguments import check_types, kinds_of
from ..boxes import Detections
from ..config import TFOD_MODELS, ModelConfig
from ..detector import Detector, load
from ..errors import ResightError, counted, listed, nearest
from ..outputs import check_file, check_output, whole_file, whole_folder
from ..random_streams import numpy_stream
from .saved_model_detector import written_before

log = logging.getLogger(__name__)

FORMATS = ("onnx", "savedmodel")
INPUT_TYPES = ("image_tensor", "encoded_image_string_tensor", "tf_example", "float_image_tensor")  # TFOD's names
SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of the score, and pixels per 100 px of the image's longer side
# One rounding can turn a decision of NMS between two boxes that overlap by all but its threshold.
UNMATCHED_TOLERANCE = 0.01  # of the detections
COMPARED_SCORE = 0.05
NO_ORDER = 1e-5  # scores closer than this have no order, and NMS may take either box; below it all are
MOST = 100  # detections an image has at most, where the model does not say
ENOUGH = 20  # detections for a comparison to say something


@dataclass(frozen=True)
class Parity:
    """How close two models are on a set of images.

    Args:
        detections: compared, of score .05 or more.
        unmatched: detections of one model that the other has not, at any score within the tolerance.
        score, box: largest differences of the matched: of scores, and of corners in pixels per 100 px of the image.
        may_be_none: the models have a threshold of their own, or know nothing yet, so both may rightly find nothing.
    """

    images: int
    detections: int
    unmatched: int
    score: float
    box: float
    may_be_none: bool = False

    @property
    def ok(self) -> bool:
        alone = self.unmatched <= UNMATCHED_TOLERANCE * self.detections
        return (
            (self.detections > 0 or self.may_be_none)
            and alone
            and self.score <= SCORE_TOLERANCE
            and self.box <= BOX_TOLERANCE
        )

    def text(self) -> str:
        verdict = "equal within the tolerance" if self.ok else "NOT equal within the tolerance"
        return (
            f"{self.detections} detections in {self.images} images: largest difference of a score {self.score:.1e} "
            f"(tolerance {SCORE_TOLERANCE:.0e}), of a corner {self.box:.1e} % of the image (tolerance "
            f"{BOX_TOLERANCE:.0e}), {self.unmatched} without a partner (tolerance {UNMATCHED_TOLERANCE:.0%}): {verdict}"
        )


@dataclass(frozen=True)
class ExportReport:
    out: str
    model: str  # what of it is the exported model
    parity: Parity
    megabytes: float

    @property
    def ok(self) -> bool:
        return self.parity.ok

    def text(self) -> str:
        return f"{self.out}: {self.megabytes:.1f} MB\n{self.parity.text()}"


def export(
    model: str | os.PathLike[str],
    format: str = "onnx",
    out: str | os.PathLike[str] = "model.onnx",
    *,
    force: bool = False,
    labels: str | os.PathLike[str] | None = None,
    input_type: str = INPUT_TYPES[0],
    detections: int | None = None,
) -> ExportReport:
    """Writes ``model`` as ``format`` to ``out`` and compares the two on images of several sizes.

    Args:
        format: ``onnx``, or for the TFOD dialect ``savedmodel``: the folder that TFOD's own export writes.
        input_type: what a client sends to a SavedModel.
        detections: the most detections of an image; by default the model's own number.

    Raises:
        ResightError: the format is not known, the model cannot be exported, or ``out`` cannot be written.
    """
    check_types(locals(), kinds_of(export), "export")
    for value, known, option in ((format, FORMATS, "format"), (input_type, INPUT_TYPES, "input-type")):
        if value not in known:
            fix = nearest(value, known) or f"It is one of {listed(known)}."
            raise ResightError(f"unknown {option.replace('-', ' ')} '{value}'", where=f"--{option}", fix=fix)
    if format == "savedmodel":
        check_output(out, force, written_before(Path(out)))
    elif input_type != INPUT_TYPES[0]:
        raise ResightError("is for a SavedModel alone", where="--input-type", fix="Add --format savedmodel.")
    elif Path(out).suffix != ".onnx":
        raise ResightError("the name of an ONNX model ends in .onnx", where=out)
    else:
        with _extra(format):
            from .onnx_model import is_ours

            check_file(out, force, is_ours)
    detector = load(model, "cpu", labels=labels, detections=detections)
    if not hasattr(detector, "model"):
        raise ResightError("is an exported model already", where=model, fix="Export the run it is from.")
    tfod = getattr(detector.model, "config", ModelConfig()).tfod
    if format == "savedmodel" and tfod is None:
        raise ResightError(
            f"only {listed(TFOD_MODELS)} can be a SavedModel", where=model, fix="Choose --format onnx for this model."
        )
    most = detector.most.image
    log.info("writing %s, then comparing it with the model", out)
    # Nothing lies under its name before it was compared.
    with _extra(format):
        if format == "savedmodel":
            from .saved_model import write_export

            with whole_folder(out, force, written_before(Path(out))) as folder:
                write_export(detector, folder, input_type)
                parity = compare(detector, load(folder / "saved_model"), probe_images(), most)
        else:
            from .onnx_export import write_onnx
            from .onnx_model import load_onnx

            with whole_file(out) as file:
                write_onnx(detector, file)
                parity = compare(detector, load_onnx(file), probe_images(), most)
    place = Path(out) / "saved_model" if format == "savedmodel" else Path(out)
    if tfod and tfod.score > 0:
        parity = replace(parity, may_be_none=True)
    files = [file for file in place.rglob("*") if file.is_file()] or [place]
    return ExportReport(str(out), str(place), parity, sum(file.stat().st_size for file in files) / 1e6)


@contextmanager
def _extra(format: str) -> Iterator[None]:
    """Names the extra to install where an import in the block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = {"savedmodel": "tensorflow"}.get(format, format)
        fix = f"pip install 'resight[{extra}]'"
        raise ResightError(f"needs {error.name}", where=f"--format {format}", fix=fix) from error


def probe_images() -> list[np.ndarray]:
    """Images of several sizes on which two models are compared: coloured rectangles on noise, and a blank one."""
    images = []
    for number, (height, width) in enumerate([(240, 320), (480, 704), (400, 300), (333, 500), (97, 211)]):
        draw = numpy_stream(0, "probe image", number)
        image = draw.normal(128, 25, (height, width, 3))
        for _ in range(12):
            y, x = draw.integers(0, height - 16), draw.integers(0, width - 16)
            h, w = draw.integers(8, max(height // 3, 9)), draw.integers(8, max(width // 3, 9))
            image[y : y + h, x : x + w] = draw.integers(0, 256, 3)
        images.append(image.clip(0, 255).astype(np.uint8))
    return [*images, np.zeros((120, 160, 3), np.uint8)]


def compare(first: Detector, second: Detector, images: list[np.ndarray], most: int = MOST) -> Parity:
    """Matches the detections of two models one to one: same class, nearest box among those still free.

    Where the first finds hardly anything of score .05, what it finds at lower scores is compared, down to 1e-5.
    """
    # Tiles are no part of a graph.
    log.info("comparing the detections of both in %s", counted(len(images), "image"))
    found = [(first.detect_whole(image), second.detect_whole(image), max(image.shape[:2])) for image in images]
    many = sum(len(a.above(COMPARED_SCORE)) for a, _, _ in found) >= ENOUGH
    least = COMPARED_SCORE if many else NO_ORDER
    compared = unmatched = 0
    worst_score = worst_box = 0.0
    for a, b, side in found:
        for one, other in ((a, b), (b, a)):
            scores, boxes, alone = _differences(one.above(least), other, side, most)
            compared += len(scores) if one is a else 0
            unmatched += alone
            worst_score, worst_box = max([worst_score, *scores]), max([worst_box, *boxes])
    may_be_none = any(len(a) for a, _, _ in found) and not any(len(a.above(NO_ORDER)) for a, _, _ in found)
    return Parity(len(images), compared, unmatched, worst_score, worst_box, may_be_none)


def _differences(one: Detections, other: Detections, side: int, most: int) -> tuple[list[float], list[float], int]:
    free = np.ones(len(other), bool)
    scores, boxes, alone = [], [], 0
    for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
        distance = np.abs(other.boxes - box).max(1, initial=0) / side * 100 + np.abs(other.scores - score)
        distance[~(free & (other.labels == label))] = np.inf
        if not len(distance) or distance.min() > 1:
            # Of two all but equal scores at the end of a full list, either may be the one that was cut off.
            cut_off = len(other) == most and score <= other.scores.min() + SCORE_TOLERANCE
            alone += not cut_off
            continue
        partner = int(distance.argmin())
        free[partner] = False
        scores.append(abs(float(other.scores[partner] - score)))
        boxes.append(float(np.abs(other.boxes[partner] - box).max()) / side * 100)
    return scores, boxes, alone
