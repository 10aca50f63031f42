"""A model run by OpenVINO on the CPU: the folder that an export writes, or an ``.onnx``.

An exported folder holds the network behind the resizing, which is done here: OpenVINO computes in single precision
what decides an image's size at the network, and comes to another one now and then.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..detection.stages import STAGE
from ..dialect import stored_input
from ..errors import ResightError
from ..io.files import LARGE, check_regular, read_file
from .detector import class_names
from .exported import OPENVINO, ExportedDetector, read_card

KEY = "resight"
EXPORT = (OPENVINO, "model.bin")  # an export's files


class OpenVinoDetector(ExportedDetector):
    engine = "OpenVINO"
    prepare: Callable[[np.ndarray], Mapping[str, np.ndarray]]

    def use(self, model: Any, threads: int | None = None, stages: tuple[str, ...] = ()) -> None:
        """Runs ``model``, an ``openvino.Model``, as :func:`compiled` makes it."""
        self._request, self._lock = compiled(model, threads, stages).create_infer_request(), Lock()
        # The names of the model itself: those of the compiled one hold some of OpenVINO's own.
        self._names = {name: place for place, output in enumerate(model.outputs) for name in output.get_names()}

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        given = dict(self.prepare(image))
        with self._lock:  # a request is for one image at a time
            found = self._request.infer(given, share_inputs=True)
            return {name: found[place] for name, place in self._names.items()}


def openvino() -> Any:
    """The package, imported such that it cannot report its use to anybody.

    Its tools send what they are used for over the network. Where there is no ``openvino_telemetry`` they work the same.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def load_openvino(
    path: Path, labels: str | os.PathLike[str] | None = None, threads: int | None = None, stages: tuple[str, ...] = ()
) -> OpenVinoDetector:
    """
    Args:
        path: the ``model.xml`` of an export.
        threads: of the CPU; by default one a physical core.
        stages: what the graph works out on the way under these names is among its outputs, too.

    Raises:
        ResightError: OpenVINO is missing, or the model is damaged or none of ours.
    """
    try:
        package = openvino()
    except ImportError as error:
        message = "running an OpenVINO model needs OpenVINO"
        raise ResightError(message, where=path, fix="pip install 'resight[openvino]'") from error
    for name in EXPORT:
        if not (path.parent / name).is_file():
            raise ResightError(f"{name} is missing", where=path.parent, fix="Copy the whole folder, or export again.")
        check_regular(path.parent / name)
    try:
        model = package.Core().read_model(path)
    except RuntimeError as error:
        message = f"cannot be loaded by OpenVINO: {str(error).strip().splitlines()[-1]}"
        raise ResightError(message, where=path, fix="Export the model again.") from error
    if not model.has_rt_info(KEY):
        raise ResightError("is an OpenVINO model, but none that Resight exported", where=path)
    card = read_card(model.get_rt_info(KEY).astype(str), path)
    detector = OpenVinoDetector(class_names(card.classes, labels), card.score, str(path.parent), card.model)
    try:
        detector.prepare = stored_input(card.input, card.tfod)
    except ValidationError as error:
        message = "does not say how an image becomes the network's input"
        raise ResightError(message, where=path, fix="Export the model again.") from error
    detector.weights = card.digest
    detector.use(model, threads, stages)
    return detector


def run_onnx(path: Path, exported: ExportedDetector) -> OpenVinoDetector:
    """The ``.onnx`` of ``exported``, run by OpenVINO; what it works out on the way is among its outputs."""
    model = openvino().Core().read_model(path)
    detector = OpenVinoDetector(exported.classes, exported.score, exported.name, exported.config)
    detector.prepare = lambda image: {"image": image[None]}
    detector.use(model, stages=stages_of(model))
    return detector


def stages_of(model: Any) -> tuple[str, ...]:
    """The names under which an ``openvino.Model`` works out what a comparison asks for."""
    names = (name for node in model.get_ops() for output in node.outputs() for name in output.get_names())
    return tuple(name for name in names if name.startswith(STAGE))


def compiled(model: Any, threads: int | None = None, stages: tuple[str, ...] = ()) -> Any:
    """``model``, an ``openvino.Model``, ready for the CPU, for one image at a time and in single precision."""
    if stages:
        model.add_outputs(list(stages))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16, that would be taken
        "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    return openvino().Core().compile_model(model, "CPU", settings)


def written_by_us(out: Path) -> Callable[[Path], bool]:
    """Tells the files of an earlier export in ``out`` from others."""
    ours: tuple[str, ...] = ()
    with suppress(ResightError):
        ours = EXPORT if f"<{KEY} value=".encode() in read_file(out / OPENVINO, LARGE) else ()
    return lambda path: path.name in ours
