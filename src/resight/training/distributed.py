"""Several processes that train one model, each with its part of each batch: what they must agree on.

DistributedDataParallel adds the gradients; the counts that losses are divided by are added here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..detection.processes import Shared
from ..errors import ResightError, listed
from ..io.signals import join_forwarding_signals, signals_blocked
from ..models.build import check_device

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)  # of waiting for the first process, which may upload a checkpoint


@dataclass(frozen=True)
class Distributed(Shared):
    """This process among those of the training; one alone by default."""

    rank: int = 0
    size: int = 1
    has_images: bool = field(default=True, kw_only=True)  # of the step that is taken

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """The GPU of this process where GPUs are used."""
        return torch.device("cuda", torch.cuda.current_device()) if self.size > 1 and chosen.type == "cuda" else chosen

    def shard(self, items: Sequence[T]) -> list[T]:
        """What of ``items`` is for this process."""
        return list(items[self.rank :: self.size])

    def all_gather(self, shard: list[T]) -> list[T]:
        """The items in their order, from the shards of all processes; the same in each."""
        if self.size == 1:
            return shard
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, shard)
        # One may be shorter than its turn would have it, by what could not be read.
        return [item for row in zip_longest(*parts, fillvalue=parts) for item in row if item is not parts]

    def counts(self, counts: Sequence[float]) -> list[float]:
        sums = self.all_reduce(counts if self.has_images else [0] * len(counts))
        return [each / self.size for each in sums]

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes; the same in each."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(tensor)
        return tensor.tolist()

    def largest(self, height: int, width: int) -> tuple[int, int]:
        sizes = self.all_reduce([0.0] * self.rank * 2 + [height, width] + [0.0] * (self.size - self.rank - 1) * 2)
        return int(max(sizes[::2])), int(max(sizes[1::2]))

    def broadcast(self, value: T) -> T:
        """What the first process gives."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def from_main(self, function: Callable[[], T]) -> T:
        """What ``function`` gives in the first process, or its ResightError, in all of them."""
        refused, value = None, None
        if self.is_main:
            try:
                value = function()
            except ResightError as error:
                refused = error
        refused, value = self.broadcast((refused, value))
        if refused:
            raise refused
        return value  # type: ignore[return-value]

    def parallel(self, model: nn.Module) -> Any:
        """The model, in training mode, with the gradients of all processes averaged where there are several."""
        if self.size == 1:
            return model
        # Statistics that change are those of the first process; to send what is frozen at every forward is waste.
        # A constant is in no checkpoint.
        stored = model.state_dict().keys()
        training = [(place, part) for place, part in model.named_modules() if part.training]
        names = (name for place, part in training for name, _ in part.named_buffers(place, recurse=False))
        changing = any(name in stored for name in names)
        return DistributedDataParallel(model, broadcast_buffers=changing)


SINGLE_PROCESS = Distributed()


def processes() -> int:
    """How many processes a launcher's environment tells of. Raises ResightError: it is no number."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or not int(count):
        raise ResightError(f"'{count}' is not a number of processes", where="WORLD_SIZE", fix="Unset it.")
    return int(count)


@contextmanager
def join(chosen: torch.device) -> Iterator[Distributed]:
    """The processes that a launcher's environment tells of; a GPU each where one is ``chosen``. Raises ResightError:
    the device of this process does not work, or the environment is incomplete."""
    if processes() == 1:
        check_device(chosen)
        yield SINGLE_PROCESS
        return
    device = _own_gpu() if chosen.type == "cuda" else None
    check_device(device or chosen)
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not os.environ.get(name)]:
        message = f"WORLD_SIZE is {processes()}, but {listed(missing)} {'are' if len(missing) > 1 else 'is'} not set"
        raise ResightError(message, where="environment", fix="Start the processes with torchrun, or unset WORLD_SIZE.")
    dist.init_process_group("nccl" if device else "gloo", timeout=TIMEOUT, device_id=device)
    # Not taken apart after an error: the others would end for want of it, and before its cause is told.
    yield Distributed(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def _own_gpu() -> torch.device:
    """The GPU of this process, before anything is done on another. Raises ResightError: there is none for it."""
    place, gpus = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if not place.isdecimal() or int(place) >= gpus:
        there = "there is 1" if gpus == 1 else f"there are {gpus}"
        message = f"process '{place}' of this machine has no GPU of its own: {there}"
        fix = "Start the processes with torchrun, as many on each machine as it has GPUs."
        raise ResightError(message, where="LOCAL_RANK", fix=fix)
    torch.cuda.set_device(int(place))
    return torch.device("cuda", int(place))


def launch(count: int, function: Callable[..., T], *arguments: Any) -> T:
    """Runs ``function(*arguments)`` in ``count`` processes of this machine and returns what the first one returned.
    SIGTERM and the first Ctrl-C are passed on. Raises ResightError: a process ended with an error."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(1, 1, count, run_id="resight", max_restarts=0, rdzv_backend="c10d")
    config.rdzv_endpoint = "localhost:0"
    done: dict[str, Any] = {}

    # What these log, tracebacks among it, is told below in a line.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)

    def run() -> None:
        with signals_blocked():
            try:
                done.update(elastic_launch(config, function)(*arguments))
            except ChildFailedError as error:
                done["failed"] = error

    # In a thread of its own the launcher leaves the signals to us: it would kill the processes while they save.
    thread = threading.Thread(target=run, name="launcher")
    thread.start()
    join_forwarding_signals(thread)
    if "failed" not in done:
        return done[0]  # type: ignore[index]
    rank, failure = done["failed"].get_first_failure()
    message = failure.message
    text = str(message.get("message", message) if isinstance(message, dict) else message)
    if text.startswith("ResightError: "):
        raise ResightError(text.removeprefix("ResightError: "))
    fix = "What was saved last is whole; --resume continues from it."
    raise ResightError(f"process {rank} of {count} ended with {failure.exitcode}: {text}", fix=fix)
