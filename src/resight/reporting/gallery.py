"""Pictures of errors: which are shown, and the part of the image around each as a small JPEG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.saved import SavedEvaluation
from ..records.reader import RecordSplit
from .errors import Error
from .thumbnails import BUDGET, Part, around, thumbnails

MOST = 400  # pictures on a page
OF_A_KIND = 20  # that are shown in any case, however little they cost
OF_A_CELL = 2  # likewise, as long as there is room: of each cell of the confusion matrix


def shown(errors: Sequence[Error]) -> list[Error]:
    """The costliest of ``errors``, which are in that order, of each kind and of each cell of the confusion matrix."""
    ranks: list[list[int]] = [[], [], []]
    seen: Counter[str | tuple[int, int]] = Counter()
    for number, one in enumerate(errors):
        of_cell = min((seen[cell] for cell in one.cells), default=OF_A_CELL) < OF_A_CELL
        ranks[0 if seen[one.kind] < OF_A_KIND else 1 if of_cell else 2].append(number)
        seen.update((one.kind, *one.cells))
    chosen = [number for rank in ranks for number in rank][:MOST]
    return [errors[number] for number in sorted(chosen)]


def pictures(
    rows: Sequence[dict[str, Any]], evaluation: SavedEvaluation, split: RecordSplit | None, budget: int = BUDGET
) -> tuple[list[bytes], list[str]]:
    """A JPEG of each of ``rows``, errors or what has flipped, and what cannot be shown and why.

    Each row gets its ``"crop"``, which the picture shows of the image. A picture is b"" where ``split``, the records
    that were evaluated, is not there, its image cannot be read, or ``budget`` bytes are used up.
    """
    sizes = list(zip(evaluation.images["width"].tolist(), evaluation.images["height"].tolist(), strict=True))
    for row in rows:
        row["crop"] = list(around(_boxes(row), sizes[row["image"]]))
    if split is None:
        return [b""] * len(rows), []

    def pixels(image: int) -> np.ndarray:
        record = int(evaluation.images["record"][image])
        return split.pixels(record, split[record])

    return thumbnails([Part(row["image"], tuple(row["crop"])) for row in rows], pixels, budget)


def _boxes(row: Mapping[str, Any]) -> list[Sequence[float]]:
    says = [one["box"] for one in row.get("says", ()) if one]
    return [box for box in (row.get("box"), row.get("found_box"), *says) if box is not None]
