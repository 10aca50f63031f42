"""A loss that is not a finite number any more: the end of a training, and the pictures that show why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from ..drawing import draw
from ..errors import ResightError
from ..input.dataset import TrainingExample

ADVICE = (
    "Try a lower train.learning_rate or train.clip_norm, a longer train.warmup_steps, and look at the pictures of the "
    "batch. The last good checkpoint is kept."
)


class Diverged(ResightError):
    """The loss is not a finite number any more."""

    exit_code = 1


def write_batch(folder: Path, examples: Sequence[TrainingExample], classes: Sequence[str]) -> Path:
    """Draws the images of a batch with their boxes into ``folder``, which is returned."""
    for example in examples:
        names = [classes[label] for label in example.target.labels.tolist()]
        pixels = example.image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        picture = draw(pixels, example.target.boxes.numpy(), names)
        with suppress(OSError):  # a full disk is not what this tells of
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"record-{example.record}.png")
    return folder
