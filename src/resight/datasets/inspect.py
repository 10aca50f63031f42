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
        problems: kinds ``missing_image``, ``unreadable_image``, ``size_mismatch``, ``bad_box``, ``outside_box`` and
            ``unknown_class`` are errors, ``duplicate_box`` is a warning.
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


def inspect(
    annotation: Annotation,
    classes: Sequence[str] = (),
    *,
    deep: bool = False,
    frame: Frame | None = None,
    habit: Habit | None = None,
) -> Inspection:
    """Opens the image and checks the annotation against it. Raises nothing: all it finds is in the result.

    Args:
        annotation: as a source gives it.
        classes: the class names that are known; empty: any is.
        deep: decode the pixels as well (at reduced size where the format can), which finds truncated files and gives
            the hash; else only the header is read.
        frame: the frame its boxes are in where the image has an EXIF rotation, as ``exif.decide`` tells.
        habit: what is known of its source.
    """
    try:
        image, fingerprint = _look(annotation, deep)
    except ResightError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return _bad(annotation, "missing_image", f"not found: {annotation.image!s}")
        return _bad(annotation, "unreadable_image", error.message)
    return judge(annotation, image, classes, frame=frame, habit=habit, fingerprint=fingerprint)


def judge(
    annotation: Annotation,
    image: ImageInfo,
    classes: Sequence[str] = (),
    *,
    frame: Frame | None = None,
    habit: Habit | None = None,
    fingerprint: int | None = None,
) -> Inspection:
    """The second half of ``inspect``, of an image that was opened."""
    where, name = annotation.place, annotation.filename or annotation.source_id
    width, height = image.upright_size
    boxes = annotation.boxes
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
    if not deep:
        return image, None
    if image.mode in ("F", "LAB", "HSV", "YCbCr"):  # rare: whether these can be read is for the whole decoder to say
        decode(data, annotation.filename)
    try:
        return image, perceptual_hash(open_image(data, annotation.filename))
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
    within = _clip(box, width, height)
    if within.xmax <= within.xmin or within.ymax <= within.ymin:
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
