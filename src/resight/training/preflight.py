"""Before the first step: does a step fit into memory here, and how long does one take?"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.tree import Config
from ..dialect import dialect_of, model_config, training_set
from ..errors import ResightError, counted, is_out_of_memory
from ..input.dataset import TrainingExample
from ..input.loader import PREFETCH
from ..input.target import Target, input_sizes
from ..io.progress import duration
from ..models.build import autocast, build_model, named_device
from .choice import BATCH, DEFAULT
from .distributed import SINGLE_PROCESS, Distributed
from .optim import state_bytes
from .plan import Plan
from .state import Pace

SHARED_MEMORY = "/dev/shm"

log = logging.getLogger(__name__)


def preflight(
    plan: Plan, model: nn.Module, distributed: Distributed = SINGLE_PROCESS, taken: Mapping[str, Any] | None = None
) -> str:
    """The lines of the plan that tell time and memory, from a step at the largest shape and one on the first batch,
    neither of which changes the model; ``taken`` is the state of the checkpoint that a training goes on from. Raises
    ResightError: memory, or the memory that loader workers share, is too small."""
    check_shared_memory(plan)
    device = next(model.parameters()).device
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    images, targets = largest_batch(plan)
    images, targets = distributed.shard(images), distributed.shard(targets)
    try:
        precision = plan.config.train.precision
        # As long as this is there, what fits into memory fits beside all that a training holds.
        held = torch.ones(state_bytes(model, plan.config.train, distributed.size), dtype=torch.uint8, device=device)
        _step(model, images, targets, precision)
        dataset = training_set(plan.train, plan.classes, plan.config)
        items = distributed.shard(next(iter(plan.batches)))
        examples = [example for example in map(dataset.__getitem__, items) if isinstance(example, TrainingExample)]
        seconds = (
            _step(model, [e.image for e in examples], [e.target for e in examples], precision) if examples else None
        )
        del held
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images_of = f"{len(images)} images of {images[0].shape[1]} x {images[0].shape[2]} px"
        fix = "Try a smaller train.batch_size (with train.accumulate the step stays the same), a smaller model.min_size"
        fix += " and model.max_size, or on a GPU train.precision = bfloat16."
        if plan.choice:
            default = "--size {},{}".format(*DEFAULT.size)
            fix = f"The input size was chosen for the minutes given: the default is {default}. {fix}"
        raise ResightError(f"{images_of} do not fit into the memory of {device}", fix=fix) from error
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(statistics[name])
    memory = f"{peak_memory(device) / 1e9:.1f} GB {'RAM' if device.type == 'cpu' else f'of {device}'}"
    return f"{_time(plan, seconds, device, taken or {})}\nmemory    {memory} for one step"


def default_step(config: Config, distributed: Distributed) -> float | None:
    """Seconds that a step of the default model takes here, on 8 images of its largest size; None where there is not the
    memory for it. All processes take it at the same time, as they will in training."""
    own, device = model_config({}), distributed.device(named_device(config.train.device))
    share = -(-config.train.batch_size // distributed.size)
    # On a CPU few are enough, and their memory, which counts as that of the first step, is small.
    images = min(share, BATCH if device.type == "cuda" else 2)
    image = torch.zeros(3, own.min_size, own.max_size, dtype=torch.uint8)
    target = Target(torch.tensor([[100.0, 100, 200, 200]]), torch.tensor([0]), torch.tensor([False]))
    log.info("timing a step of the default model, to choose the input size for the minutes given")
    seconds = None
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_model(own, 3).to(device)
            # The first prepares the convolutions.
            steps = [_step(model, [image] * images, [target] * images, config.train.precision) for _ in range(3)]
        seconds = min(steps[1:]) * BATCH / (images * distributed.size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return distributed.broadcast(seconds)


def largest_batch(plan: Plan) -> tuple[list[Tensor], list[Target]]:
    """As many images as a batch has, of the size that takes most, with one object each."""
    config, batch = plan.config.model, plan.config.train.batch_size
    dialect = dialect_of(config)
    sizes, counts = input_sizes(plan.batches.sizes, config)
    portrait = sizes[:, 0] > sizes[:, 1]
    tall, all_of = int(counts[portrait].sum()), int(counts.sum())
    # What is left over of both makes a batch of both at the end of an epoch; with repeats there is something at times.
    repeated = plan.batches.repeats is not None and 0 < tall < all_of
    mixed = dialect.pads_batches and (repeated or (tall % batch > 0 and (all_of - tall) % batch > 0))
    alike = mixed | (portrait == portrait[sizes.prod(1).argmax()])
    height, width = sizes[alike].max(0).tolist()
    noise = torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]])
    target = Target(box, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))
    return [noise.to(dialect.input_dtype)] * batch, [target] * batch


def check_shared_memory(plan: Plan) -> None:
    """Raises ResightError: batches on their way from the workers would not fit; containers often have 64 MB."""
    workers = plan.workers
    if not workers or not os.path.isdir(SHARED_MEMORY):
        return
    images, _ = largest_batch(plan)
    needed = workers * PREFETCH * sum(image.nbytes for image in images)
    there = os.statvfs(SHARED_MEMORY)
    free = there.f_bavail * there.f_frsize
    if needed > free:
        wanted = f"{workers} loader workers need {needed / 1e6:,.0f} MB of shared memory"
        fitting = int(free * workers / needed)
        fix = f"Start the container with more (docker run --shm-size=2g), set data.workers = {fitting}, "
        fix += "or a smaller batch."
        raise ResightError(f"{wanted}, only {free / 1e6:,.0f} MB is free", where=SHARED_MEMORY, fix=fix)


def peak_memory(device: torch.device) -> float:
    """The most bytes this process has held, on the CPU or of a GPU's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _step(model: nn.Module, images: list[Tensor], targets: list[Target], precision: str) -> float:
    device = next(model.parameters()).device
    began = _now(device)
    with autocast(precision, device):
        losses = model([image.to(device) for image in images], targets)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    scaler.scale(torch.stack(list(losses.values())).sum()).backward()
    model.zero_grad(set_to_none=True)
    return _now(device) - began


def _now(device: torch.device) -> float:
    """Seconds on a clock, after all that a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _time(plan: Plan, seconds: float | None, device: torch.device, taken: Mapping[str, Any]) -> str:
    if seconds is None:
        return "time      unknown, no image of the first batch can be read"
    seconds *= plan.config.train.accumulate
    pace = Pace(plan)
    pace.took("step", seconds)
    if minutes := plan.config.train.max_minutes:
        steps = pace.in_minutes(minutes)
        amount = f"about {counted(steps, 'step')} ({plan.epochs(steps)}) in {minutes:g} min"
        return f"time      {amount}, {seconds:.2f} s a step on {device}"
    needed = duration(max(pace.left(taken.get("step", 0), taken.get("evaluated_at", 0)) or 0.0, 0.0))
    return f"time      about {needed}{' more' if taken else ''} with evaluations, {seconds:.2f} s a step on {device}"
