"""``resight zoo convert``: a model that TFOD trained as a run folder, which every verb takes."""

from __future__ import annotations

from pathlib import Path

from ..io.outputs import atomic_folder
from ..io.textproto import read
from ..models.checkpoints import BEST, Checkpoint, save_checkpoint
from ..tfod.checkpoint.folder import find_tfod
from ..tfod.checkpoint.trained import read_tfod
from ..tfod.zoo import fetch
from ..training.run_folder import describe_run


def convert(
    checkpoint: str | Path, out: str | Path, *, config: str | Path | None = None, labels: str | Path | None = None
) -> str:
    """Makes a run folder of what :func:`read_tfod` takes, of a `.tar.gz`, or of an entry of the zoo by its name;
    returns what it is of. Raises ResightError as ``read_tfod``; or ``out`` holds something already."""
    source = checkpoint if find_tfod(checkpoint) else fetch(checkpoint)
    trained = read_tfod(source, config=config, labels=labels)
    beside = find_tfod(source)
    pipeline = config or (beside.pipeline if beside else None)
    told = {"start": str(source), "converted": trained.facts.text(), "pipeline": read(pipeline) if pipeline else ""}
    with atomic_folder(out, False, lambda path: False) as run:
        describe_run(run, trained.config, trained.label_map, told)
        save_checkpoint(run / BEST, Checkpoint.left_by_tfod(trained), trained.config)
    return trained.facts.text()
