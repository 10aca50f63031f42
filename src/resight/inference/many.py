"""Many images: on a GPU read ahead by threads and looked at together, on a CPU one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import ResightError
from ..io.cores import core_count
from ..types import Detections

if TYPE_CHECKING:
    from .detector import Detector

# Images looked at together, of whatever sizes, and as many more are read meanwhile. They take at most so many bytes, or
# one more image does.
WINDOW, WINDOW_BYTES = 32, 256_000_000
THREADS = 8

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    read: Callable[[Item], Read], items: Iterable[Item], threads: bool
) -> Iterator[tuple[Item, Read | ResightError]]:
    """Each item and what ``read`` makes of it, or the error it raises, in order; ``threads`` begin ahead."""

    def tried(item: Item) -> Read | ResightError:
        try:
            return read(item)
        except ResightError as error:
            return error

    if not threads:
        yield from ((item, tried(item)) for item in items)
        return
    pool = ThreadPoolExecutor(min(THREADS, core_count()))
    pending: deque[tuple[Item, Future[Read | ResightError]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(tried, item)))
            if len(pending) > WINDOW:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def detect_each(
    detector: Detector, images: Iterable[tuple[Item, np.ndarray]]
) -> Iterator[tuple[Item, np.ndarray, Detections]]:
    """Each item with its image ``[H, W, 3]`` uint8 RGB and all that is found in it, in order."""
    if not detector.on_gpu:
        yield from ((item, image, detector.detect(image)) for item, image in images)
        return
    for window in _windows(images):
        found = detector.detect_batch([image for _, image in window])
        yield from ((item, image, one) for (item, image), one in zip(window, found, strict=True))


def _windows(images: Iterable[tuple[Item, np.ndarray]]) -> Iterator[list[tuple[Item, np.ndarray]]]:
    window: list[tuple[Item, np.ndarray]] = []
    for item, image in images:
        window.append((item, image))
        if len(window) == WINDOW or sum(one.nbytes for _, one in window) >= WINDOW_BYTES:
            yield window
            window = []
    if window:
        yield window
