"""The vocabulary of boxes: what was annotated and what was detected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import PATH, check_type, check_types
from .errors import ResightError

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | np.ndarray | Image

Split = str
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def named_split(name: str) -> Split:
    """The split that people mean by ``name``: "valid" is "val"; what is none of theirs stays."""
    return SPLIT_WORDS.get(name.lower(), name)


@dataclass(frozen=True)
class Box:
    """One annotated object.

    ``xmin, ymin, xmax, ymax`` are absolute pixels of the image as the annotation sees it, corners as written
    by the source; ``area`` is in square pixels where the source states one (COCO), else None.
    """

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    difficult: bool = False
    occluded: bool = False
    crowd: bool = False
    area: float | None = None

    def __post_init__(self) -> None:
        check_types(self.__dict__, Box, empty=True)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.xmin, self.ymin, self.xmax, self.ymax)


@dataclass(frozen=True)
class Annotation:
    """One image with all its boxes, as any source gives it.

    Args:
        image: path of the image file, or its encoded bytes.
        boxes: every object of the image; empty for a background image.
        width, height: the annotation's own idea of the image size in pixels; None where the source has none.
        filename: name written to the record; by default the path's.
        source_id: unique name of the image in its data set; by default ``filename``.
        group: images of one group (a video track, a place) never part in a split; None where unknown.
        split: "train", "val" or "test" where the source says so.
        where: file and line of the annotation, for messages.
    """

    image: str | os.PathLike[str] | bytes
    boxes: tuple[Box, ...] = ()
    width: int | None = None
    height: int | None = None
    filename: str = ""
    source_id: str = ""
    group: str | None = None
    split: Split | None = None
    where: str = ""

    def __post_init__(self) -> None:
        check_types(self.__dict__, Annotation, empty=True)
        try:
            object.__setattr__(self, "boxes", tuple(self.boxes))
        except TypeError as error:
            raise ResightError(f"boxes is {self.boxes!r:.80}", where="Annotation", fix="Give a list of Box.") from error
        if strangers := [box for box in self.boxes if not isinstance(box, Box)]:
            raise ResightError(f"boxes holds {strangers[0]!r:.80}", where="Annotation", fix="Give a list of Box.")
        if not self.filename and not isinstance(self.image, bytes):
            object.__setattr__(self, "filename", os.path.basename(os.fspath(self.image)))
        if not self.source_id:
            object.__setattr__(self, "source_id", self.filename)

    @property
    def place(self) -> str:
        """Where a message says that something is wrong with it."""
        return self.where or self.filename


@dataclass(frozen=True)
class Detections:
    """What a model found in one image, best score first.

    Args:
        boxes: ``[N, 4]`` float32 xyxy, absolute pixels of the original image.
        scores: ``[N]`` float32 in 0..1.
        labels: ``[N]`` int64 indices into ``classes``, from 0.
        classes: class names of the model.
        width, height: size of the image in pixels.
        file: where the image came from, "" for an array.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    width: int = 0
    height: int = 0
    file: str = ""

    @property
    def names(self) -> list[str]:
        """``[N]`` class names, beside ``labels``."""
        return [self.classes[label] for label in self.labels]

    def above(self, score: float) -> Detections:
        """The detections whose score is ``score`` or more."""
        keep = self.scores >= score
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def listed(self) -> dict[str, Any]:
        """The entry of the image in ``detections.json``."""
        rows = [
            {"label": name, "score": round(score, 5), "box": [round(side, 2) for side in box]}
            for name, score, box in self
        ]
        return {"file": self.file, "width": self.width, "height": self.height, "detections": rows}

    def plot(self, image: ImageLike | None = None) -> Image:
        """The image, upright, with the detections drawn.

        Args:
            image: the image itself, as a detector takes it; by default it is read again from ``file``.

        Raises:
            ResightError: the image is not given and came from no file, cannot be read, or is of another size.
        """
        from PIL.Image import fromarray

        from .drawing import draw
        from .io.images import as_array

        if image is None and not self.file:
            fix = "Give the image that they were found in: plot(image)."
            raise ResightError("these detections are of an image that came from no file", where="Detections", fix=fix)
        pixels, name = as_array(self.file if image is None else image)
        if (size := (pixels.shape[1], pixels.shape[0])) != (self.width, self.height):
            message = f"is {size[0]} x {size[1]} pixels; the detections are of an image of {self.width} x {self.height}"
            raise ResightError(message, where=name or "Detections", fix="Give the image that they were found in.")
        return fromarray(draw(pixels, self.boxes, self.names, self.scores, labels=len(self.classes) > 1))

    def save(self, path: str | os.PathLike[str], image: ImageLike | None = None, *, force: bool = False) -> None:
        """Writes :meth:`plot` as a JPEG or PNG, as the suffix of ``path`` says.

        Args:
            force: replace a file that exists.

        Raises:
            ResightError: as :meth:`plot`; the suffix is another; the file exists, or cannot be written.
        """
        from .drawing import save_picture
        from .io.outputs import atomic_file, check_file

        check_type("path", path, PATH, "Detections.save")
        if not os.fspath(path).lower().endswith((".jpg", ".jpeg", ".png")):
            raise ResightError("pictures are written as .jpg, .jpeg or .png", where=path)
        if os.path.exists(path) and not force:
            raise ResightError("exists already", where=path, fix="Choose another name, or replace it with force=True.")
        check_file(path, force=True)
        picture = np.asarray(self.plot(image))
        with atomic_file(path) as file:
            save_picture(picture, file)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[str, float, tuple[float, ...]]]:
        """Yields ``(name, score, (x1, y1, x2, y2))``."""
        for name, score, box in zip(self.names, self.scores, self.boxes, strict=True):
            yield name, float(score), tuple(float(side) for side in box)

    def __str__(self) -> str:
        head = f"{self.file or 'image'} ({self.width}x{self.height}): {len(self)} found"
        rows = [f"  {name} {score:.2f} [{', '.join(f'{s:.1f}' for s in box)}]" for name, score, box in self]
        return "\n".join([head, *rows])


def pairwise_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray | bool = False) -> np.ndarray:
    """``[N, M]`` float64 overlaps of xyxy boxes; with a crowd it is the part of the detection that lies inside.

    Args:
        crowd: which of the objects are crowds, ``[M]`` bool.
    """
    boxes, objects = boxes[:, None].astype(np.float64), objects[None].astype(np.float64)
    sides = np.minimum(boxes[..., 2:], objects[..., 2:]) - np.maximum(boxes[..., :2], objects[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    own, theirs = (boxes[..., 2:] - boxes[..., :2]).prod(-1), (objects[..., 2:] - objects[..., :2]).prod(-1)
    union = np.where(crowd, own, own + theirs - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
