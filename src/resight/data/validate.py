"""One annotation against its image: what can be mended is mended and counted, what cannot is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..boxes import Annotation, Box
from ..errors import Problem, ResightError, nearest
from .images import ImageInfo, StoredImage, decode, open_image, probe, probe_file, read_bytes
from .near_duplicates import perceptual_hash

OUTSIDE_PIXELS, OUTSIDE_SHARE = 2.0, 0.01  # a box this far outside is clipped, one further outside is bad


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    Args:
        annotation: with the image's true size after its EXIF rotation, its boxes in that frame, clipped, without
            repeats and without bad ones; None where the image itself is bad.
        image: the image's header; None where it cannot be read.
        problems: kinds ``missing_image``, ``unreadable_image``, ``size_mismatch``, ``exif_rotation``, ``bad_box``,
            ``outside_box`` and ``unknown_class`` are errors, ``duplicate_box`` is a warning.
        clipped: number of boxes that were clipped to the image.
        hash: perceptual hash of the image, None for a flat image or where ``deep`` was not asked for.
    """

    annotation: Annotation | None
    image: ImageInfo | None
    problems: tuple[Problem, ...] = ()
    clipped: int = 0
    hash: int | None = None

    @property
    def rotated(self) -> bool:
        """The image has an EXIF rotation and will be stored upright."""
        return self.image is not None and self.image.orientation != 1


def inspect(annotation: Annotation, classes: Sequence[str] = (), *, deep: bool = False) -> Inspection:
    """Opens the image and checks the annotation against it. Raises nothing: all it finds is in the result.

    Args:
        annotation: as a source gives it.
        classes: the class names that are known; empty: any is.
        deep: decode the pixels as well (at reduced size where the format can), which finds truncated files and gives
            the hash; else only the header is read.
    """
    where = annotation.place
    name = annotation.filename or annotation.source_id

    def bad(kind: str, message: str, image: ImageInfo | None = None) -> Inspection:
        return Inspection(None, image, (Problem("error", kind, where, f"{name}: {message}"),))

    try:
        image, fingerprint = _look(annotation, deep)
    except ResightError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return bad("missing_image", f"not found: {annotation.image!s}")
        return bad("unreadable_image", error.message)

    width, height = image.upright_size
    boxes = annotation.boxes
    said = (annotation.width or 0, annotation.height or 0)
    if 0 not in said and said not in ((image.width, image.height), (width, height)):
        message = f"the annotation says {said[0]} x {said[1]} pixels, the image has {width} x {height}"
        return bad("size_mismatch", message, image)
    if image.orientation != 1 and boxes:
        # Only a quarter turn of an image that is not square shows in which frame the boxes were drawn.
        if image.orientation < 5 or width == height or 0 in said:
            tag = f"the image has an EXIF rotation (orientation {image.orientation})"
            return bad("exif_rotation", f"{tag} and nothing tells whether its boxes follow it", image)
        if said != (width, height):
            boxes = tuple(_turn(box, image) for box in boxes)

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
        return "bad_box", f"has corners that are no numbers: {corners}"
    if box.xmax <= box.xmin or box.ymax <= box.ymin:
        return "bad_box", f"has no positive width and height: {corners}"
    within = _clip(box, width, height)
    if within.xmax <= within.xmin or within.ymax <= within.ymin:
        return "outside_box", f"lies wholly outside the image of {width} x {height} pixels: {corners}"
    outside = ((max(-box.xmin, box.xmax - width), width), (max(-box.ymin, box.ymax - height), height))
    if any(beyond > max(OUTSIDE_PIXELS, OUTSIDE_SHARE * side) for beyond, side in outside):
        by = max(beyond for beyond, _ in outside)
        return "outside_box", f"reaches {by:.4g} pixels out of the image of {width} x {height} pixels: {corners}"
    return "", ""


def _clip(box: Box, width: int, height: int) -> Box:
    if box.xmin >= 0 and box.ymin >= 0 and box.xmax <= width and box.ymax <= height:
        return box
    xmin, xmax = (min(max(x, 0), width) for x in (box.xmin, box.xmax))
    ymin, ymax = (min(max(y, 0), height) for y in (box.ymin, box.ymax))
    return replace(box, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def _turn(box: Box, image: ImageInfo) -> Box:
    """A box drawn on the image as stored, in the frame of the image as it is shown (EXIF orientations 5 to 8)."""
    x, y = (box.ymin, box.ymax), (box.xmin, box.xmax)
    if image.orientation in (6, 7):
        x = (image.height - x[1], image.height - x[0])
    if image.orientation in (7, 8):
        y = (image.width - y[1], image.width - y[0])
    return replace(box, xmin=x[0], ymin=y[0], xmax=x[1], ymax=y[1])
