"""From a configuration to a model of either dialect."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

from ..config.tree import ModelConfig
from ..detection.anchors import AnchorSettings
from ..detection.model import DetectionModel
from ..dialect import dialect_of
from ..errors import ResightError, listed


def build_model(config: ModelConfig, num_classes: int, anchors: AnchorSettings | None = None) -> DetectionModel:
    """The model with random weights, on the CPU.

    Args:
        num_classes: without background.
        anchors: of the RPN; by default the model's own.

    Raises:
        ResightError: the name is not known, or has no features at the strides needed.
    """
    return dialect_of(config).build(config, num_classes, anchors)


@contextmanager
def float32_products(kind: Literal["ieee", "tf32"]) -> Iterator[None]:
    """How a GPU multiplies float32 in convolutions and matrices: with all its bits, or with TF32's 10 of the fraction,
    which is several times as fast. Afterwards as it was."""
    # PyTorch's older switches of the same raise an error where these were used, so they are not even read.
    places: Any = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = kind
        yield
    finally:
        for place, as_it_was in zip(places, before, strict=True):
            place.fp32_precision = as_it_was


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """In which a model computes in "bfloat16" or "float16" where that serves; "float32" changes nothing."""
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device.type, half) if half else nullcontext()


def named_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Nothing is asked of a GPU, which would open a context there.

    Raises:
        ResightError: the device does not exist here.
    """
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    chosen = ("cuda" if len(there) > 1 else "cpu") if name == "auto" else name
    if chosen not in there and not (chosen == "cuda" and len(there) > 1):
        raise ResightError(f"there is no device '{name}' here", where="device", fix=f"Choose auto or {listed(there)}.")
    return torch.device(chosen)


def device_of(name: str) -> torch.device:
    """As :func:`named_device`, and it is tried.

    Raises:
        ResightError: the device does not exist here, or does not work.
    """
    device = named_device(name)
    check_device(device)
    return device


def check_device(device: torch.device) -> None:
    """Raises ResightError: the device does not work."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResightError(f"the device cannot be used: {str(error).splitlines()[0]}", where=device) from error
