"""Splits: which images are for training, which for validation and which for testing.

Images that belong together (a track of one video, near-identical pictures) never part under the rule ``group``; under
every rule the leakage that is left is measured.
"""

from __future__ import annotations

import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from ..errors import ResightError, counted, listed
from ..types import SPLITS, Annotation
from .near_duplicates import group_near_duplicates
from .stratify import stratify

_PATIENCE = 3.0  # seconds, beside .1 ms a file name, that a regular expression may search
RULES = ("auto", "given", "group", "random")


@dataclass(frozen=True)
class SplitResult:
    """What ``split_annotations`` decided.

    Args:
        annotations: in the order given, each with its ``split``; images of no split are left out.
        rule: "given", "group" or "random".
        leakage: share (0..1) of the test images (of val, where there is no test) whose track or near-duplicate is in
            train; ``leaked_by`` counts them by reason, "track" and "near_duplicate", an image perhaps in both.
        counts: boxes per class, by split: ``counts["train"]["stop"]``; of splits that have images.
        unsplit: file names of the images that are in no split.
        notes: sentences for the user.
    """

    annotations: tuple[Annotation, ...]
    rule: str
    leakage: float
    leaked_by: dict[str, int]
    counts: dict[str, dict[str, int]]
    unsplit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def split_annotations(
    annotations: Sequence[Annotation],
    rule: str = "auto",
    *,
    group_by: str | None = None,
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    seed: int = 42,
    hashes: Sequence[int | None] | None = None,
) -> SplitResult:
    """Gives every image a split. The order of ``annotations`` does not matter.

    Args:
        rule: as ``write_records`` has it; "group" gives every class its share of each split as the groups allow.
        group_by: "track" (``Annotation.group``), "video" (the part of it before ``#``), a regular expression whose
            first capture or whole match on the file name is the group; None: ``Annotation.group`` where there is one.
        test_fraction, val_fraction: share of all images, and of the boxes of every class.
        seed: of "random", and of the choices that "group" leaves open.
        hashes: a perceptual hash per image (``near_duplicates.perceptual_hash``); None leaves near-duplicates out.

    Raises:
        ResightError: unknown fractions, expression or splits, or no split to keep.
    """
    if not (0 <= test_fraction < 1 and 0 <= val_fraction < 1 and test_fraction + val_fraction < 1):
        asked = f"test fraction {test_fraction:g} and val fraction {val_fraction:g}"
        message = f"{asked} leave nothing to train on or are not fractions"
        fix = "Both are 0 or more and together less than 1."
        raise ResightError(message, where="--test-fraction, --val-fraction", fix=fix)
    order = sorted(range(len(annotations)), key=lambda i: _identity(annotations[i]))
    items = [annotations[i] for i in order]
    tracks = _tracks(items, group_by)
    near = group_near_duplicates([hashes[i] for i in order]).tolist() if hashes is not None else None
    if rule == "auto":
        rule = "given" if len({item.split for item in items} - {None}) > 1 else "group"
    fractions = {"test": test_fraction, "val": val_fraction}
    splits, notes = _assign(items, rule, fractions, seed, tracks, near)
    leakage, leaked_by = _leakage(splits, tracks, near)
    parted = {i: replace(item, split=split) for i, item, split in zip(order, items, splits, strict=True)}
    unsplit = tuple(item.filename for item in parted.values() if item.split is None)
    if unsplit:
        notes.append(f"in no split and left out: {listed(unsplit, 5)}")
    counts = {split: _boxes(parted.values(), split) for split in SPLITS if split in splits}
    for split, boxes in counts.items():
        if missing := sorted(set().union(*counts.values()) - boxes.keys()):
            notes.append(f"{split} has no box of {listed(missing)}")
    kept = tuple(parted[i] for i in range(len(items)) if parted[i].split is not None)
    return SplitResult(kept, rule, leakage, leaked_by, counts, unsplit, tuple(notes))


def _assign(
    items: Sequence[Annotation],
    rule: str,
    fractions: Mapping[str, float],
    seed: int,
    tracks: Sequence[str | None],
    near: Sequence[int] | None,
) -> tuple[list[str | None], list[str]]:
    """The split of each image by ``rule``, and notes on parts and groups."""
    if rule == "given":
        given = {item.split for item in items if item.split is not None}
        if not given:
            raise ResightError("the source has no split to keep", where="--split given", fix="Use '--split group'.")
        if stray := sorted(given - set(SPLITS)):
            raise ResightError(f"unknown split {listed(stray)}; a split is one of {listed(SPLITS)}")
        return [item.split for item in items], []
    if rule == "random":
        splits = _random(len(items), fractions["test"], fractions["val"], seed)
        return [*splits], _empty_parts(splits, fractions, counted(len(items), "image"))
    groups = _join(tracks, near)
    splits = stratify(items, groups, fractions, seed)
    notes = _empty_parts(splits, fractions, counted(len(set(groups)), "group"))
    return [*splits], notes + _large_groups(items, groups, tracks, splits.count("test"), fractions["test"])


def _identity(item: Annotation) -> tuple[str, str, str, str]:
    return (item.source_id, item.filename, "" if isinstance(item.image, bytes) else str(item.image), item.where)


def _tracks(items: Sequence[Annotation], group_by: str | None) -> list[str | None]:
    """The track (or whatever ``group_by`` names) of each image, None where it has none."""
    if group_by in (None, "track", "video"):
        tracks = [item.group or None for item in items]
        if group_by == "video":
            tracks = [track and track.partition("#")[0] for track in tracks]
        fix = "Give a regular expression instead, e.g. --group-by '^(.+)_[0-9]+' on the file name."
        problem = f"the source does not say which {group_by} an image belongs to"
    else:
        try:
            pattern = re.compile(group_by or "")
        except re.error as error:
            raise ResightError(f"is not a valid regular expression: {error}", where=f"--group-by {group_by}") from error
        found = _searched(pattern, [item.filename for item in items])
        tracks = [(match[1 if pattern.groups else 0] or None) if match else None for match in found]
        problem = "matches no file name"
        fix = f"The file names are like {listed([item.filename for item in items], 3)}."
    if group_by and items and not any(tracks):
        raise ResightError(problem, where=f"--group-by {group_by}", fix=fix)
    return tracks


def _searched(pattern: re.Pattern[str], names: Sequence[str]) -> list[re.Match[str] | None]:
    """``pattern.search`` of each name; refuses one that takes too long: nested repetitions can, exponentially."""

    def give_up(*_: object) -> NoReturn:
        fix = "Write it without a repetition within a repetition, such as (a+)+."
        raise ResightError("takes too long on the file names", where=f"--group-by {pattern.pattern}", fix=fix)

    if threading.current_thread() is not threading.main_thread():  # alarms come to the main thread only
        return [pattern.search(name) for name in names]
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE + len(names) / 10_000)
    try:
        return [pattern.search(name) for name in names]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _join(tracks: Sequence[str | None], near: Sequence[int] | None) -> list[int]:
    """The group of each image, as the index of one of its members: same track or same near-duplicates, transitively."""
    parent = list(range(len(tracks)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, track in enumerate(tracks):
        for other in (first.setdefault(track, i) if track else i, near[i] if near else i):
            a, b = sorted((root(i), root(other)))
            parent[b] = a  # the smaller index is the root, so a group is known by its first member
    return [root(i) for i in range(len(tracks))]


def _random(count: int, test: float, val: float, seed: int) -> list[str]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    tests, vals = round(count * test), round(count * val)
    of = dict.fromkeys(order[:tests], "test") | dict.fromkeys(order[tests : tests + vals], "val")
    return [of.get(i, "train") for i in range(count)]


def _empty_parts(splits: Sequence[str], fractions: Mapping[str, float], amount: str) -> list[str]:
    empty = [part for part, fraction in fractions.items() if fraction and part not in splits]
    return [f"no {' and no '.join(empty)} part: there is too little for it, {amount}"] if empty and splits else []


def _large_groups(
    items: Sequence[Annotation], groups: Sequence[int], tracks: Sequence[str | None], tested: int, test_fraction: float
) -> list[str]:
    share = "more than half the test part" if tested else f"of {len(items):,} in all"
    half = (tested or len(items) * test_fraction) / 2
    large = {group: size for group, size in Counter(groups).items() if size > max(half, 1)}
    names = {group: tracks[group] or f"those that look like {items[group].filename}" for group in large}
    return [f"the group of {names[group]} holds {size:,} images, {share}" for group, size in large.items()]


def _leakage(
    splits: Sequence[str | None], tracks: Sequence[str | None], near: Sequence[int] | None
) -> tuple[float, dict[str, int]]:
    part = "test" if "test" in splits else "val"
    train = [i for i, split in enumerate(splits) if split == "train"]
    tested = [i for i, split in enumerate(splits) if split == part]
    known_tracks = {tracks[i] for i in train} - {None}
    known_near = {near[i] for i in train} if near else set()
    by_track = {i for i in tested if tracks[i] in known_tracks}
    by_near = {i for i in tested if near and near[i] in known_near}
    share = len(by_track | by_near) / len(tested) if tested else 0.0
    return share, {"track": len(by_track), "near_duplicate": len(by_near)}


def leaks(splits: Sequence[str | None], groups: Sequence[object]) -> Iterator[tuple[int, int]]:
    """``(image, other)`` for each image of val and test of whose group there is one in an earlier split, the first of
    which is ``other``. ``groups`` has a key an image, None for none."""
    first: dict[object, int] = {}
    for part in SPLITS:
        members = [(group, at) for at, (group, split) in enumerate(zip(groups, splits, strict=True)) if split == part]
        for group, at in members:
            if group is not None and group in first:
                yield at, first[group]
        for group, at in members:
            first.setdefault(group, at)


def _boxes(items: Iterable[Annotation], split: str) -> dict[str, int]:
    """The number of boxes of each class that a split has."""
    return dict(sorted(Counter(box.label for item in items if item.split == split for box in item.boxes).items()))
