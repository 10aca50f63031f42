"""The configuration of a training, as the command line says it."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import ResightError
from ..io.object_store import is_remote

if TYPE_CHECKING:
    from ..config.tree import Config
    from ..tfod.pipeline.config import Pipeline

log = logging.getLogger(__name__)

# What options of train set in the configuration.
KEYS = {"data": "data.path", "model": "model.name", "start": "model.start", "batch": "train.batch_size"}
KEYS |= {name: f"train.{name}" for name in ("epochs", "steps", "max_minutes", "device", "seed")}


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """What the options of train set in the configuration, by its keys."""
    from ..config.loading import parse_set
    from ..config.tree import LENGTHS
    from ..tfod.pipeline.fields import refuse_tfod_keys

    overrides = {KEYS[name]: value for name, value in options.items() if name in KEYS and value is not None}
    if options["size"] is not None:
        overrides["model.min_size"], overrides["model.max_size"] = _size_of(options["size"])
    assigned = parse_set(options["set"] or [])
    refuse_tfod_keys(assigned)
    overrides |= assigned
    # They replace the length that the file says, in whatever measure.
    return dict.fromkeys(LENGTHS) | overrides if any(key in overrides for key in LENGTHS) else overrides


def config_of(run: str) -> str | None:
    """The configuration of a run that is there already."""
    if is_remote(run):
        from ..models.remote import fetch_config

        return os.fspath(found) if (found := fetch_config(run)) else None
    return stored if os.path.isfile(stored := os.path.join(run, "config.toml")) else None


def configured(config: str | None, overrides: dict[str, Any], shown: bool) -> tuple[Config, Pipeline | None]:
    """The configuration of a training, and the pipeline.config that it comes from."""
    from ..dialect import load_config
    from ..tfod.pipeline.config import examine_pipeline, is_pipeline

    local: AbstractContextManager[str | None] = nullcontext(config)
    if is_remote(config):
        from ..models.remote import config_at

        local = config_at(config)
    with local as path:
        if not (path and is_pipeline(path)):
            return load_config(path, overrides), None
        pipeline = examine_pipeline(path, changes=overrides)
        if shown and pipeline.refused:
            print(pipeline.text())
        if pipeline.refused or not shown:
            pipeline.check()
        if pipeline.ignored and not shown:
            log.info("%d fields of %s have no effect here; --show-config lists them", len(pipeline.ignored), config)
    return load_config(None, pipeline.overrides), pipeline


def _size_of(text: str) -> tuple[int, int]:
    """``MIN,MAX`` of --size."""
    try:
        short, long = (int(side) for side in text.split(","))
    except ValueError:
        raise ResightError(f"'{text}' is not of the form MIN,MAX, e.g. 600,1024", where="--size") from None
    return short, long
