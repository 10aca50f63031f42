"""Splits of which each has its share of every class, though images that belong together stay together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ..types import Annotation

_ROUNDS = 8  # in which groups are moved at the most
_FIRST_OF_CLASS = 0.01  # what it counts, as a gain, that a split gets a class that it has nothing of
_TIE = 1e-14  # sums of the same shares in another order differ by less

Shares = list[tuple[int, float]]  # a group's share of each column in which it has any


def stratify(
    items: Sequence[Annotation], groups: Sequence[int], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each image. Whole groups are distributed so that every class, and the images, reach their fraction
    in each split.

    Minimised is the sum over columns (boxes of a class, images, background images) and splits of
    (share reached - share wanted)^2: groups are placed largest first, then moved singly while that helps.

    Args:
        groups: the group of each image, as the index of one of its images.
        fractions: of "test" and "val"; the rest is "train".
        seed: of the order of groups of about one size.
    """
    wanted = {"test": fractions["test"], "val": fractions["val"], "train": 1 - fractions["test"] - fractions["val"]}
    shares, columns = _shares(items, groups)
    # By split and column: the share that is missing, and how many groups have any of it.
    missing = {split: [share] * columns for split, share in wanted.items() if share > 0}
    holders = {split: [0] * columns for split in missing}

    def size(group: int) -> tuple[int, bytes]:
        # Groups of about one size are shuffled, keyed by their first image: the order of the input must not matter.
        largest = max(share for _, share in shares[group])
        draw = hashlib.blake2b(f"{seed}\0{items[group].source_id}\0{items[group].filename}".encode(), digest_size=8)
        return int(largest * 2**32).bit_length(), draw.digest()

    def move(group: int, split: str, sign: int) -> None:
        for at, share in shares[group]:
            missing[split][at] -= sign * share
            holders[split][at] += sign

    order = sorted(shares, key=size, reverse=True)
    chosen: dict[int, str] = {}
    for _ in range(_ROUNDS):
        moved = 0
        for group in order:
            before = chosen.get(group)
            if before:
                move(group, before, -1)
            best, highest = "", float("-inf")
            for split in (before, *missing) if before else missing:
                gain = _gain(shares[group], missing[split], holders[split])
                if gain > highest + _TIE:
                    best, highest = split, gain
            move(group, best, 1)
            chosen[group] = best
            moved += best != before
        if moved <= len(order) // 1000:
            break
    return [chosen[group] for group in groups]


def _shares(items: Sequence[Annotation], groups: Sequence[int]) -> tuple[dict[int, Shares], int]:
    """The shares of each group, and the number of columns: all images, background images, then the boxes by class."""
    labels = sorted({box.label for item in items for box in item.boxes})
    column = {label: at for at, label in enumerate(labels, 2)}
    amounts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    total = [0] * (len(labels) + 2)
    for item, group in zip(items, groups, strict=True):
        for at in (0, *(column[box.label] for box in item.boxes)) if item.boxes else (0, 1):
            amounts[group][at] += 1
            total[at] += 1
    shares = {group: [(at, n / total[at]) for at, n in sorted(amount.items())] for group, amount in amounts.items()}
    return shares, len(total)


def _gain(shares: Shares, missing: Sequence[float], holders: Sequence[int]) -> float:
    """By how much the sum of squares would shrink; where equally, a class that the split lacks decides."""
    gain = 0.0
    for at, share in shares:
        gain += share * missing[at] + (0.0 if holders[at] else _FIRST_OF_CLASS)
    return gain
