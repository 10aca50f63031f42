"""Batches for the training loop, decoded and augmented ahead of it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import ResightError
from ..io.cores import core_count
from ..io.signals import ignore_signals, signals_blocked
from .dataset import SampleKey, TrainingExample, TrainingSet

PREFETCH = 3  # batches a worker holds ready
MOST_WORKERS = 8  # of a process, where nobody says how many


def worker_count(wanted: int | None, device: torch.device) -> int:
    """How many workers load for ``device``: as many as are ``wanted``, else one, and for a GPU its share of the cores
    of this machine, less the one that the training itself keeps busy."""
    if wanted is not None or device.type != "cuda":
        return 1 if wanted is None else wanted
    return max(1, min(core_count() // max(torch.cuda.device_count(), 1) - 1, MOST_WORKERS))


def load_batches(
    dataset: TrainingSet, batches: Iterable[list[SampleKey]], workers: int, pinned: bool = False
) -> Generator[list[TrainingExample | ResightError], None, None]:
    """Yields the examples of each batch, in order; what cannot be used is there as the error that says why.

    Every item is computed on a single thread, in a worker or here, so that their number changes nothing. Those of
    workers are ``pinned`` ahead of the training, where a GPU is to copy them while it computes.
    """
    if workers == 0:
        for batch in batches:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                examples = [dataset[item] for item in batch]
            finally:
                torch.set_num_threads(threads)
            yield examples
        return
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=partial(_start_worker, dict(os.environ)),
        prefetch_factor=PREFETCH,
        pin_memory=pinned,
        multiprocessing_context="forkserver",
    )
    with signals_blocked():
        loaded = iter(loader)
    yield from loaded


def _start_worker(environment: dict[str, str], _: int) -> None:
    # The fork server may be older than what the environment says now, of credentials for instance.
    os.environ.update(environment)
    ignore_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    # The loader's own watch asks for the process that forked this one, which is the fork server and not the training.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
