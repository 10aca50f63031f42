"""What to train in the minutes given: input size, backbone and box heads, by what each reached on a measured set.

The table was measured once: ``benchmarks/accuracy.py`` on the first fold of the road signs (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..config.defaults import MAX_STEPS
from ..config.tree import AugmentConfig, Config, ModelConfig
from ..dialect import model_config
from ..errors import counted
from ..input.dataset import network_boxes
from ..input.target import input_size
from ..records.reader import RecordSplit

SIDES = (16, 32, 64)  # between the classes of objects by size: square roots of areas, pixels at the default's input
BATCH = 8  # images of a step of the table
GAIN = 0.01  # of mAP, by which a candidate must beat the default
EVALUATING = 0.1  # share of the minutes that evaluations take at the most

Values = tuple[float, ...]  # mAP of objects of each class by size


@dataclass(frozen=True)
class Candidate:
    name: str
    min_size: int
    max_size: int
    heads: int
    cost: float  # seconds of a step, in steps of the default
    values: Mapping[int, Values]  # by steps

    @property
    def keys(self) -> dict[str, str | int]:
        return {key: getattr(self, key) for key in ("name", "min_size", "max_size", "heads")}

    def __str__(self) -> str:
        return f"{self.name}, {self.min_size}-{self.max_size} px, {self.heads} box head{'s' * (self.heads > 1)}"


DEFAULT = Candidate("tf_efficientnet_lite0", 384, 640, 2, 1.0, {})
CANDIDATES = (DEFAULT,)


@dataclass(frozen=True)
class Choice:
    """The candidates with the steps that the minutes hold and the mAP expected after them, and the one chosen."""

    minutes: float
    rows: tuple[tuple[Candidate, int, float], ...]
    chosen: Candidate

    def lines(self) -> list[str]:
        """The rows of the plan."""
        said = [f"for {self.minutes:g} min on this machine; mAP is what road signs of your objects' sizes had"]
        for candidate, steps, value in self.rows:
            mark = " (chosen)" * (candidate is self.chosen)
            said.append(f"{candidate}: about {counted(steps, 'step')}, mAP {min(max(value, 0), 1):.2f}{mark}")
        return said


def is_open(config: Config) -> bool:
    """Whether there is a choice: ``train.max_minutes`` without steps or epochs, published weights, no tiles, and more
    than one candidate that agrees with what is set."""
    model, train = config.model, config.train
    by_clock = train.max_minutes and not train.steps and not train.epochs
    free = model.dialect == "fpn" and model.start == "pretrained" and not model.tile
    return bool(by_clock) and free and len(_candidates(model)) > 1


def choose(config: Config, train: RecordSplit, seconds: float, evaluated: bool) -> tuple[Config, Choice]:
    """``config`` with the best candidate for the minutes given; what is set stays.

    Args:
        seconds: that a step of the default takes here, on 8 images of its largest size.
        evaluated: whether evaluations take their share of the minutes.
    """
    minutes, candidates, default = config.train.max_minutes or 0.0, _candidates(config.model), model_config({})
    sides = np.sqrt(network_boxes(train, default)[0].prod(1))
    shares = np.bincount(np.digitize(sides, SIDES), minlength=len(SIDES) + 1) / max(len(sides), 1)
    images = min(config.train.batch_size, len(train)) * config.train.accumulate
    a_step = seconds * images / BATCH * _area(train, config.augment, default) / (default.min_size * default.max_size)
    left = 60 * minutes * (1 - EVALUATING * evaluated)
    counts = [max(round(min(left / (a_step * each.cost), MAX_STEPS)), 1) for each in candidates]
    values = [
        float(shares @ expected(each, count * images / BATCH)) for each, count in zip(candidates, counts, strict=True)
    ]
    best = max(range(len(candidates)), key=lambda i: values[i] + GAIN * (candidates[i] is DEFAULT))
    choice = Choice(minutes, tuple(zip(candidates, counts, values, strict=True)), candidates[best])
    own = config.model.model_dump(exclude_unset=True)
    return config.model_copy(update={"model": model_config(own | choice.chosen.keys)}), choice


def expected(candidate: Candidate, steps: float) -> np.ndarray:
    """``[4]`` mAP of objects by size after so many steps of 8 images; below 0 where these are too few for any.

    The default's is interpolated in the logarithm of the steps, falls on below the first and stays above the last.
    Other candidates add their difference from the default, interpolated likewise and constant on both sides.
    """
    at, measured = np.log(max(steps, 1.0)), DEFAULT.values
    x, y = np.log(list(measured)), np.array(list(measured.values()))
    slope = (y[1] - y[0]) / (x[1] - x[0])
    found = _between(at, x, y) + slope * min(at - x[0], 0)
    if candidate is not DEFAULT:
        more = np.array([np.subtract(values, measured[n]) for n, values in candidate.values.items()])
        found += _between(at, np.log(list(candidate.values)), more)
    return found


def _between(at: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.interp(at, x, column) for column in y.T])


def _candidates(model: ModelConfig) -> list[Candidate]:
    """Those that agree with what is set."""
    own = {key: getattr(model, key) for key in DEFAULT.keys if key in model.model_fields_set}
    return [candidate for candidate in CANDIDATES if own.items() <= candidate.keys.items()]


def _area(train: RecordSplit, augment: AugmentConfig, model: ModelConfig) -> float:
    """Pixels of an image in training: the mean over the images and their random scales."""
    kinds, counts = np.unique(train.sizes, axis=0, return_counts=True)
    areas = [np.prod(input_size(int(height), int(width), model)) for width, height in kinds]
    scales = np.geomspace(*augment.scale, 100).clip(max=augment.crop)
    return float(np.average(areas, weights=counts) * (scales**2).mean())
