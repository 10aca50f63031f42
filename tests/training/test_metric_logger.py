import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from resight.errors import ResightError
from resight.training.metric_logger import EventWriter, MetricLogger


def test_tensorboard_reads_what_is_written(tmp_path, monkeypatch):
    # TensorBoard asks for this module to do without TensorFlow, whose import takes longer than all other tests here.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    writer = EventWriter(tmp_path)
    values = [(1, 0.5), (20, 1e-12), (50_000, float("inf"))]
    for step, value in values:
        writer.scalar("train/loss", value, step)
    writer.picture("val/image", png.getvalue(), (2, 3), 7)
    read = EventAccumulator(str(tmp_path)).Reload()  # while it is still being written
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [
        (step, float(np.float32(value))) for step, value in values
    ]
    (image,) = read.Images("val/image")
    assert (image.step, image.height, image.width) == (7, 2, 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), pixels)
    writer.scalar("val/mAP", 0.25, 8)
    writer.close()
    assert [event.value for event in read.Reload().Scalars("val/mAP")] == [0.25]
    (file,) = tmp_path.iterdir()
    assert "tfevents" in file.name


def test_steps_that_are_taken_again_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = EventWriter(tmp_path)
    for step in (1, 2, 3):
        first.scalar("train/loss", 10 + step, step)
    first.close()
    next(tmp_path.iterdir()).rename(tmp_path / "events.out.tfevents.1")
    second = EventWriter(tmp_path)
    second.forget_after(2)
    second.scalar("train/loss", 23, 3)
    second.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 11), (2, 12), (3, 23)]


def test_a_full_disk_is_told_once_with_its_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    journal = MetricLogger(tmp_path)
    with pytest.raises(ResightError, match="No space left"):
        journal.row(1, "train", {"loss": 1.0})
    journal.close()
