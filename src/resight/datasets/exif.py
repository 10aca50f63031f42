"""In which frame boxes were drawn where an image has an EXIF rotation: its pixels as stored, or the image as shown.

Some tools show photographs turned and some do not, and few say so. One decision is taken for a whole source, from all
the evidence that its rotated images give.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import Problem, ResightError, counted, listed
from ..io.images import ImageInfo
from ..types import Annotation, Box

OUTSIDE_PIXELS, OUTSIDE_SHARE = 2.0, 0.01  # a box this far outside is clipped, one further outside is bad

Frame = Literal["stored", "upright"]
_FRAMES: dict[Frame, str] = {"stored": "the pixels as stored", "upright": "the image as shown"}


@dataclass(frozen=True)
class Habit:
    """What is known of the tool or the format that a source comes from.

    Args:
        frame: the frame its boxes are in; None where that is not known.
        why: the reason, a clause for reports.
        sized: the size it states is that of the frame it draws on. Of others a stated size of the pixels as stored
            tells nothing: they take it from the file, and the boxes from what a browser shows.
        shares: boxes are shares of the image's sides; ``width`` and ``height`` of an annotation only scale them.
    """

    frame: Frame | None = None
    why: str = ""
    sized: bool = False
    shares: bool = False


@dataclass(frozen=True)
class Decision:
    """The frame of a source's boxes, None where it has to be asked for, and why; with the number of rotated images that
    have boxes (where there are none, there is no frame), and that of their boxes."""

    frame: Frame | None = None
    why: str = ""
    images: int = 0
    boxes: int = 0

    @property
    def asks(self) -> bool:
        return self.frame is None and self.images > 0

    def text(self) -> str:
        """What is done with the boxes and why; "" where there is nothing to say."""
        if self.frame is None or not self.images:
            return ""
        what = f"{counted(self.boxes, 'box', 'boxes')} in {counted(self.images, 'image')} with an EXIF rotation"
        image = "its image" if self.boxes == 1 else "their images" if self.images > 1 else "the image"
        shown = f"drawn on the {'image' if self.images == 1 else 'images'} as shown"
        done = f"rotated with {image}" if self.frame == "stored" else shown
        return f"{what} {'was' if self.boxes == 1 else 'were'} {done}: {self.why}"

    def question(self, source: str) -> ResightError:
        """The error that asks which frame it is."""
        who = f"{counted(self.images, 'image')} with {counted(self.boxes, 'box', 'boxes')}"
        message = f"{who} {'has' if self.images == 1 else 'have'} an EXIF rotation, and {self.why}"
        look = f"resight data show {shlex.quote(source)} --exif"
        fix = f"Look at both: {look} stored -o look-stored and {look} upright -o look-upright. "
        fix += "Then give the one whose boxes are on the objects: --exif stored or --exif upright."
        if not source:
            fix = 'Give exif="stored" or exif="upright", whichever puts the boxes on the objects.'
        return ResightError(message, where=source or "write_records", fix=fix)

    def problem(self, source: str) -> Problem:
        """The same as a finding."""
        error = self.question(source)
        return Problem("error", "exif_rotation", source, f"{error.message}. {error.fix}")


def decide(
    rotated: Sequence[tuple[Annotation, ImageInfo]], choice: str = "auto", habit: Habit | None = None
) -> Decision:
    """Which frame the boxes of a source are in.

    A box that reaches out of one frame and fits the other tells it; so does a stated size that is the upright one
    only; so does the tool. Whatever tells counts for all images. Where nothing does, or two things contradict each
    other, the decision ``asks``.

    Args:
        rotated: the images of the source that have an EXIF rotation and boxes, with their headers.
        choice: "auto", or the frame itself.
    """
    habit = habit or Habit()
    images, boxes = len(rotated), sum(len(annotation.boxes) for annotation, _ in rotated)
    if choice != "auto" and images:
        return Decision("stored" if choice == "stored" else "upright", f"--exif {choice}", images, boxes)
    evidence: dict[Frame, str] = {}
    for annotation, image in rotated:
        for frame, sign in _signs(annotation, image, habit):
            evidence.setdefault(frame, f"{sign} ({annotation.place})")
        if len(evidence) == 2:
            break
    if habit.frame and not (evidence and habit.sized):
        evidence.setdefault(habit.frame, habit.why)
    if len(evidence) == 1:
        return Decision(*evidence.popitem(), images, boxes)
    if evidence:
        signs = "; ".join(f"for {_FRAMES[frame]}: {why}" for frame, why in evidence.items())
        return Decision(None, f"the evidence for the frame of the boxes is contradictory: {signs}", images, boxes)
    examples = listed((f"{a.filename} (orientation {image.orientation})" for a, image in rotated), 3)
    where = " or ".join(f"on {frame}" for frame in _FRAMES.values())
    why = f"nothing in the source shows whether the boxes were drawn {where}: {examples}"
    return Decision(None, why, images, boxes)


def _signs(annotation: Annotation, image: ImageInfo, habit: Habit) -> Iterator[tuple[Frame, str]]:
    """What one image tells, each with its frame."""
    raw, upright = (image.width, image.height), image.upright_size
    if raw == upright or habit.shares:  # no quarter turn, or a square; shares fit both
        return
    name, said = annotation.filename, (annotation.width or 0, annotation.height or 0)
    if said == upright:
        yield "upright", f"{name} is said to have {said[0]} x {said[1]} pixels, as it is shown"
    elif said == raw and habit.sized:
        yield "stored", f"{name} is said to have {said[0]} x {said[1]} pixels, as it is stored"
    sizes: dict[Frame, tuple[int, int]] = {"stored": raw, "upright": upright}
    for box in annotation.boxes:
        fit = [frame for frame, (width, height) in sizes.items() if beyond(box, width, height) <= 0]
        if len(fit) == 1 and box.xmax > box.xmin and box.ymax > box.ymin:
            corners = ", ".join(f"{side:g}" for side in box.xyxy)
            yield fit[0], f"a box of {name} ({corners}) fits only {_FRAMES[fit[0]]}"


def beyond(box: Box, width: int, height: int) -> float:
    """By how many pixels a box reaches further out of an image than is clipped; 0 or less if it does not."""
    outside = ((max(-box.xmin, box.xmax - width), width), (max(-box.ymin, box.ymax - height), height))
    return max(by - max(OUTSIDE_PIXELS, OUTSIDE_SHARE * side) for by, side in outside)


def shown_boxes(annotation: Annotation, image: ImageInfo, frame: Frame, habit: Habit | None = None) -> tuple[Box, ...]:
    """The boxes of a rotated image, drawn in ``frame``, in pixels of the image as it is shown."""
    boxes = annotation.boxes
    size = (image.width, image.height) if frame == "stored" else image.upright_size
    if habit and habit.shares and annotation.width and annotation.height:
        x, y = size[0] / annotation.width, size[1] / annotation.height
        if (x, y) != (1, 1):
            boxes = tuple(replace(b, xmin=b.xmin * x, ymin=b.ymin * y, xmax=b.xmax * x, ymax=b.ymax * y) for b in boxes)
    return tuple(_turn(box, image) for box in boxes) if frame == "stored" else boxes


def _turn(box: Box, image: ImageInfo) -> Box:
    """A box on the pixels as stored, on the image as it is shown."""
    (x1, x2), (y1, y2) = (box.xmin, box.xmax), (box.ymin, box.ymax)
    if image.orientation in (2, 3, 7, 8):
        x1, x2 = image.width - x2, image.width - x1
    if image.orientation in (3, 4, 6, 7):
        y1, y2 = image.height - y2, image.height - y1
    if image.orientation >= 5:
        (x1, x2), (y1, y2) = (y1, y2), (x1, x2)
    return replace(box, xmin=x1, ymin=y1, xmax=x2, ymax=y2)
