"""A detector under the signature of a TFOD export, whatever runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..config.defaults import SERVE_MB, SERVE_MEGAPIXELS, ServedInput
from ..errors import ResightError, is_out_of_memory
from ..inference.detector import Detector
from ..inference.exported import ExportedDetector
from ..inference.saved_model import SavedModelDetector
from ..io.images import decode, decode_upright, probe
from ..types import Detections
from .request import Refused, Signature, TensorSpec

INPUT = "input_tensor"
_PIXELS, _ENCODED = TensorSpec(INPUT, "uint8", (1, -1, -1, 3), ""), TensorSpec(INPUT, "string", (-1,), "")
_TYPES = {1: "float32", 4: "uint8", 7: "string"}  # of TensorFlow's DataType, those that TFOD's exporters know


class Servable:
    """
    Args:
        name, version: under which clients ask for it.
        input_type: what clients of TensorFlow Serving's protocol send, uint8 pixels or encoded images; by default the
            signature says pixels, and encoded images are taken as well. A SavedModel has its own.
        max_bytes: of a request, once it is unpacked.
        max_pixels: of an image, checked before it is decoded.

    ``seconds`` is the time that the network has taken in all.
    """

    def __init__(
        self,
        detector: Detector,
        name: str,
        version: int = 1,
        *,
        input_type: ServedInput | None = None,
        max_bytes: int = SERVE_MB << 20,
        max_pixels: int = SERVE_MEGAPIXELS * 10**6,
    ) -> None:
        self.detector, self.name, self.version = detector, name, version
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self.seconds = 0.0
        self._saved = detector if isinstance(detector, SavedModelDetector) else None
        self._takes_examples = self._saved is not None and self._saved.input_type == "tf_example"
        self._whole = False  # the graph's own outputs are the answer
        if self._saved and input_type:
            fix = "Leave --input-type out, or export the model again with another."
            raise ResightError("a SavedModel takes what it was exported for", where=detector.name, fix=fix)
        self.takes_both = input_type is None and self._saved is None
        self.signature = self._signed(_ENCODED if input_type == "encoded_image_string_tensor" else _PIXELS)

    @property
    def input(self) -> TensorSpec:
        return self.signature.inputs[0]

    def _signed(self, given: TensorSpec) -> Signature:
        """The signature, as a SavedModel tells it, or found by looking at an image; the first run is slower anyway."""
        blank = np.zeros((64, 64, 3), np.uint8)
        if self._saved:
            session = self._saved.session
            self._saved.outputs(blank)
            inputs, outputs = (sorted(of.items()) for of in (session.inputs, session.outputs))
            return Signature(tuple(_spec(*item) for item in inputs), tuple(_spec(*item) for item in outputs))
        if isinstance(self.detector, ExportedDetector) and not self.detector.tile:
            self._whole = "detection_boxes" in self.detector.outputs(blank)
        found = sorted(self._outputs(blank).items())
        answered = [
            TensorSpec(name, value.dtype.name, value.shape, f"StatefulPartitionedCall:{number}")
            for number, (name, value) in enumerate(found)
        ]
        given = TensorSpec(given.name, given.dtype, given.shape, f"serving_default_{given.name}:0")
        return Signature((given,), tuple(answered))

    def run(self, given: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the signature.

        Args:
            given: ``[N, H, W, 3]`` images of the signature's type, or ``[N]`` bytes objects, each an encoded image.

        Raises:
            Refused: the model does not take them, an image is damaged, or the images differ in size.
        """
        self._check(given)
        if encoded := given.dtype == object and not self._takes_examples:
            sizes = [self._measure(data, "image") for data in given]
            if len(set(sizes)) > 1:
                told = ", ".join(f"{width} x {height}" for width, height in sizes)
                raise Refused(f"the images of one request have to be of one size, not {told}; send a request for each")
        found = []
        for image in given:
            if encoded and self._saved is None:
                image = self.read(image, "image")
            start = time.perf_counter()
            found.append(self._outputs(image))
            self.seconds += time.perf_counter() - start
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def detect(self, image: np.ndarray, score: float | None) -> Detections:
        """What ``resight.load(model)`` finds in the image."""
        start = time.perf_counter()
        found = self.detector(image, score)
        self.seconds += time.perf_counter() - start
        return found

    def read(self, data: bytes, where: str, upright: bool = False) -> np.ndarray:
        """The pixels ``[H, W, 3]`` of an encoded image, as stored or upright.

        Raises:
            Refused: it is no image, is damaged, or is too large.
        """
        self._measure(data, where)
        with _told(where):
            return decode_upright(data, where) if upright else decode(data, where)

    def _measure(self, data: bytes, where: str) -> tuple[int, int]:
        with _told(where):
            info = probe(data, where)
        self._limit(info.width, info.height, where)
        return info.width, info.height

    def _limit(self, width: int, height: int, where: str) -> None:
        if width * height > self.max_pixels:
            most = f"{self.max_pixels / 1e6:g} million"
            raise Refused(f"{where}: {width} x {height} pixels are more than the {most} of this server; scale it down")

    def _check(self, given: np.ndarray) -> None:
        """Raises Refused: it is not as the signature says."""
        kind = "string" if given.dtype == object else given.dtype.name
        taken = [self.input, *([_ENCODED] if self.takes_both else [])]
        if not any(spec.dtype == kind and _fits(given.shape, spec.shape) for spec in taken):
            wanted = " or ".join(f"{spec.dtype} {list(spec.shape)}" for spec in taken)
            raise Refused(f"{self.input.name} takes {wanted}, not {kind} {list(given.shape)}")
        if given.ndim == 4:
            self._limit(given.shape[2], given.shape[1], self.input.name)

    def _outputs(self, image: Any) -> dict[str, np.ndarray]:
        """``[1, ...]`` each."""
        if self._saved:
            return self._saved.session.run(self.input.name, image if isinstance(image, bytes) else image[None])
        if self._whole:
            assert isinstance(self.detector, ExportedDetector)
            return self.detector.outputs(image)
        return as_tfod(self.detector.detect(image), self.detector.most.image)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        have == want if want > 0 else have > 0 for have, want in zip(shape, wanted, strict=True)
    )


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Raises Refused: what is done in the block refuses the image."""
    try:
        yield
    except ResightError as error:
        if error.__cause__ and is_out_of_memory(error.__cause__):
            raise MemoryError from error
        raise Refused(f"{where}: {error.message}") from error


def as_tfod(found: Detections, most: int) -> dict[str, np.ndarray]:
    """Detections as TFOD's signature has them: normalised yxyx boxes and classes from 1, padded to ``most``."""
    count = min(len(found), most)
    boxes, scores = np.zeros((1, most, 4), np.float32), np.zeros((1, most), np.float32)
    classes = np.ones((1, most), np.float32)  # as it is there, too
    sides = np.array([found.height, found.width] * 2, np.float32)
    boxes[0, :count] = found.boxes[:count, [1, 0, 3, 2]] / sides
    classes[0, :count] = found.labels[:count] + 1
    scores[0, :count] = found.scores[:count]
    return {
        "detection_boxes": boxes,
        "detection_classes": classes,
        "detection_scores": scores,
        "num_detections": np.array([count], np.float32),
    }


def _spec(name: str, info: Any) -> TensorSpec:
    """Of TensorFlow's ``TensorInfo``."""
    shape = () if info.tensor_shape.unknown_rank else tuple(side.size for side in info.tensor_shape.dim)
    return TensorSpec(name, _TYPES.get(info.dtype, "float32"), shape, info.name)
