"""The input size for the minutes given, by what each size reached on a measured set.

The table was measured once: ``benchmarks/accuracy.py`` on the first fold of the road signs (docs/results.md, "In the
minutes given"), which also says why other backbones and one box head are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config.defaults import EVALUATED
from ..config.tree import AugmentConfig, Config, ModelConfig
from ..dialect import load_config, model_config
from ..input.dataset import network_boxes
from ..input.target import input_sizes
from ..records.reader import RecordSplit

SIDES = (16, 32, 64)  # between the classes of objects by size: square roots of areas, pixels at the default's input
BATCH = 8  # images of a step of the table
GAIN = 0.02  # of mAP, by which a candidate must beat the default: less is within chance

Values = tuple[float, ...]  # mAP of objects of each class by size


@dataclass(frozen=True)
class Candidate:
    min_size: int
    max_size: int
    cost: float  # seconds of a step, in steps of the default
    values: Mapping[int, Values]  # by steps

    @property
    def size(self) -> tuple[int, int]:
        return self.min_size, self.max_size

    def __str__(self) -> str:
        return f"{self.min_size}-{self.max_size} px"


DEFAULT = Candidate(
    384,
    640,
    1.0,
    {
        50: (0.0, 0.203, 0.442, 0.279),
        150: (0.001, 0.336, 0.637, 0.642),
        300: (0.01, 0.431, 0.708, 0.775),
        1500: (0.036, 0.564, 0.763, 0.829),
    },
)
CANDIDATES = (
    DEFAULT,
    Candidate(512, 853, 1.62, {150: (0.0, 0.35, 0.66, 0.652), 300: (0.055, 0.492, 0.722, 0.761)}),
)


@dataclass(frozen=True)
class Choice:
    """The candidates, each with the mAP expected after as many steps as the minutes hold, and the one chosen."""

    minutes: float
    rows: tuple[tuple[Candidate, float], ...]
    chosen: Candidate

    def text(self) -> str:
        """The row of the plan."""
        values = (f"{one} {value:.2f}" for one, value in self.rows)
        chosen = f"{self.chosen} for {self.minutes:g} min on this machine"
        return f"{chosen}; mAP expected by what road signs had: {', '.join(values)}"


def is_open(config: Config) -> bool:
    """Whether there is a choice: ``train.max_minutes`` without steps or epochs, the default model with its published
    weights, no tiles, and the size is not set."""
    model, train = config.model, config.train
    by_clock = train.max_minutes and not train.steps and not train.epochs
    own, default = (one.model_dump(include={"name", "heads", "start", "tile"}) for one in (model, model_config({})))
    return bool(by_clock) and own == default and not {"min_size", "max_size"} & model.model_fields_set


def choose(config: Config, train: RecordSplit, seconds: float, evaluated: bool) -> tuple[Config, Choice]:
    """``config``, in which there is a choice, with the best candidate for the minutes given.

    Args:
        seconds: that a step of the default takes here, on 8 images of its largest size.
        evaluated: whether evaluations take their share of the minutes.
    """
    minutes, default = config.train.max_minutes or 0.0, model_config({})
    sides = np.sqrt(network_boxes(train, default)[0].prod(1))
    shares = np.bincount(np.digitize(sides, SIDES), minlength=len(SIDES) + 1) / max(len(sides), 1)
    a_step = seconds * _area(train, config.augment, default) / (default.min_size * default.max_size)
    # In a longer training than those measured the default would stand still, and the others go on.
    steps = min(60 * minutes * (1 - evaluated / EVALUATED) / a_step, max(DEFAULT.values))
    there = [one for one in CANDIDATES if one is DEFAULT or steps / one.cost >= min(one.values)]
    rows = [(one, float(shares @ expected(one, steps / one.cost))) for one in there]
    chosen, _ = max(rows, key=lambda row: row[1] + GAIN * (row[0] is DEFAULT))
    return _with(config, chosen), Choice(minutes, tuple(rows), chosen)


def as_begun(config: Config, path: Path) -> Config:
    """``config`` with the size that was chosen by an attempt of which only ``path``, its config.toml, is left; where
    there is a choice."""
    if not is_open(config) or not path.exists():
        return config
    begun = load_config(path).model
    same = [each for each in CANDIDATES if each.size == (begun.min_size, begun.max_size)]
    return _with(config, same[0]) if same and begun.name == config.model.name else config


def expected(candidate: Candidate, steps: float) -> np.ndarray:
    """``[4]`` mAP of objects by size after so many steps of 8 images.

    The default's is interpolated in the logarithm of the steps, falls on below the first and stays above the last.
    Other candidates add their difference from the default, interpolated likewise and constant beyond the last; below
    their first nothing is known of them.
    """
    at, measured = np.log(max(steps, 1.0)), DEFAULT.values
    x, y = np.log(list(measured)), np.array(list(measured.values()))
    slope = (y[1] - y[0]) / (x[1] - x[0])
    found = _between(at, x, y) + np.maximum(slope, 0) * min(at - x[0], 0)
    if candidate is not DEFAULT:
        more = np.array([np.subtract(values, measured[n]) for n, values in candidate.values.items()])
        found += _between(at, np.log(list(candidate.values)), more)
    return found.clip(0, 1)


def _between(at: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.interp(at, x, column) for column in y.T])


def _with(config: Config, candidate: Candidate) -> Config:
    own = config.model.model_dump(exclude_unset=True)
    sized = model_config(own | {"min_size": candidate.min_size, "max_size": candidate.max_size})
    return config.model_copy(update={"model": sized})


def _area(train: RecordSplit, augment: AugmentConfig, model: ModelConfig) -> float:
    """Pixels of an image in training: the mean over the images and their random scales after the first epochs."""
    sizes, counts = input_sizes(train.sizes, model)
    scales = np.geomspace(*augment.scale[-1], 100).clip(max=augment.crop)
    return float(np.average(sizes.prod(1), weights=counts) * (scales**2).mean())
