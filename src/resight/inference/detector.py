"""A trained model ready to use: ``resight.load(MODEL)``.

PyTorch is imported where it is used: an exported model needs none, and is ready seconds earlier without.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..arguments import check_types
from ..config.defaults import SCORE, Precision
from ..config.most_detections import MostDetections
from ..config.tree import ModelConfig
from ..dialect import dialect_of, left_by_tfod, model_config
from ..errors import ResightError, is_out_of_memory
from ..io.images import as_array
from ..io.object_store import is_remote
from ..io.outputs import is_address
from ..label_map import read_label_map
from ..random_streams import stream_seed
from ..records.example import Record
from ..types import Detections
from .many import detect_each, read_ahead
from .tiles import TILES_NMS_IOU, join_tiles, tile_corners

if TYPE_CHECKING:
    import torch

    from ..detection.model import DetectionModel
    from ..models.checkpoints import ModelMetadata
    from ..types import ImageLike

log = logging.getLogger(__name__)

BATCH = 8  # images that go through the network together


class Detector:
    """Finds objects in images. An exported model is one too, with another ``detect``.

    Args:
        classes: class names; the labels of detections index them.
        score: the model's operating point, above which a detection is reported by default; None: .5, and
            ``has_score`` is False.
        name: where the model came from.
        config: the model's configuration; of an exported model as much of it as the export tells.

    ``selected_on`` is the split on which training chose these weights, where that is known; ``on_gpu``: many images are
    best looked at together.
    """

    model: DetectionModel
    device: torch.device
    engine = "PyTorch"  # what runs the network
    on_gpu = False
    batch_size = BATCH
    precision: Precision = "float32"
    selected_on: str | None = None
    nms_iou = TILES_NMS_IOU
    class_agnostic_nms = False

    def __init__(
        self, classes: tuple[str, ...], score: float | None, name: str = "", config: ModelConfig | None = None
    ) -> None:
        self.classes, self.name, self.config = classes, name, config or model_config({})
        self.has_score = score is not None
        self.score = SCORE if score is None else score

    @classmethod
    def of(cls, model: DetectionModel, card: ModelMetadata, device: torch.device, name: str = "") -> Detector:
        """The detector of a model in memory; the model is used as it is, not copied."""
        detector = cls(card.label_map.names, card.score, name, card.model)
        detector.model, detector.device = model, device
        detector.on_gpu = device.type == "cuda"
        return detector

    def digest(self) -> str | None:
        """SHA-256 of the weights; None of an export that does not tell."""
        from ..models.checkpoints import weights_digest

        return weights_digest(self.model.state_dict())

    @property
    def most(self) -> MostDetections:
        """The most detections of an image, and of a class in it."""
        return self.config.most

    @property
    def tile(self) -> int:
        """Side in pixels of the overlapping tiles that a larger image is seen in, beside the whole; 0: only whole."""
        return self.config.tile

    @overload
    def __call__(self, images: ImageLike, score: float | None = None) -> Detections: ...
    @overload
    def __call__(self, images: list[ImageLike], score: float | None = None) -> list[Detections]: ...
    def __call__(self, images: Any, score: float | None = None) -> Detections | list[Detections]:
        """What is in the images.

        Args:
            images: a path, a PIL image or an ``[H, W, 3]`` uint8 RGB array, or a list of such.
            score: report detections of this score or more; by default the operating point.

        Returns: the detections of the image, or a list of them for a list.

        Raises:
            ResightError: an image cannot be read, an array is of another shape or type, or ``score`` is no share of 1.
        """
        check_share(score, "score")
        least = self.score if score is None else score
        if not isinstance(images, list | tuple):
            array, file = as_array(images)
            return replace(self.detect(array).above(least), file=file)
        # Opened images may be one and the same, which no two threads may read.
        threads = self.on_gpu and all(isinstance(image, str | os.PathLike) for image in images)

        def arrays() -> Iterator[tuple[str, np.ndarray]]:
            for _, read in read_ahead(as_array, images, threads):
                if isinstance(read, ResightError):
                    raise read
                yield read[1], read[0]

        return [replace(found.above(least), file=file) for file, _, found in detect_each(self, arrays())]

    def set_nms(self, iou: float | None = None, class_agnostic: bool = False) -> None:
        """Changes the last suppression: the IoU above which the weaker box goes, and whether classes compete."""
        check_share(iou, "iou")
        self.model.set_nms(iou, class_agnostic)
        self.nms_iou = self.nms_iou if iou is None else iou
        self.class_agnostic_nms = self.class_agnostic_nms or class_agnostic

    def set_precision(self, precision: Precision) -> None:
        """The arithmetic of the network: "float32", or "bfloat16" wherever that serves."""
        self.precision = precision

    def detect(self, image: np.ndarray) -> Detections:
        """All detections of ``image`` ``[H, W, 3]`` uint8 RGB of score .001 or more."""
        if self.on_gpu:
            return self.detect_batch([image])[0]
        return self._detect([image], lambda views: [self.detect_whole(view) for view in views])[0]

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """What :meth:`detect` finds in each image, in less time on a GPU: those of one size at the network, and their
        tiles, go through it together."""
        return self._detect(images, self._detect_wholes)

    def _detect(
        self, images: Sequence[np.ndarray], look: Callable[[Sequence[np.ndarray]], list[Detections]]
    ) -> list[Detections]:
        """``look`` is told of the images and of all their tiles."""
        side = self.tile
        corners = [tile_corners(image.shape[0], image.shape[1], side) for image in images]
        places = [tiles if len(tiles) > 1 else [] for tiles in corners]
        both = zip(images, places, strict=True)
        found = look([*images, *(image[y : y + side, x : x + side] for image, own in both for x, y in own)])
        tiles, results = iter(found[len(images) :]), []
        for whole, own in zip(found, places, strict=False):
            if own:
                parts = [(x, y, next(tiles)) for x, y in own]
                whole = join_tiles(whole, parts, self.nms_iou, self.class_agnostic_nms, self.most.image)
            results.append(whole)
        return results

    def detect_whole(self, image: np.ndarray) -> Detections:
        """What the network finds in the image at once."""
        return self._forward([image])[0]

    def proposals(self, image: np.ndarray) -> np.ndarray:
        """``[P, 4]`` float32 xyxy, what the first stage proposes in ``image`` ``[H, W, 3]`` uint8. Not of exports."""
        import torch

        with torch.inference_mode():
            return self.model.proposals(self._sent(image)).to("cpu", torch.float32).numpy()

    def _sent(self, image: np.ndarray) -> torch.Tensor:
        """``[3, H, W]`` uint8 where the network is."""
        import torch

        from ..detection.transfers import sent

        return sent(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), self.device)

    def _detect_wholes(self, images: Sequence[np.ndarray]) -> list[Detections]:
        sizes = [self.model.network_size(image.shape[0], image.shape[1]) for image in images]
        order = sorted(range(len(images)), key=sizes.__getitem__)
        found: dict[int, Detections] = {}
        while rest := order[len(found) :]:
            same = [index for index in rest[: self.batch_size] if sizes[index] == sizes[rest[0]]]
            found.update(zip(same, self._forward([images[index] for index in same]), strict=True))
        return [found[index] for index in range(len(images))]

    def _forward(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """What the network finds in images of one size there; fewer go through it where memory does not suffice."""
        import torch

        from ..models.build import autocast

        try:
            with torch.inference_mode(), autocast(self.precision, self.device):
                instances = self.model([self._sent(image) for image in images])
        except RuntimeError as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
            instances = None
        if instances is None:  # outside, where the error holds nothing in memory any more
            self.batch_size = half = len(images) // 2
            return self._forward(images[:half]) + self._forward(images[half:])
        return [
            Detections(
                found.boxes.to("cpu", torch.float32).numpy(),
                found.scores.to("cpu", torch.float32).numpy(),
                found.labels.cpu().numpy(),
                self.classes,
                image.shape[1],
                image.shape[0],
            )
            for found, image in zip(instances, images, strict=True)
        ]

    def losses(self, record: Record, labels: np.ndarray, image: np.ndarray) -> dict[str, float] | None:
        """The losses of one record whose boxes are of class indices ``labels`` ``[N]``; -1 is no class of ours.

        ``image`` ``[H, W, 3]`` uint8 is the record's, decoded.

        Minibatches are drawn by the name of the image, so the losses do not depend on the order of the records.
        None where the model cannot tell (an export holds no losses).
        """
        import torch

        from ..detection.boxes import rescale
        from ..detection.transfers import sent
        from ..input.target import Target
        from ..models.build import autocast

        dialect = dialect_of(self.config)
        sample = dialect.to_sample(*dialect.ground_truth(record, labels, self.config, ""), image)
        resized = self.model.resize(sent(sample.image, self.device))
        boxes = rescale(sample.boxes, (image.shape[0], image.shape[1]), (resized.shape[1], resized.shape[2]))
        seed = stream_seed(0, f"losses of {record.source_id}")
        with torch.inference_mode(), autocast(self.precision, self.device):
            losses = self.model.losses([resized], [Target(boxes, sample.labels, sample.crowd, seed)])
            values = torch.stack(list(losses.values())).tolist()  # in one copy
        return dict(zip(losses, values, strict=True))


def load(
    model: str | os.PathLike[str],
    device: str = "auto",
    *,
    labels: str | os.PathLike[str] | None = None,
    detections: int | None = None,
    threads: int | None = None,
) -> Detector:
    """A detector, ready to use.

    Args:
        model: a run folder (its best checkpoint, else the last), a ``.safetensors`` checkpoint, an ``.onnx`` file, the
            folder of an OpenVINO export, a SavedModel with TFOD's signature, or a folder that TFOD left with a
            checkpoint and its ``pipeline.config``.
        device: "auto", "cpu", "cuda" or "cuda:N". An .onnx file runs on a GPU where onnxruntime-gpu is installed; a
            SavedModel and an OpenVINO export run on the CPU.
        labels: label map that names the classes in the model's order, instead of the names stored with it.
        detections: the most detections of an image, instead of the number stored with the model.
        threads: of the CPU that look at one image together; by default one a core. PyTorch's are those of the process.

    Raises:
        ResightError: there is no such model, it is damaged, or the device cannot be used; ``detections`` or ``threads``
            is no such number, or the model is an exported one, whose number of detections is fixed.
    """
    check_types(locals(), load)
    if threads is not None and threads < 1:
        raise ResightError(f"is {threads}, and must be at least 1", where="threads")
    if is_remote(model):
        from ..models.remote import fetch_model

        detector = load(fetch_model(model), device, labels=labels, detections=detections, threads=threads)
        detector.name = model
        return detector
    if is_address(model):
        raise ResightError("models are read from folders and s3://", where=model, fix="Download it first.")
    path = Path(model)
    if path.suffix == ".onnx":
        from .onnx_runtime import load_onnx

        return _as_exported(load_onnx(path, labels, device=device, threads=threads), detections)
    from .exported import find_openvino, find_saved_model

    if file := find_openvino(path):
        from .openvino_runtime import load_openvino

        _use_cpu(device, path)
        return _as_exported(load_openvino(file, labels, threads), detections)
    left = left_by_tfod(path)  # TFOD exports both; the folder of both means its checkpoint
    if left is None and (saved_model := find_saved_model(path)):
        from .saved_model import load_saved_model

        _use_cpu(device, path)
        return _as_exported(load_saved_model(saved_model, labels, threads), detections)
    from ..models.build import device_of
    from ..models.checkpoints import Checkpoint, find_checkpoint, load_checkpoint

    if left is not None:
        from ..tfod.checkpoint.trained import read_tfod
        from .saved_model import card_beside

        path = left.prefix
        score = card_beside(left.folder / "saved_model").score
        checkpoint = Checkpoint.left_by_tfod(read_tfod(path, labels=labels), score)
        labels = None  # taken
    else:
        path = find_checkpoint(model)
        checkpoint = load_checkpoint(path)
    card = checkpoint.card
    if detections is not None:
        card = replace(card, model=card.model.with_detections(detections))
    net = card.build()
    try:
        net.load_state_dict(checkpoint.weights())
    except RuntimeError as error:
        raise ResightError(f"the weights do not fit the model they name: {error}", where=path) from error
    target = device_of(device)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    log.info("using %s", path)
    detector = Detector.of(net.to(target).eval(), card, target, str(path))
    detector.selected_on = checkpoint.state.get("selected_on")
    detector.classes = class_names(detector.classes, labels)
    return detector


def _as_exported(detector: Detector, detections: int | None) -> Detector:
    if detections is None:
        return detector
    raise ResightError(
        f"an exported model keeps the {detector.most.image:,} detections it has",
        where=detector.name,
        fix=f"Export the run it is from again, with --detections {detections}.",
    )


def check_device_name(device: str) -> None:
    """Raises ResightError: no device can have that name."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        message, fix = f"there is no device '{device}' here", "Choose auto, cpu, cuda or cuda:N."
        raise ResightError(message, where="device", fix=fix)


def _use_cpu(device: str, model: Path) -> None:
    check_device_name(device)
    if device.startswith("cuda"):
        log.warning("%s: is of a kind that runs on the CPU alone, and does so; %s is not used", model, device)


def check_share(value: float | None, name: str) -> None:
    """
    Raises:
        ResightError: ``value`` is neither None nor a number from 0 to 1.
    """
    if value is not None and not (isinstance(value, int | float | np.number) and 0 <= value <= 1):
        raise ResightError(f"must be a number from 0 to 1, not {value!r:.80}", where=name)


def class_names(stored: tuple[str, ...], labels: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """The names of the label map ``labels``, or those ``stored`` with the model.

    Raises:
        ResightError: the label map cannot be read, or is of another number of classes.
    """
    if labels is None:
        return stored
    names = read_label_map(labels).names
    if len(names) != len(stored):
        raise ResightError(f"names {len(names)} classes, the model has {len(stored)}", where=labels)
    return names
