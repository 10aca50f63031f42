"""A loss or a gradient that is not a finite number any more: the end of a training, with pictures that show why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from ..drawing import draw
from ..errors import ResightError
from .learner import NotFinite

ADVICE = (
    "Try a lower train.learning_rate or train.clip_norm, a longer train.warmup_steps, and look at the pictures of the "
    "batch. The last good checkpoint is kept."
)


class Diverged(ResightError):
    """The loss is not a finite number any more."""

    exit_code = 1


def diverged(run: Path, step: int, error: NotFinite, classes: Sequence[str]) -> Diverged:
    """The end of the training ``run`` at ``step``; draws the batch with its boxes into the folder ``diverged``."""
    folder = run / "diverged"
    for example in error.batch:
        names = [classes[label] for label in example.target.labels.tolist()]
        pixels = example.image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        picture = draw(pixels, example.target.boxes.numpy(), names)
        with suppress(OSError):  # a full disk is not what this tells of
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"record-{example.record}.png")
    losses = ", ".join(f"{name} {value:g}" for name, value in error.losses.items())
    message = f"the {error.what} is not finite at step {step} ({losses}); the batch is in {folder}"
    return Diverged(message, where=run, fix=ADVICE)
