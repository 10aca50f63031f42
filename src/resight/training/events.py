"""TensorBoard events: a TFRecord file of ``Event`` messages.

Written directly, because torch's SummaryWriter imports TensorFlow wherever it is installed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from ..records.tfrecord import TFRecordWriter


class EventWriter:
    """Scalars and pictures of one run; every call is a complete record in the file."""

    def __init__(self, folder: Path) -> None:
        self._writer = TFRecordWriter(folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.resight")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def forget_after(self, step: int) -> None:
        """Tells TensorBoard to leave out what files written before hold of later steps: they are taken again."""
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._write(_event(step, Summary.Value(tag=tag, simple_value=value)))

    def picture(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """A PNG of ``size`` (height, width)."""
        image = Summary.Image(encoded_image_string=png, height=size[0], width=size[1], colorspace=3)
        self._write(_event(step, Summary.Value(tag=tag, image=image)))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _event(step: int, value: Summary.Value) -> Event:
    return Event(wall_time=time.time(), step=step, summary=Summary(value=[value]))
