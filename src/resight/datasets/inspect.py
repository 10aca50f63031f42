"""One annotation against its image: what can be repaired is repaired and counted, what cannot is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import Problem, ResightError, nearest
from ..io.images import ImageInfo, StoredImage, decode, open_image, probe, probe_file, read_bytes
from ..types import Annotation, Box
from .exif import Frame, Habit, beyond, shown_boxes
from .near_duplicates import perceptual_hash


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    Args:
        annotation: with the image's true size after its EXIF rotation, its boxes in that frame, clipped, without
            repeats and without bad ones; None where the image itself is bad, or its frame is ``undecided``.
        image: the image's header; None where it cannot be read.
        clipped: number of boxes that were clipped to the image.
        hash: perceptual hash of the image, None for a flat image or where ``deep`` was not asked for.
        undecided: the image has an EXIF rotation and boxes, and the frame of the boxes was not given.
    """

    annotation: Annotation | None
    image: ImageInfo | None
    problems: tuple[Problem, ...] = ()
    clipped: int = 0
    hash: int | None = None
    undecided: bool = False

    @property
    def rotated(self) -> bool:
        """The image has an EXIF rotation and will be stored upright."""
        return self.image is not None and self.image.orientation != 1


def inspect(annotation: Annotation, classes: Sequence[str] = (), *, deep: bool = False) -> Inspection:
    """Opens the image and checks the annotation against it. Raises nothing: all it finds is in the result.

    Args:
        classes: the class names that are known; empty: any is.
        deep: decode the pixels as well (at reduced size where the format can), which finds truncated files and gives
            the hash; else only the header is read.
    """
    try:
        image, fingerprint = _look(annotation, deep)
    except ResightError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return _bad(annotation, "missing_image", f"not found: {annotation.image!s}")
        return _bad(annotation, "unreadable_image", error.message)
    return judge(annotation, image, classes, fingerprint=fingerprint)


def judge(
    annotation: Annotation,
    image: ImageInfo,
    classes: Sequence[str] = (),
    *,
    frame: Frame | None = None,
    habit: Habit | None = None,
    fingerprint: int | None = None,
) -> Inspection:
    """The second half of ``inspect``, of an image that was opened; with the frame that ``exif.decide`` found, where the
    image has an EXIF rotation, and what is known of the source."""
    where, name, boxes = annotation.place, annotation.filename or annotation.source_id, annotation.boxes
    width, height = image.upright_size
    said = (annotation.width or 0, annotation.height or 0)
    if 0 not in said and said not in ((image.width, image.height), (width, height)):
        message = f"the annotation says {said[0]} x {said[1]} pixels, the image has {width} x {height}"
        return _bad(annotation, "size_mismatch", message, image)
    if image.orientation != 1 and boxes:
        if frame is None:
            return Inspection(None, image, hash=fingerprint, undecided=True)
        boxes = shown_boxes(annotation, image, frame, habit)

    problems: list[Problem] = []
    good: dict[Box, None] = {}
    clipped = 0
    for number, box in enumerate(boxes, 1):
        kind, message = _fault(box, width, height, classes)
        if kind:
            problems.append(Problem("error", kind, where, f"{name}: box {number} ({box.label}) {message}"))
            continue
        inside = _clip(box, width, height)
        clipped += inside != box
        if inside in good:
            message = f"{name}: box {number} ({box.label}) repeats an earlier one"
            problems.append(Problem("warning", "duplicate_box", where, message))
        good[inside] = None
    mended = replace(annotation, boxes=tuple(good), width=width, height=height)
    return Inspection(mended, image, tuple(problems), clipped, fingerprint)


def _bad(annotation: Annotation, kind: str, message: str, image: ImageInfo | None = None) -> Inspection:
    name = annotation.filename or annotation.source_id
    return Inspection(None, image, (Problem("error", kind, annotation.place, f"{name}: {message}"),))


def _look(annotation: Annotation, deep: bool) -> tuple[ImageInfo, int | None]:
    source = annotation.image
    if not deep and not isinstance(source, bytes | StoredImage):
        return probe_file(source), None
    data = read_bytes(source)
    image = probe(data, annotation.filename)
    if image.mode in ("F", "LAB", "HSV", "YCbCr") and deep:  # rare: the whole decoder says whether these can be read
        decode(data, annotation.filename)
    try:
        return image, perceptual_hash(open_image(data, annotation.filename)) if deep else None
    except ResightError:
        raise
    except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
        raise ResightError(f"the image is truncated or damaged: {error}", where=annotation.filename) from error


def _fault(box: Box, width: int, height: int, classes: Sequence[str]) -> tuple[str, str]:
    """``(kind, message)`` of the first thing wrong with a box, or two empty strings."""
    corners = "(" + ", ".join(f"{side:g}" for side in box.xyxy) + ")"
    if not box.label.strip():
        return "unknown_class", "has no class"
    if classes and box.label not in classes:
        return "unknown_class", f"is of an unknown class. {nearest(box.label, classes)}".rstrip()
    if not all(math.isfinite(side) for side in box.xyxy):
        return "bad_box", f"has corners that are not numbers: {corners}"
    if box.xmax <= box.xmin or box.ymax <= box.ymin:
        return "bad_box", f"has no positive width and height: {corners}"
    if box.xmax <= 0 or box.ymax <= 0 or box.xmin >= width or box.ymin >= height:
        return "outside_box", f"lies wholly outside the image of {width} x {height} pixels: {corners}"
    if beyond(box, width, height) > 0:
        by = max(-box.xmin, box.xmax - width, -box.ymin, box.ymax - height)
        return "outside_box", f"reaches {by:.4g} pixels out of the image of {width} x {height} pixels: {corners}"
    return "", ""


def _clip(box: Box, width: int, height: int) -> Box:
    if box.xmin >= 0 and box.ymin >= 0 and box.xmax <= width and box.ymax <= height:
        return box
    xmin, xmax = (min(max(x, 0), width) for x in (box.xmin, box.xmax))
    ymin, ymax = (min(max(y, 0), height) for y in (box.ymin, box.ymax))
    return replace(box, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
