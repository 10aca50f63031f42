"""Sources to pictures: images, read ahead where that helps, and the frames of videos."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np

from ..errors import ResightError
from ..io import object_store as storage
from ..io.images import decode_upright
from ..io.object_store import StorageError, is_remote, named_as
from .inputs import Source
from .many import read_ahead
from .video import Video, check_decoder


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video: its number and its time in seconds. What is made of it is called after
    ``name``; ``rate`` is how many frames a second are looked at."""

    file: str
    name: Path
    frame: int | None = None
    seconds: float = 0.0
    rate: Fraction = Fraction(1)


@dataclass(frozen=True)
class Lost:
    """What could not be read, and why; of a video that is ``partial`` frames were given before."""

    file: str
    reason: str
    partial: bool = False


def read_pictures(sources: Iterable[Source], stride: int, on_gpu: bool) -> Iterator[tuple[Picture, np.ndarray] | Lost]:
    """Each picture with its pixels ``[H, W, 3]`` uint8 RGB, upright, in order, and what could not be read.

    Args:
        stride: every so many frames of a video are given.
        on_gpu: images are decoded ahead by threads; else only those of a store are read ahead.

    Raises:
        StorageError: a store fails.
    """
    for (is_video, stored), group in groupby(sources, lambda one: (one.is_video, one.stored is not None)):
        if is_video:
            for source in group:
                yield from _frames(source, stride)
            continue
        for source, image in _images(group, on_gpu, stored):
            if isinstance(image, StorageError):
                raise image
            if isinstance(image, ResightError):
                yield Lost(source.file, str(image))
            else:
                yield Picture(source.file, Path(source.file)), image


def _images(
    sources: Iterable[Source], on_gpu: bool, stored: bool
) -> Iterator[tuple[Source, np.ndarray | ResightError]]:
    if on_gpu:
        yield from read_ahead(lambda source: decode_upright(source.encoded(), source.file), sources, True)
        return

    def decoded(read: tuple[Source, bytes | ResightError]) -> np.ndarray:
        source, data = read
        if isinstance(data, ResightError):
            raise data
        return decode_upright(data, source.file)

    for (source, _), image in read_ahead(decoded, read_ahead(Source.encoded, sources, stored), False):
        yield source, image


def _frames(source: Source, stride: int) -> Iterator[tuple[Picture, np.ndarray] | Lost]:
    given = 0
    try:
        with _local(source) as path:
            video = Video(path, stride)
            stem = Path(source.file).stem
            for frame in video:
                name = Path(f"{stem}-{frame.number:06}.jpg")
                yield Picture(source.file, name, frame.number, frame.seconds, video.rate / stride), frame.image
                given += 1
        if video.damage:
            yield Lost(source.file, f"{source.file}: {video.damage}", partial=True)
    except StorageError:
        raise
    except ResightError as error:
        yield Lost(source.file, str(error), partial=given > 0)


@contextmanager
def _local(source: Source) -> Iterator[str]:
    """The path of a video, for which it is copied from its store."""
    if not source.stored:
        yield source.file
        return
    with tempfile.TemporaryDirectory(prefix="resight-") as folder:
        path = os.path.join(folder, Path(source.file).name)
        storage.download(source.stored, Path(path))
        with named_as(source.file, Path(path)):
            yield path


def expected(sources: Sequence[Source], stride: int) -> int | None:
    """How many frames these videos will give; None where that is not known. Raises ResightError: nothing here decodes
    videos."""
    count = 0
    for source in sources:
        check_decoder(source.file)
        try:
            frames = 0 if source.stored or is_remote(source.file) else Video(source.file, stride).expected
        except ResightError:  # told when it is its turn
            continue
        if not frames:
            return None
        count += frames
    return count
