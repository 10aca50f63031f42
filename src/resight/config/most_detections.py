"""How many detections of an image a model reports at most, and the images that hold more objects than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ResightError, counted, one_line

if TYPE_CHECKING:
    import numpy as np

LARGEST_LIMIT = 10_000  # of the detections of an image: memory is set aside for them
STEP = 100  # what is proposed is a multiple of it


class MostDetections(NamedTuple):
    """The most detections of one image, and of one class in it: the two differ in the TFOD dialect alone."""

    image: int = 100
    of_a_class: int = 100
    keys: tuple[str, ...] = ("model.detections",)
    proposals: int = LARGEST_LIMIT  # where they are set apart: each is one detection of a class at most

    def reached(self, labels: np.ndarray) -> bool:
        """Whether detections of classes ``labels`` ``[N]`` in one image are as many as there can be."""
        import numpy as np  # with which the configuration, that a run's record is told in, is not to come

        return len(labels) >= self.image or (np.bincount(labels).max(initial=0) >= self.of_a_class).item()

    def full(self, images: int) -> str:
        """Says in how many images the most was reached."""
        return (
            f"{counted(images, 'image has', 'images have')} reached the limit of detections per image ({self.limit}), "
            "so more may be missing; raise it with --detections N, of an exported model when it is exported"
        )

    @property
    def limit(self) -> str:
        """The numbers and their keys."""
        most = f"{self.image:,}" if self.image == self.of_a_class else f"{self.image:,}, {self.of_a_class:,} of a class"
        return f"{most}: {' and '.join(self.keys)}"

    def crowded(
        self, images: np.ndarray, labels: np.ndarray, name_of: Callable[[int], str], remedy: str = ""
    ) -> tuple[str, int] | None:
        """Says how many images hold more objects than can be found in them; None where no image does.

        Args:
            images, labels: ``[N]`` int, image and class of each object, both from 0.
            name_of: the name of an image.
            remedy: what to do, with ``{}`` for a number that is enough; by default the key of the configuration.

        Returns: the sentence, and the image with most objects.
        """
        import numpy as np

        kinds = int(labels.max(initial=0)) + 1
        in_image = np.bincount(images)
        of_class, counts = np.unique(images * kinds + labels, return_counts=True)
        most_of_class = np.zeros_like(in_image)
        np.maximum.at(most_of_class, of_class // kinds, counts)
        beyond = np.flatnonzero((in_image > self.image) | (most_of_class > self.of_a_class))
        if not len(beyond):
            return None
        worst = int(beyond[in_image[beyond].argmax()])
        enough = -(-3 * int(in_image[worst]) // (2 * STEP)) * STEP  # half as many again: not every detection is right
        enough = min(enough, LARGEST_LIMIT)
        keys = (*self.keys, *["model.tfod.proposals"] * (self.proposals < enough))
        remedy = (remedy or " ".join(f"--set {key}={{}}" for key in keys)).replace("{}", str(enough))
        sentence = (
            f"{counted(len(beyond), 'image has', 'images have')} more objects than the detection limit "
            f"({self.limit}), {in_image[worst]:,} in {one_line(name_of(worst))}: {remedy} reports more"
        )
        return sentence, worst


def check_most(most: int) -> None:
    """
    Raises:
        ResightError: ``most`` is no number of detections that an image can have.
    """
    if not 0 < most <= LARGEST_LIMIT:
        raise ResightError(f"{most:,} is not from 1 to {LARGEST_LIMIT:,}", where="--detections")
