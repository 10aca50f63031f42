"""Fine-tunes a pretrained Faster R-CNN on one's own images, from annotations to an exported, measured model.

Every verb of the command line is a function here; what is heavy is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .boxes import Annotation, Box, Detections
    from .checking import check_data
    from .config import load_config
    from .data.build import build_data, write_records
    from .data.show import show_data
    from .detector import load
    from .errors import ResightError
    from .evaluation.evaluate import evaluate
    from .exporting import export
    from .prediction import predict
    from .training.train import train

_HOMES = {
    "Annotation": "boxes",
    "Box": "boxes",
    "Detections": "boxes",
    "ResightError": "errors",
    "build_data": "data.build",
    "check_data": "checking",
    "evaluate": "evaluation.evaluate",
    "export": "exporting",
    "load": "detector",
    "load_config": "config",
    "predict": "prediction",
    "show_data": "data.show",
    "train": "training.train",
    "write_records": "data.build",
}

__all__ = [
    "Annotation",
    "Box",
    "Detections",
    "ResightError",
    "build_data",
    "check_data",
    "evaluate",
    "export",
    "load",
    "load_config",
    "predict",
    "show_data",
    "train",
    "write_records",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resight' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
