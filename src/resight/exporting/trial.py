"""What an exported model is tried on: mAP on the validation records, time an image, and a sample of training images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ResightError
from ..evaluation.evaluate import data_of, run_folder
from ..evaluation.loop import ClassNames, evaluate_images, measure
from ..inference.detector import Detector
from ..io.progress import track
from ..random_streams import numpy_stream
from ..records.reader import RecordSplit, open_configured

TIMED, ROUNDS = 10, 3  # images on which times are taken, and how often each


class Missed(ResightError):
    """What was asked for cannot be had within the loss of mAP that is allowed; nothing was written."""

    exit_code = 1


class OneByOne(Sequence[Any]):
    """``make(0)``, ``make(1)``, ...: each is made when it is asked for, as all together may fill the memory."""

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        if not 0 <= place < self._count:
            raise IndexError(place)
        return self._make(place)


class Trial:
    """
    Args:
        model: the run, or another model of which ``data`` tells the records.
        max_ap_loss: how much less than the model's own mAP is good enough.

    Raises:
        ResightError: there are no such records, or they have no training or validation split.
    """

    def __init__(self, model: str | os.PathLike[str], data: str | os.PathLike[str] | None, max_ap_loss: float) -> None:
        self.records = open_configured(data_of(model, run_folder(model), data)[0])
        splits = self.records.splits
        if missing := [name for name in ("train", "val") if name not in splits]:
            message = f"has no {' and no '.join(missing)}: int8 is calibrated on train, and mAP measured on val"
            raise ResightError(message, where=self.records.path, fix="Name records with both: --data RECORDS")
        self.train, self.val = splits["train"], splits["val"]
        self.max_ap_loss = max_ap_loss

    def ap(self, detector: Detector, title: str) -> float:
        """The mAP of the detector on the validation records."""

        def on_error(error: ResightError) -> None:
            raise error

        names, images = ClassNames(self.records, detector.classes), track(range(len(self.val)), title)
        options = {"on_error": on_error, "class_names": names, "with_losses": False}
        results = [result for _, result in evaluate_images(detector, self.val, images, **options)]  # type: ignore[arg-type]
        truths, found = [result.truth for result in results], [result.detections for result in results]
        value = measure(truths, found, detector.classes)[0].summary["mAP"]
        if value is None:
            raise ResightError("holds no object of the model's classes to measure mAP on", where=self.val.name)
        return value

    def samples(self, count: int) -> OneByOne:
        """``count`` training images at most, always the same."""
        return _some(self.train, count)

    def milliseconds(self, looks: Sequence[Callable[[np.ndarray], object]]) -> list[float]:
        """The median time of each for an image, in turn on the same images."""
        taken: list[list[float]] = [[] for _ in looks]
        images = list(_some(self.val, TIMED))
        for number in range(ROUNDS):
            for image in images:
                for look, times in zip(looks, taken, strict=True):
                    begin = time.perf_counter()
                    look(image)
                    if number:  # the first time it also prepares itself
                        times.append((time.perf_counter() - begin) * 1000)
        return [float(np.median(times)) for times in taken]


def _some(split: RecordSplit, count: int) -> OneByOne:
    chosen = sorted(map(int, numpy_stream(0, "samples of an export").permutation(len(split))[:count]))
    return OneByOne(lambda place: split.pixels(chosen[place], split[chosen[place]]), len(chosen))
