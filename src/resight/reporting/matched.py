"""An evaluation with what is worked out of it once, for all that is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..evaluation.saved import SavedEvaluation
from .average_precision import Rows, best_of_class
from .bootstrap import resampled, rows_of_numbers
from .outcomes import Outcomes, outcomes


@dataclass(frozen=True, eq=False)
class Matched:
    """Args:
    evaluation: what was found and what there is, of which everything else is worked out.
    """

    evaluation: SavedEvaluation

    @property
    def point(self) -> float:
        """The score of the operating point."""
        return float(self.evaluation.metrics["operating_point"]["score"])

    @cached_property
    def result(self) -> Outcomes:
        """What became of each detection and object."""
        return outcomes(self.evaluation.truths, self.evaluation.found, self.evaluation.ignore_difficult)

    @cached_property
    def rows(self) -> tuple[Rows, Rows]:
        """What the numbers are counted from: of all, and of what is small."""
        return rows_of_numbers(self.evaluation.truths, self.evaluation.found, self.evaluation.ignore_difficult)

    @cached_property
    def samples(self) -> np.ndarray:
        """``[RESAMPLES, len(NUMBERS)]``: the numbers of groups drawn anew; of two evaluations of the same images with
        the same groups, each row is of the same draw."""
        return resampled(self.rows, self.evaluation.groups)

    @cached_property
    def standard(self) -> np.ndarray:
        """``[D]`` bool: the best 100 detections of a class in an image, which COCO counts."""
        counted = np.zeros(len(self.evaluation.detections["scores"]), bool)
        first = 0
        for found in self.evaluation.found:
            counted[first + best_of_class(found)] = True
            first += len(found)
        return counted
