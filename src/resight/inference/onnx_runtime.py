"""An exported ONNX file as a detector, run by ONNX Runtime."""

import importlib
import io
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from ..detection.stages import STAGE
from ..errors import ResightError
from ..io.files import check_regular
from .detector import check_device_name, class_names
from .exported import ExportedDetector, read_card

log = logging.getLogger(__name__)

KEY = "resight"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GPU_PACKAGE = "Install onnxruntime-gpu in the place of onnxruntime, or choose --device cpu."


class OnnxDetector(ExportedDetector):
    engine = "ONNX Runtime"
    session: Any

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"image": image[None]}), strict=True))


def onnxruntime() -> Any:
    """The package, imported such that it does not report its use to its makers: it reads the variable once, and
    ``disable_telemetry_events`` comes too late."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def load_onnx(
    path: Path,
    labels: str | os.PathLike[str] | None = None,
    stages: bool = False,
    device: str = "cpu",
    threads: int | None = None,
) -> OnnxDetector:
    """
    Args:
        stages: what it works out on the way is among its outputs.
        device: "auto", "cpu", "cuda" or "cuda:N"; a GPU serves where ONNX Runtime has its provider for CUDA.
        threads: of the CPU; by default one a physical core.

    Raises:
        ResightError: onnxruntime is missing or has not the device, or the file is damaged or none of ours.
    """
    try:
        package = onnxruntime()
    except ImportError as error:
        raise ResightError(
            "running an .onnx needs ONNX Runtime", where=path, fix="pip install 'resight[onnx]'"
        ) from error
    if not path.exists():
        raise ResightError("there is no such model", where=path)
    check_regular(path)
    on_gpu = _uses_gpu(package.get_available_providers(), device)
    if on_gpu and hasattr(package, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # where it tells of each that is missing
            package.preload_dlls()
    options = package.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # warnings about its own optimizations help nobody here
    # Images differ in size, and for each new one it would try all ways of every convolution.
    cuda = (CUDA, {"device_id": device.partition(":")[2] or "0", "cudnn_conv_algo_search": "HEURISTIC"})
    providers = [cuda, CPU] if on_gpu else [CPU]
    try:
        model = _with_stages(path) if stages else str(path)
        session = package.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise ResightError(f"cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}", where=path) from error
    stored = session.get_modelmeta().custom_metadata_map.get(KEY)
    if stored is None:
        raise ResightError("is an ONNX model, but none that Resight exported", where=path)
    card = read_card(stored, path)
    detector = OnnxDetector(class_names(card.classes, labels), card.score, str(path), card.model)
    detector.session, detector.on_gpu, detector.weights = session, CUDA in session.get_providers(), card.digest
    if on_gpu and not detector.on_gpu:
        message = "ONNX Runtime cannot use a GPU here: its driver, CUDA or cuDNN cannot be loaded"
        if device != "auto":
            raise ResightError(message, where=device, fix=GPU_PACKAGE)
        log.warning("%s; the CPU is used", message)
    return detector


def _uses_gpu(providers: Sequence[str], device: str) -> bool:
    """Raises ResightError: there is no such device, or no provider for it."""
    check_device_name(device)
    if device.startswith("cuda") and CUDA not in providers:
        raise ResightError("ONNX Runtime cannot use a GPU: it is installed without CUDA", where=device, fix=GPU_PACKAGE)
    return device != "cpu" and CUDA in providers


def _with_stages(path: Path) -> bytes:
    """The same model, with what its graph works out on the way among its outputs."""
    import onnx

    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output if name.startswith(STAGE)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model.SerializeToString()


def is_ours(path: Path) -> bool:
    """Whether Resight wrote the file."""
    import onnx

    try:
        check_regular(path)
        model = onnx.load(path, load_external_data=False)
    except Exception:  # whatever is wrong with it, it is not ours to replace
        return False
    return any(prop.key == KEY for prop in model.metadata_props)
