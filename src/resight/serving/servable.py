"""A detector under the signature of a TFOD export."""

from __future__ import annotations

from ..inference.detector import Detector
from .request import InputType, Signature

MAX_PIXELS = 50_000_000  # of an image


class Servable:
    """
    Args:
        name, version: under which clients ask for it.
        input_type: what clients of TensorFlow Serving's protocol send, uint8 pixels or encoded images; by default both.
            A SavedModel has its own.
        max_pixels: of an image, checked before it is decoded.
    """

    signature: Signature

    def __init__(
        self,
        detector: Detector,
        name: str,
        version: int = 1,
        *,
        input_type: InputType | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.detector, self.name, self.version = detector, name, version
        self.input_type, self.max_pixels = input_type, max_pixels
        self.signature = Signature((), ())
