"""Fine-tunes a pretrained Faster R-CNN on one's own images, from annotations to an exported, measured model.

Every verb of the command line is a function here; what is heavy is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .commands.check import check_data
    from .commands.predict import predict
    from .commands.show import show_data
    from .datasets.build import build_data, write_records
    from .dialect import load_config
    from .errors import ResightError
    from .evaluation.evaluate import evaluate
    from .exporting.export import export
    from .inference.detector import load
    from .training.train import train
    from .types import Annotation, Box, Detections

_HOMES = {
    "Annotation": "types",
    "Box": "types",
    "Detections": "types",
    "ResightError": "errors",
    "build_data": "datasets.build",
    "check_data": "commands.check",
    "evaluate": "evaluation.evaluate",
    "export": "exporting.export",
    "load": "inference.detector",
    "load_config": "dialect",
    "predict": "commands.predict",
    "show_data": "commands.show",
    "train": "training.train",
    "write_records": "datasets.build",
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
