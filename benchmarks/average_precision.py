"""Average precision of slices of the objects, as pycocotools counts it, and how it varies with the images drawn."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from resight.io.images import decode
from resight.records.example import on_image
from resight.records.reader import RecordSplit
from resight.types import Detections, pairwise_iou

IOUS, RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
NETWORK = (384, 640)  # short and long side of the image at which sizes are told as the network sees them
MEASURES = ("mAP", "AP50", "AP75")

Numbers = dict[str, np.ndarray]  # slice or class -> [3, 1 + draws]: MEASURES of the images as they are and as drawn


@dataclass(frozen=True)
class Rows:
    """The objects and the detections of a test part; both name their image by its place in ``names``.

    Args:
        classes, names, groups: ``[C]`` class names, ``[I]`` names of the images and their groups.
        sizes: ``[I, 2]`` width and height in pixels.
        truth_image, truth_label, truth_box: ``[M]``, ``[M]`` and ``[M, 4]`` float32 xyxy, pixels of the original image.
        image, label, score, box: ``[N]``, ``[N]``, ``[N]`` and ``[N, 4]`` of the detections, likewise.
    """

    classes: np.ndarray
    names: np.ndarray
    groups: np.ndarray
    sizes: np.ndarray
    truth_image: np.ndarray
    truth_label: np.ndarray
    truth_box: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})


def detect_all(split: RecordSplit, detect: Callable[[np.ndarray], Detections]) -> tuple[Rows, float]:
    """What ``detect`` finds in the images of ``split``, and CPU seconds an image."""
    columns: dict[str, list[Any]] = defaultdict(list)
    seconds = 0.0
    for number in range(len(split)):
        record = split[number]
        image = decode(record.encoded)
        began = process_time()
        found = detect(image)
        seconds += process_time() - began
        record = on_image(record, *image.shape[:2])
        columns["names"].append(record.source_id)
        columns["groups"].append(record.group)
        columns["sizes"].append(image.shape[1::-1])
        columns["truth_image"].append(np.full(len(record.boxes), number))
        columns["truth_label"].append(split.labels(record))
        columns["truth_box"].append(record.boxes)
        columns["image"].append(np.full(len(found), number))
        columns["label"].append(found.labels)
        columns["score"].append(found.scores)
        columns["box"].append(found.boxes)
    whole = ("names", "groups", "sizes")
    joined = {name: np.array(parts) if name in whole else np.concatenate(parts) for name, parts in columns.items()}
    return Rows(classes=np.array(split.label_map.names), **joined), seconds / len(split)


def slices_of(boxes: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Which of ``boxes`` ``[N, 4]`` (xyxy) in images of ``sizes`` ``[N, 2]`` belong to each slice."""
    width, height = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).T
    area = width * height
    side = np.sqrt(area) * np.minimum(NETWORK[0] / sizes.min(1), NETWORK[1] / sizes.max(1))
    tall, wide = height > 1.5 * width, width > 1.5 * height
    return {
        "all": np.ones(len(boxes), bool),
        "small": area <= 32**2,
        "medium": (area >= 32**2) & (area <= 96**2),
        "large": area >= 96**2,
        "network < 16": side < 16,
        "network 16-32": (side >= 16) & (side < 32),
        "network 32-64": (side >= 32) & (side < 64),
        "network > 64": side >= 64,
        "tall": tall,
        "square": ~tall & ~wide,
        "wide": wide,
    }


@dataclass(frozen=True)
class Matches:
    """What became of the detections, best score first within a class: all that average precision follows from.

    Args:
        classes, parts: ``[C]`` and ``[S]`` names of the classes and of the slices.
        objects: ``[C, S, G]`` objects to be found, by class, slice and group.
        label, group: ``[N]`` of the detections.
        hit, wrong: ``[N, S, 10]`` bool by slice and IoU; a detection that is neither does not count there.
    """

    classes: np.ndarray
    parts: np.ndarray
    objects: np.ndarray
    label: np.ndarray
    group: np.ndarray
    hit: np.ndarray
    wrong: np.ndarray

    def save(self, path: Path) -> None:
        """A byte or two a detection."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        flags = {
            name: np.packbits(columns[name].reshape(len(self.label), len(self.parts) * len(IOUS)), axis=1)
            for name in ("hit", "wrong")
        }
        np.savez_compressed(path, **columns | flags)

    @property
    def counts(self) -> dict[str, int]:
        """Objects to be found in each slice and of each class."""
        by_part, by_class = self.objects.sum((0, 2)), self.objects[:, 0].sum(1)  # the first slice is all
        names = (*map(str, self.parts), *map(str, self.classes))
        return dict(zip(names, map(int, (*by_part, *by_class)), strict=True))

    @classmethod
    def load(cls, path: Path) -> "Matches":
        with np.load(path) as file:
            columns = dict(file)
        shape = (-1, len(columns["parts"]), len(IOUS))
        for name in ("hit", "wrong"):
            flags = np.unpackbits(columns[name], axis=1, count=shape[1] * shape[2])
            columns[name] = flags.reshape(shape).astype(bool)
        return cls(**columns)


def match_all(rows: Rows) -> Matches:
    """Detections to objects as pycocotools does it, in every slice. Detections behind the last one that hits anything
    are left out: they change no number."""
    names, group_of = np.unique(rows.groups, return_inverse=True)
    wanted, own = slices_of(rows.truth_box, rows.sizes[rows.truth_image]), slices_of(rows.box, rows.sizes[rows.image])
    objects = np.zeros((len(rows.classes), len(wanted), len(names)), np.uint16)
    labels, groups, hits, errors = [], [], [], []
    for label in range(len(rows.classes)):
        theirs, ours = np.flatnonzero(rows.truth_label == label), np.flatnonzero(rows.label == label)
        hit, wrong = (np.zeros((len(rows.label), len(wanted), len(IOUS)), bool) for _ in range(2))
        for image in range(len(rows.names)):
            there, found = theirs[rows.truth_image[theirs] == image], ours[rows.image[ours] == image]
            ious = pairwise_iou(rows.box[found], rows.truth_box[there])
            for place, part in enumerate(wanted):
                counts = wanted[part][there]
                objects[label, place, group_of[image]] += counts.sum()
                taken = match(ious, ~counts)
                hit[found, place] = (taken >= 0) & np.append(counts, False)[taken]
                wrong[found, place] = (taken < 0) & own[part][found, None]
        order = ours[np.argsort(-rows.score[ours], kind="stable")]
        order = order[: 1 + np.flatnonzero(hit[order].any((1, 2))).max(initial=-1)]
        labels.append(np.full(len(order), label, np.uint8))
        groups.append(group_of[rows.image[order]].astype(np.uint16))
        hits.append(hit[order])
        errors.append(wrong[order])
    columns = (np.concatenate(each) for each in (labels, groups, hits, errors))
    return Matches(rows.classes, np.array(list(wanted)), objects, *columns)


def match(ious: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """``[D, 10]`` the object that each detection takes at each IoU, -1 for none; ``ious`` is ``[D, M]``, best score
    first. An ignored object is taken only where no other can be."""
    taken = np.full((len(ious), len(IOUS)), -1)
    order = np.argsort(ignored, kind="stable")
    for level, least in enumerate(IOUS):
        free = np.ones(len(ignored), bool)
        for row in np.flatnonzero((ious >= least).any(1)):
            best, chosen = least, -1
            for column in order:
                if chosen >= 0 and ignored[column] and not ignored[chosen]:
                    break
                if free[column] and ious[row, column] >= best:
                    best, chosen = ious[row, column], column
            if chosen >= 0:
                taken[row, level], free[chosen] = chosen, False
    return taken


def average_precision(matches: Matches, label: int, part: int, weights: np.ndarray) -> np.ndarray:
    """``[B, 10]`` by IoU for a class in a slice, with group g counted ``weights[b, g]`` times; nan: no such object."""
    rows = np.flatnonzero(matches.label == label)
    hit, wrong = matches.hit[rows, part], matches.wrong[rows, part]
    objects = weights @ matches.objects[label, part]
    precision = np.zeros((len(weights), len(IOUS)))
    by_group = matches.group[rows] == np.arange(weights.shape[1])[:, None]
    for level in range(len(IOUS)):
        places = np.flatnonzero(hit[:, level])
        hits, errors = (weights @ np.cumsum(by_group & flags[:, level], axis=1)[:, places] for flags in (hit, wrong))
        envelope = hits / np.maximum(hits + errors, 1)
        envelope = np.maximum.accumulate(envelope[:, ::-1], axis=1)[:, ::-1]
        recall = hits / np.maximum(objects, 1)[:, None]
        for row in range(len(weights)):
            reached = np.searchsorted(recall[row], RECALLS)
            precision[row, level] = envelope[row, reached[reached < len(places)]].sum() / len(RECALLS)
    return np.where(objects[:, None] > 0, precision, np.nan)


def numbers_of(matches: Matches, draws: int = 0, seed: int = 0) -> Numbers:
    """The three numbers of each slice and class: first of the images as they are, then of ``draws`` sets of as many
    groups drawn with replacement, which are the same for all models."""
    groups = matches.objects.shape[2]
    random = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws)
    weights = np.concatenate([np.ones((1, groups), np.int64), random])
    by_part: dict[str, list[np.ndarray]] = defaultdict(list)
    for place, part in enumerate(matches.parts):
        for label, name in enumerate(matches.classes):
            value = average_precision(matches, label, place, weights)
            by_part[str(part)].append(value)
            if part == "all":
                by_part[str(name)].append(value)
    means = {part: mean_of(values) for part, values in by_part.items()}  # of the classes
    return {part: np.stack([mean.mean(1), mean[:, 0], mean[:, 5]]) for part, mean in means.items()}


def mean_of(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of arrays without their nan; nan where there is nothing else."""
    known = ~np.isnan(stack := np.stack(values))
    with np.errstate(invalid="ignore"):
        return np.where(known, stack, 0).sum(0) / known.sum(0)
