"""Videos: their frames in order, upright, and drawn frames as a video. PyAV decodes and encodes; it is the extra
``video``."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ResightError, counted
from ..io.files import check_regular
from ..io.images import max_image_mb

# Containers that are files of their own; what lists other files or addresses, as HLS does, is none.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpegts,mpeg,mpegvideo,flv,asf,h264,hevc,ogg"
_OPEN = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_TICK = Fraction(1, 60_000)  # seconds; MPEG-4 has no finer one
_ENCODERS = ("libx264", "mpeg4")  # the first one that is there


@dataclass(frozen=True)
class Frame:
    """``number`` counts the frames of the video from 0, ``seconds`` from its start; ``image`` is ``[H, W, 3]`` uint8
    RGB, turned as the video says."""

    number: int
    seconds: float
    image: np.ndarray


class Video:
    """The frames of a video file, read one after the other.

    Args:
        stride: each how many frames one is given.

    ``rate`` is frames in a second, ``expected`` how many frames will be given (0: not known), and ``damage`` says, once
    they were given, what could not be decoded.

    Raises:
        ResightError: PyAV is missing, or the file cannot be read or holds no video; while it is read: nothing in it
            could be decoded.
    """

    def __init__(self, path: str | os.PathLike[str], stride: int = 1) -> None:
        self._av, self._path, self._stride, self.damage = check_decoder(path), os.path.abspath(path), stride, ""
        self._where = os.fspath(path)
        check_regular(path)
        with self._open() as container:
            stream = self._stream(container)
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self._frames = int(stream.frames)
            frames = self._frames or int((container.duration or 0) / 1e6 * self.rate)
            self.expected = -(-frames // stride)

    def _open(self) -> Any:
        try:
            container = self._av.open(self._path, container_options=_OPEN, metadata_errors="replace")
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            message = f"is no video of a known format, or is damaged: {_reason(error)}"
            raise ResightError(message, where=self._where) from error
        return container

    def _stream(self, container: Any) -> Any:
        """The first stream of pictures that move: a sound file has a cover, too."""
        cover = self._av.stream.Disposition.attached_pic
        if not (videos := [one for one in container.streams.video if not one.disposition & cover]):
            raise ResightError("holds no video", where=self._where)
        return videos[0]

    def __iter__(self) -> Iterator[Frame]:
        with self._open() as container:
            stream = self._stream(container)
            number, seconds, start = -1, 0.0, None
            for number, frame in enumerate(self._decoded(container, stream)):
                seconds = float(number / self.rate) if frame.time is None else float(frame.time)
                start = seconds if start is None else start
                if number % self._stride == 0:
                    yield Frame(number, round(max(seconds - start, 0.0), 6), self._image(frame))
            length = _seconds(stream, container)
        if number < 0:
            raise ResightError("holds no frame that can be decoded", where=self._where)
        lasts = seconds - (start or 0.0) + 2 / self.rate
        if (frames := self._frames - self._passed) > number + 1:
            self.damage = f"only {number + 1:,} of its {frames:,} frames could be decoded"
        elif lasts < length:
            self.damage = f"breaks off after {lasts:.1f} of its {length:.1f} seconds"
        elif self._errors:
            self.damage = f"{counted(self._errors, 'damaged frame')}"

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames of the decoder's own type; what is damaged is counted, and the next packet tried. So is what the video
        says that it does not show: it was cut without being encoded again."""
        self._errors = self._passed = 0
        broken = (self._av.error.FFmpegError, OSError)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except broken:
                self._errors += 1
                return
            if packet is None:
                return
            self._passed += packet.is_discard
            try:
                frames = packet.decode()
            except broken:
                self._errors += 1
                continue
            self._errors += sum(bool(frame.is_corrupt) for frame in frames)
            yield from frames

    def _image(self, frame: Any) -> np.ndarray:
        if (needed := frame.width * frame.height * 6 / 1e6) > max_image_mb():
            message = f"its frames of {frame.width} x {frame.height} pixels take {needed:,.0f} MB"
            raise ResightError(message, where=self._where)
        image: np.ndarray = frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class VideoWriter:
    """Writes frames as an ``.mp4`` (H.264, or MPEG-4 where the encoder is missing), each shown from its own time on.
    Frames of another size than the first are scaled. Raises ResightError: it cannot be written."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._av, self._path, self._rate, self._last = check_decoder(path), path, rate, -1
        self._container = self._av.open(str(path), "w", format="mp4")
        self._stream: Any = None
        self._size = (0, 0)

    def add(self, image: np.ndarray, seconds: float) -> None:
        """``image`` ``[H, W, 3]`` uint8 RGB."""
        if self._stream is None:
            self._start(image)
        if image.shape[1::-1] != self._size:
            image = np.asarray(Image.fromarray(image).resize(self._size))
        odd = ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0))  # an encoder halves colours
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(image, odd, "edge")), format="rgb24")
        self._last = max(round(seconds / _TICK), self._last + 1)
        frame.pts, frame.time_base = self._last, _TICK
        self._encode(frame)

    def close(self) -> None:
        with closing(self._container):
            if self._stream is not None:
                self._encode(None)

    def _start(self, image: np.ndarray) -> None:
        encoder = next(name for name in _ENCODERS if name == _ENCODERS[-1] or name in _available(self._av))
        options = {"crf": "20", "preset": "veryfast"} if encoder == "libx264" else {"q": "4"}
        self._stream = self._container.add_stream(encoder, rate=self._rate, options=options)
        height, width = image.shape[:2]
        self._size = (width, height)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TICK

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (self._av.error.FFmpegError, ValueError) as error:
            raise ResightError(f"the drawn video cannot be written: {_reason(error)}", where=self._path.name) from error


def check_decoder(path: object) -> ModuleType:
    """PyAV. Raises ResightError: it is not installed."""
    try:
        import av
        import av.error
    except ImportError as error:
        fix = (
            "pip install 'resight[video]'; or write its frames as images first:\n"
            f"  mkdir frames && ffmpeg -i {shlex.quote(str(path))} -vf fps=2 frames/%05d.jpg\n"
            "  and predict on the folder frames."
        )
        raise ResightError("videos need the package av", where=path, fix=fix) from error
    return av


def _seconds(stream: Any, container: Any) -> float:
    """How long the video is by its header; 0 where that does not say, or only of sound and pictures together."""
    if said := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska's
        hours, minutes, seconds = map(float, said.groups())
        return 3600 * hours + 60 * minutes + seconds
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if len(container.streams) > 1 else (container.duration or 0) / 1e6


def _available(av: ModuleType) -> set[str]:
    return set(av.codec.codecs_available)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
