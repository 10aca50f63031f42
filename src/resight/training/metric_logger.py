"""What a run tells of itself while it trains: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from ..errors import ResightError
from ..records.tfrecord import TFRecordWriter
from .run_folder import METRICS


class MetricLogger:
    """Rows of numbers, each written at once to both; ``MetricLogger(None)`` writes nothing."""

    def __init__(self, run: Path | None) -> None:
        try:
            self._board = EventWriter(run) if run else None
            self._file = open(run / METRICS, "a", encoding="utf-8") if run else None  # noqa: SIM115
        except OSError as error:
            raise ResightError(f"cannot be written: {error.strerror}", where=run or "") from error

    def forget_after(self, step: int) -> None:
        """Later steps are taken again; the lines of metrics.jsonl are cut back before it is opened."""
        if self._board:
            self._board.forget_after(step)

    def row(self, step: int, split: str, numbers: Mapping[str, float | None], **more: float) -> None:
        """A line of metrics.jsonl with all numbers; the ``numbers`` that are not None are scalars of the board too."""
        if self._file is None or self._board is None:
            return
        finite = {name: value if value is None or math.isfinite(value) else None for name, value in numbers.items()}
        try:
            self._file.write(json.dumps({"step": step, "split": split, **more, **finite}) + "\n")
            self._file.flush()
        except OSError as error:
            raise ResightError(f"cannot be written: {error.strerror}", where=self._file.name) from error
        for name, value in finite.items():
            if value is not None:
                self._board.scalar(f"{split}/{name}", value, step)

    def picture(self, tag: str, image: np.ndarray, step: int) -> None:
        """``image`` ``[H, W, 3]`` uint8 on TensorBoard."""
        if self._board:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            self._board.picture(tag, png.getvalue(), image.shape[:2], step)

    def close(self) -> None:
        if self._file and self._board:
            # Every row was handed over when it was written, and told where that failed.
            with suppress(OSError):
                self._file.close()
            with suppress(ResightError):
                self._board.close()


class EventWriter:
    """Scalars and pictures of one run, in a TFRecord file of ``Event`` messages; every call is a complete record. It
    is written directly because torch's SummaryWriter imports TensorFlow wherever it is installed."""

    def __init__(self, folder: Path) -> None:
        self._writer = TFRecordWriter(folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.resight")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def forget_after(self, step: int) -> None:
        """Tells TensorBoard to leave out what files written before hold of later steps: they are taken again."""
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._summary(step, Summary.Value(tag=tag, simple_value=value))

    def picture(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """A PNG of ``size`` (height, width)."""
        image = Summary.Image(encoded_image_string=png, height=size[0], width=size[1], colorspace=3)
        self._summary(step, Summary.Value(tag=tag, image=image))

    def _summary(self, step: int, value: Summary.Value) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
