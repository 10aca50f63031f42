"""Which records make which batch: one order, a pure function of seed, epoch and index."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..random_streams import numpy_stream


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What one example of a batch is made of: the record, which of its copies in the epoch, and the numbers that its
    random draws depend on."""

    epoch: int
    batch: int
    record: int
    copy: int = 0


@dataclass(frozen=True)
class BatchSampler:
    """The batches of all epochs, without end: the one order that training follows, from batch ``start`` on.

    Five images in batches of two, the images 1 and 4 in portrait format::

        sizes = np.array([[96, 64], [64, 96], [96, 64], [96, 64], [64, 96]])  # width, height
        for keys in itertools.islice(BatchSampler(42, sizes, 2), 4):
            print([(key.epoch, key.record) for key in keys])

        [(0, 2)]
        [(0, 1), (0, 4)]
        [(0, 0), (0, 3)]
        [(1, 2), (1, 3)]

    A batch is of one format, but for what is left over of both. A training that is resumed after three batches has
    ``start=3`` and goes on with ``[(1, 2), (1, 3)]``.

    Args:
        sizes: ``[N, 2]`` widths and heights of all records.
        start: batches already taken.
        shards: ``[N]`` int64, the shard of each record; by default one for all.
        window: where there are more shards, no more than so many have their turn at a time.
        repeats: ``[N]`` float64, how often an epoch has each record on average, 1 or more; by default once.
    """

    seed: int
    sizes: np.ndarray
    batch_size: int
    start: int = 0
    shards: np.ndarray | None = None
    window: int = 1
    repeats: np.ndarray | None = None

    @property
    def places(self) -> int:
        """How many places each epoch has."""
        return len(self.sizes) if self.repeats is None else round(float(self.repeats.sum()))

    @property
    def per_epoch(self) -> int:
        return -(-self.places // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        first, skip = divmod(self.start, self.per_epoch)
        for epoch in itertools.count(first):
            yield from itertools.islice(self.epoch(epoch), skip if epoch == first else 0, None)

    def epoch(self, epoch: int) -> Iterator[list[SampleKey]]:
        """The batches of an epoch: records are permuted, then landscape and portrait images are put in batches of their
        own, so that little of a batch is padding; what is left over of both makes the last ones."""
        records, copies = self._copies(epoch)
        sizes, size = self.sizes[records], self.batch_size
        mixing = numpy_stream(self.seed, "batches", epoch)
        mixed: list[np.ndarray] = []
        for order in self._stretches(epoch, records):
            portrait = sizes[order, 1] > sizes[order, 0]
            kinds = order[~portrait], order[portrait]
            full = [len(kind) // size * size for kind in kinds]
            rest = np.concatenate([kind[end:] for kind, end in zip(kinds, full, strict=True)])
            batches = [row for kind, end in zip(kinds, full, strict=True) for row in kind[:end].reshape(-1, size)]
            batches += [rest[start : start + size] for start in range(0, len(rest), size)]
            mixed += [batches[place] for place in mixing.permutation(len(batches))]
        for number, batch in enumerate(mixed):
            places = zip(records[batch].tolist(), copies[batch].tolist(), strict=True)
            yield [SampleKey(epoch, number, *place) for place in places]

    def _copies(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The record of each place in an epoch, and which of its copies it is.

        Every record has one place. The others are dealt systematically over a random order of the records, so that all
        epochs are of one length and a record has the integers next to its factor.
        """
        count = len(self.sizes)
        if self.repeats is None:
            return np.arange(count), np.zeros(count, np.int64)
        draw = numpy_stream(self.seed, "repeats", epoch)
        order = draw.permutation(count)
        more = np.cumsum((self.repeats - 1)[order])
        total = self.places - count
        marks = np.floor(more / max(more[-1], 1e-9) * total + draw.random()).astype(np.int64)
        marks[-1] = total  # whatever was lost in rounding
        times = np.empty(count, np.int64)
        times[order] = 1 + np.diff(marks, prepend=0)
        records = np.repeat(np.arange(count), times)
        return records, np.arange(len(records)) - np.repeat(np.cumsum(times) - times, times)

    def _stretches(self, epoch: int, records: np.ndarray) -> Iterator[np.ndarray]:
        """The permuted places, cut between batches where the next shard has its turn."""
        draw = numpy_stream(self.seed, "order", epoch)
        count = 1 if self.shards is None else int(self.shards.max(initial=0)) + 1
        if self.shards is None or count <= self.window:
            yield draw.permutation(len(records))
            return
        # Shard after shard begins; its records are spread evenly over the turns of the window - 1 that follow it.
        turn = draw.permutation(count)[self.shards[records]] + (self.window - 1) * draw.random(len(records))
        order = np.lexsort((draw.random(len(records)), turn))
        turn = turn[order]
        start = 0
        while start < len(order):
            end = int(np.searchsorted(turn, turn[start] + 1, "right"))
            if end < len(order):
                end = start + max((end - start) // self.batch_size, 1) * self.batch_size
            yield order[start:end]
            start = end


def repeat_factors(images: np.ndarray, labels: np.ndarray, count: int, threshold: float) -> np.ndarray:
    """``[count]`` float64, how often an epoch is to have each image, that rare classes are seen more often.

    A class that a share ``f`` of the images has asks for ``max(1, sqrt(threshold / f))``, and an image is repeated as
    the rarest of its classes asks (Gupta, Dollar and Girshick, LVIS, 2019, appendix B.2).

    Args:
        images, labels: ``[M]`` int64, of each box its image and its class; -1 is no class.
    """
    found, classes = image_classes(images, labels)
    shares = np.bincount(classes) / max(count, 1)
    factors = np.ones(count)
    np.maximum.at(factors, found, np.sqrt(threshold / shares[classes]))
    return factors


def image_classes(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and class ``[P]`` of each pair of the two that has a box; arguments as for :func:`repeat_factors`."""
    known, size = labels >= 0, int(labels.max(initial=0)) + 1
    found, classes = np.divmod(np.unique(images[known] * size + labels[known]), size)
    return found, classes
