"""A model as the folder that OpenVINO reads: ``model.xml`` and ``model.bin``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dialect import dialect_of
from ..inference.detector import Detector
from ..inference.exported import OPENVINO, graph_card
from ..inference.openvino_runtime import KEY, openvino

if TYPE_CHECKING:
    from onnx import ModelProto


def openvino_body(detector: Detector) -> Any:
    """The network of the detector behind the resizing, an ``openvino.Model``; see ``Dialect.to_body``."""
    return from_onnx(dialect_of(detector.config).to_body(detector.model))


def from_onnx(body: ModelProto) -> Any:
    return openvino().Core().read_model(body.SerializeToString())


def write_openvino(body: Any, detector: Detector, folder: Path, **more: object) -> None:
    """Writes ``body``, the network of ``detector`` as an ``openvino.Model``, with its card, ``more`` in that, into
    ``folder``; the weights as they are. Raises OSError: they cannot be written."""
    given = dialect_of(detector.config).exported_input(detector.model)
    body.set_rt_info(graph_card(detector, input=given.model_dump(), **more), KEY)
    try:
        openvino().save_model(body, folder / OPENVINO, compress_to_fp16=False)
    except RuntimeError as error:  # which says that a stream failed, and not why
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(f"OpenVINO could not write its files, with {free:,.1f} MB free") from error
