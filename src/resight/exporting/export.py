"""``resight export``: a trained model in a format that needs no Resight to run."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import check_types
from ..config.defaults import MAX_AP_LOSS, ExportFormat, ExportPrecision, InputType, Tuning
from ..config.tree import TFOD_MODELS
from ..detection.stages import STAGE
from ..dialect import dialect_of
from ..errors import ResightError, counted, listed
from ..inference.detector import Detector, check_share, load
from ..inference.exported import OPENVINO, ExportedDetector, card_of
from ..io.outputs import atomic_file, atomic_folder, check_file, check_output
from ..random_streams import numpy_stream
from .trial import Trial
from .tune import tune as tune_proposals

if TYPE_CHECKING:
    from ..detection.parity import Parity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What was written to ``out``, of which ``model`` is the exported model, and how close it is to the original."""

    out: str
    model: str
    parity: Parity
    megabytes: float
    measured: str = ""  # what was gained by fewer proposals or 8 bits, and what it costs

    @property
    def ok(self) -> bool:
        return self.parity.ok

    def text(self) -> str:
        return "\n".join(filter(None, [f"{self.out}: {self.megabytes:.1f} MB", self.measured, self.parity.text()]))


def export(
    model: str | os.PathLike[str],
    format: ExportFormat = "onnx",
    out: str | os.PathLike[str] = "model.onnx",
    *,
    force: bool = False,
    labels: str | os.PathLike[str] | None = None,
    input_type: InputType = "image_tensor",
    detections: int | None = None,
    precision: ExportPrecision = "float32",
    tune: Tuning = "none",
    data: str | os.PathLike[str] | None = None,
    max_ap_loss: float = MAX_AP_LOSS,
) -> ExportReport:
    """Writes ``model`` as ``format`` to ``out`` and compares the two on images of several sizes.

    Args:
        format: ``onnx``, or for the TFOD dialect ``savedmodel``: the folder that TFOD's own export writes.
        input_type: what a client sends to a SavedModel.
        detections: the most detections of an image; by default the model's own number.
        precision: ``int8`` of OpenVINO's format alone, calibrated on training records.
        tune: ``speed`` exports as few proposals as the loss of mAP allows.
        data: the records of both; by default those of the run.
        max_ap_loss: how much mAP on val both together may cost; where int8 costs more, nothing is written.

    Raises:
        ResightError: the format is not known, the model cannot be exported, or ``out`` cannot be written.
    """
    check_types(locals(), export)
    _check_output(out, format, input_type, force)
    _check_precision(format, precision, max_ap_loss)
    detector = load(model, "cpu", labels=labels, detections=detections)
    if not hasattr(detector, "model"):
        raise ResightError("is an exported model already", where=model, fix="Export the run it is from.")
    if format not in dialect_of(detector.config).export_formats:
        raise ResightError(
            f"only {listed(TFOD_MODELS)} can be a SavedModel", where=model, fix="Choose --format onnx for this model."
        )
    trial, reference, told = None, None, ""
    if precision == "int8" or tune == "speed":
        trial = Trial(model, data, max_ap_loss)
    if trial and tune == "speed":
        reference, told = tune_proposals(detector, trial)
    log.info("writing %s, then comparing it with the model", out)
    with _extra(format):
        if format == "onnx":
            report = _export_onnx(detector, Path(out))
        elif format == "openvino":
            report = _export_openvino(detector, Path(out), force, trial if precision == "int8" else None, reference)
        else:
            report = _export_saved_model(detector, Path(out), force, input_type)
    return replace(report, measured="\n".join(filter(None, [told, report.measured])))


def _check_output(out: str | os.PathLike[str], format: ExportFormat, input_type: InputType, force: bool) -> None:
    if format != "savedmodel" and input_type != "image_tensor":
        raise ResightError("is for a SavedModel alone", where="--input-type", fix="Add --format savedmodel.")
    with _extra(format):
        if format == "savedmodel":
            from ..inference.saved_model import written_before

            check_output(out, force, written_before(Path(out)))
        elif format == "openvino":
            import onnxscript  # noqa: F401

            from ..inference.openvino_runtime import openvino, written_by_us

            openvino()
            check_output(out, force, written_by_us(Path(out)))
        elif Path(out).suffix != ".onnx":
            raise ResightError("the name of an ONNX model ends in .onnx", where=out)
        else:
            from ..inference.onnx_runtime import is_ours

            check_file(out, force, is_ours)


def _check_precision(format: ExportFormat, precision: ExportPrecision, max_ap_loss: float) -> None:
    check_share(max_ap_loss, "--max-ap-loss")
    if precision == "int8" and format != "openvino":
        message = "is for OpenVINO alone: other engines gain little by it"
        raise ResightError(message, where="--precision int8", fix="Add --format openvino.")
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        raise ResightError("needs nncf", where="--precision int8", fix="pip install 'resight[int8]'")


def _export_onnx(detector: Detector, out: Path) -> ExportReport:
    """Nothing lies at ``out`` before it was compared; nor does a SavedModel."""
    from ..inference.onnx_runtime import load_onnx

    with atomic_file(out) as file:
        write_onnx(detector, file)
        parity = compare(detector, load_onnx(file, stages=True), probe_images())
    return ExportReport(str(out), str(out), parity, out.stat().st_size / 1e6)


def _export_saved_model(detector: Detector, out: Path, force: bool, input_type: InputType) -> ExportReport:
    from ..inference.saved_model import load_saved_model, written_before
    from .saved_model import with_stages, write_export

    with atomic_folder(out, force, written_before(out)) as folder:
        write_export(detector, folder, input_type)
        with with_stages(folder) as model_with_stages:
            parity = compare(detector, load_saved_model(model_with_stages), probe_images())
    place = out / "saved_model"
    return ExportReport(str(out), str(place), parity, _megabytes(place))


def _export_openvino(
    detector: Detector, out: Path, force: bool, trial: Trial | None, reference: float | None
) -> ExportReport:
    """
    Args:
        trial: it is quantised, and that is tried on these records.
        reference: the mAP of the model before its proposals were limited, if they were.
    """
    from ..inference.openvino_runtime import load_openvino, written_by_us
    from .openvino import openvino_body, stages_of, write_openvino

    with atomic_folder(out, force, written_by_us(out)) as folder:
        body = openvino_body(detector)
        write_openvino(body, detector, folder)
        exported = load_openvino(folder / OPENVINO, stages=stages_of(body))
        parity, measured = compare(detector, exported, probe_images()), ""
        size = _megabytes(folder)
        if trial:
            from .quantize import int8

            exported = load_openvino(folder / OPENVINO)
            found, measured = int8(body, exported, trial, reference)
            write_openvino(found.model, detector, folder, precision="int8", in_float=found.in_float)
            measured += f" {size:.1f} MB in float32, {_megabytes(folder):.1f} MB in int8. Before it was quantised:"
    return ExportReport(str(out), str(out), parity, _megabytes(out), measured)


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def write_onnx(detector: Detector, path: Path) -> None:
    """Writes the graph with class names, dialect, threshold and a digest of the weights in its metadata."""
    import onnx

    from ..inference.onnx_runtime import KEY

    proto, config = dialect_of(detector.config).to_onnx(detector.model), detector.config
    card = card_of(detector, dialect=config.dialect, tfod=config.model_dump()["tfod"], tile=detector.tile)
    onnx.helper.set_model_props(proto, {KEY: card})
    onnx.save_model(proto, path)


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


def compare(detector: Detector, exported: ExportedDetector, images: list[np.ndarray]) -> Parity:
    """
    Args:
        exported: an export of ``detector``, loaded with its stages among its outputs.
    """
    import torch

    from ..detection.parity import Parity

    parity = Parity(len(images))
    log.info("comparing the two in %s", counted(len(images), "image"))
    for image in images:
        found = exported.outputs(image)
        stages = {
            name.removeprefix(STAGE): torch.from_numpy(value.copy())
            for name, value in found.items()
            if name.startswith(STAGE)
        }
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        with torch.inference_mode():
            wanted = dialect_of(detector.config).compare_stages(parity, detector.model, pixels, stages)
        listed = exported.read(found, image)
        boxes, scores, labels = (torch.from_numpy(each.copy()) for each in (listed.boxes, listed.scores, listed.labels))
        parity.detections += len(listed)
        parity.listed(wanted.boxes, boxes, max(image.shape[:2]))
        if len(labels) == len(wanted.labels):
            parity.scores(wanted.scores, scores)
            parity.wrong += int((labels != wanted.labels).sum())
    return parity
