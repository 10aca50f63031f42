"""Fine-tunes a pretrained Faster R-CNN on one's own images, from annotations to an exported, measured model.

Every verb of the command line is a function here; what is heavy is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .commands.bench import bench as bench
    from .commands.check import check_data as check_data
    from .commands.predict import predict as predict
    from .commands.show import show_data as show_data
    from .datasets.build import build_data as build_data
    from .datasets.build import write_records as write_records
    from .dialect import load_config as load_config
    from .errors import ResightError as ResightError
    from .evaluation.evaluate import evaluate as evaluate
    from .exporting.export import export as export
    from .inference.detector import load as load
    from .reporting.data_report import report_data as report_data
    from .reporting.report import report as report
    from .serving.serve import serve as serve
    from .training.train import train as train
    from .types import Annotation as Annotation
    from .types import Box as Box
    from .types import Detections as Detections

_HOMES = {
    "Annotation": "types",
    "Box": "types",
    "Detections": "types",
    "ResightError": "errors",
    "bench": "commands.bench",
    "build_data": "datasets.build",
    "check_data": "commands.check",
    "evaluate": "evaluation.evaluate",
    "export": "exporting.export",
    "load": "inference.detector",
    "load_config": "dialect",
    "predict": "commands.predict",
    "report": "reporting.report",
    "report_data": "reporting.data_report",
    "serve": "serving.serve",
    "show_data": "commands.show",
    "train": "training.train",
    "write_records": "datasets.build",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resight' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
