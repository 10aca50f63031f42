"""``resight export``: a trained model in a format that needs no Resight to run."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import check_types
from ..config.defaults import MAX_AP_LOSS, ExportFormat, ExportPrecision, InputType, Tuning
from ..config.tree import TFOD_MODELS
from ..dialect import dialect_of
from ..errors import ResightError, listed
from ..inference.detector import Detector, check_share, load
from ..inference.exported import OPENVINO, graph_card
from ..io.outputs import atomic_file, atomic_folder, check_file, check_output
from .compare import compare
from .pictures import Pictures, pictures_of
from .trial import Trial
from .tune import tune as tune_proposals

if TYPE_CHECKING:
    from ..detection.parity import Parity

Engines = dict[str, "Parity"]  # by their names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What was written to ``out``, of which ``model`` is the exported model, and how close it is to the original.

    Args:
        engines: how close by the name of the engine that ran it; where one is beyond the tolerance nothing is written.
        pictures: what they were compared on.
        measured: what was gained by fewer proposals or 8 bits, and what it costs.
    """

    out: str
    model: str
    engines: dict[str, Parity]
    megabytes: float
    pictures: str
    measured: str = ""

    @property
    def parity(self) -> Parity:
        """In the first of the engines."""
        return next(iter(self.engines.values()))

    @property
    def ok(self) -> bool:
        return all(parity.ok for parity in self.engines.values())

    def text(self) -> str:
        head = f"{self.out}: {self.megabytes:.1f} MB" if self.ok else f"{self.out}: not written"
        lines = [f"{engine}: {parity.text()}" for engine, parity in self.engines.items()]
        return "\n".join(filter(None, [head, self.measured, f"Compared on {self.pictures}", *lines]))


class _Unequal(Exception):
    """Leaves the block of an output that is not to be written."""


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
    """Writes ``model`` as ``format`` to ``out``, if it finds the same as the model in pictures of several shapes.

    Args:
        format: ``onnx``, ``openvino``, or for the TFOD dialect ``savedmodel``, the folder that TFOD's own export
            writes.
        input_type: what a client sends to a SavedModel.
        detections: the most detections of an image; by default the model's own number.
        precision: ``int8`` of OpenVINO's format alone, calibrated on training records.
        tune: ``speed`` exports as few proposals as the loss of mAP allows.
        data: records folder of both, and with the pictures; by default the run's.
        max_ap_loss: how much mAP on val both together may cost; where int8 costs more, nothing is written.

    Raises:
        ResightError: the format is not known, the model cannot be exported, ``data`` cannot be read, or ``out`` cannot
            be written.
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
        loss = max_ap_loss / 2 if precision == "int8" else max_ap_loss  # the rest is for the 8 bits
        reference, told = tune_proposals(detector, trial, loss)
    pictures = pictures_of(model, data, detector)
    log.info("writing %s, and comparing it with the model on %s", out, pictures.source)
    with _extra(format):
        if format == "onnx":
            report = _export_onnx(detector, Path(out), pictures)
        elif format == "openvino":
            quantised = trial if precision == "int8" else None
            report = _export_openvino(detector, Path(out), pictures, force, quantised, reference)
        else:
            report = _export_saved_model(detector, Path(out), pictures, force, input_type)
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


def _export_onnx(detector: Detector, out: Path, pictures: Pictures) -> ExportReport:
    from ..inference.onnx_runtime import load_onnx

    engines: Engines = {}
    with suppress(_Unequal), atomic_file(out) as file:
        write_onnx(detector, file)
        exported = load_onnx(file, stages=True)
        engines["ONNX Runtime"] = compare(detector, exported, pictures.images)
        if importlib.util.find_spec("openvino"):
            from ..inference.openvino_runtime import run_onnx

            engines["OpenVINO"] = compare(detector, run_onnx(file, exported), pictures.images)
        _check(engines)
    return ExportReport(str(out), str(out), engines, _megabytes(out), pictures.source)


def _export_saved_model(
    detector: Detector, out: Path, pictures: Pictures, force: bool, input_type: InputType
) -> ExportReport:
    from ..inference.saved_model import load_saved_model, written_before
    from .saved_model import with_stages, write_export

    engines: Engines = {}
    with suppress(_Unequal), atomic_folder(out, force, written_before(out)) as folder:
        write_export(detector, folder, input_type)
        with with_stages(folder) as model_with_stages:
            engines["TensorFlow"] = compare(detector, load_saved_model(model_with_stages), pictures.images)
        _check(engines)
    place = out / "saved_model"
    return ExportReport(str(out), str(place), engines, _megabytes(place), pictures.source)


def _export_openvino(
    detector: Detector, out: Path, pictures: Pictures, force: bool, trial: Trial | None, reference: float | None
) -> ExportReport:
    """
    Args:
        trial: it is quantised, and that is tried on these records.
        reference: the mAP of the model before its proposals were limited, if they were.
    """
    from ..inference.openvino_runtime import load_openvino, stages_of, written_by_us
    from .openvino import openvino_body, write_openvino

    engines: Engines = {}
    measured = ""
    with suppress(_Unequal), atomic_folder(out, force, written_by_us(out)) as folder:
        body = openvino_body(detector)
        write_openvino(body, detector, folder)
        exported = load_openvino(folder / OPENVINO, stages=stages_of(body))
        engines["OpenVINO"] = compare(detector, exported, pictures.images)
        _check(engines)
        size = _megabytes(folder)
        if trial:
            from .quantize import int8

            exported = load_openvino(folder / OPENVINO)
            found, measured = int8(body, exported, trial, reference)
            write_openvino(found.model, detector, folder, precision="int8", in_float=found.in_float)
            measured += f" {size:.1f} MB in float32, {_megabytes(folder):.1f} MB in int8. Before it was quantised:"
    return ExportReport(str(out), str(out), engines, _megabytes(out), pictures.source, measured)


def _check(engines: Engines) -> None:
    if not all(parity.ok for parity in engines.values()):
        raise _Unequal


def _megabytes(place: Path) -> float:
    """Of a file, or of a folder; 0 where there is none."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def write_onnx(detector: Detector, path: Path) -> None:
    """Writes the graph with class names, dialect, threshold and a digest of the weights in its metadata."""
    import onnx

    from ..inference.onnx_runtime import KEY

    proto = dialect_of(detector.config).to_onnx(detector.model)
    onnx.helper.set_model_props(proto, {KEY: graph_card(detector)})
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
