"""An exported ONNX file as a detector, run by ONNX Runtime."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..detection.stages import STAGE
from ..errors import ResightError
from ..io.files import check_regular
from .detector import class_names
from .exported import ExportedDetector, read_card

KEY = "resight"


class OnnxDetector(ExportedDetector):
    session: Any

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"image": image[None]}), strict=True))


def load_onnx(path: Path, labels: str | os.PathLike[str] | None = None, stages: bool = False) -> OnnxDetector:
    """
    Args:
        stages: what it works out on the way is among its outputs.

    Raises:
        ResightError: onnxruntime is missing, or the file is damaged or none of ours.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ResightError(
            "running an .onnx needs ONNX Runtime", where=path, fix="pip install 'resight[onnx]'"
        ) from error
    if not path.exists():
        raise ResightError("there is no such model", where=path)
    check_regular(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about its own optimizations help nobody here
    try:
        model = _with_stages(path) if stages else str(path)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise ResightError(f"cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}", where=path) from error
    stored = session.get_modelmeta().custom_metadata_map.get(KEY)
    if stored is None:
        raise ResightError("is an ONNX model, but none that Resight exported", where=path)
    card = read_card(stored, path)
    detector = OnnxDetector(class_names(card.classes, labels), card.score, str(path), card.model)
    detector.session = session
    return detector


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
