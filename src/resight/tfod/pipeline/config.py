"""A TFOD `pipeline.config` as our configuration: what is honoured, what has no effect, what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...config.defaults import PIPELINE
from ...config.tree import DataConfig
from ...errors import ResightError, reading
from ...io.files import open_file
from ...io.textproto import parse, read
from .fields import MESSAGES
from .translation import Translation, matches


@dataclass(frozen=True)
class Pipeline:
    """A `pipeline.config`, read.

    Args:
        overrides: our keys and their values, as ``load_config`` takes them.
        num_classes: of the model; the ids of the label map go from 1 to it.
        label_map: its path; "" where there is none.
        honoured, ignored, refused, missing: a line for each field or path.
        source: the text that it was read from.
    """

    path: str
    overrides: Mapping[str, Any]
    num_classes: int
    label_map: str
    honoured: tuple[str, ...]
    ignored: tuple[str, ...]
    refused: tuple[str, ...]
    missing: tuple[str, ...]
    source: str

    def text(self) -> str:
        """What became of each field, as lines of comment."""
        parts = {"honoured": self.honoured, "ignored": self.ignored, "refused": self.refused, "missing": self.missing}
        lines = [f"# {self.path}"]
        for title, found in parts.items():
            lines += [f"# {title}:{'' if found else ' nothing'}", *(f"#   {line}" for line in found)]
        return "\n".join(lines)

    def check(self) -> Pipeline:
        """Itself; raises a ResightError that lists all that is refused, and the paths that are missing."""
        parts = {"not supported": self.refused, "not found": self.missing}
        if found := ["\n  ".join([f"{title}:", *lines]) for title, lines in parts.items() if lines]:
            raise ResightError("\n".join(found), where=self.path)
        return self


def is_pipeline(path: str | os.PathLike[str]) -> bool:
    """Whether a configuration is a `pipeline.config`: by its name, else by how it begins."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".config", ".pbtxt", ".toml") or not os.path.isfile(path):
        return suffix in (".config", ".pbtxt")
    with open_file(path) as file, reading(path):
        start = re.sub(rb"#[^\n]*", b"", file.read(1 << 16).removeprefix(b"\xef\xbb\xbf")).lstrip()
    return re.match(rb"(%s)\s*:?\s*[{<]" % "|".join(MESSAGES["Pipeline"]).encode(), start) is not None


def examine_pipeline(
    path: str | os.PathLike[str],
    *,
    data: str = "",
    start: str = "",
    changes: Mapping[str, Any] | None = None,
    model_only: bool = False,
) -> Pipeline:
    """What a `pipeline.config` means here, also where parts of it are refused.

    Args:
        data: records folder that takes the place of the input readers and their label map.
        start: weights that take the place of ``fine_tune_checkpoint``.
        changes: our keys that the caller sets himself; what they replace is not looked for.
        model_only: for a trained model: training and readers do not matter, and no path has to exist.

    Raises:
        ResightError: it cannot be read, or has a syntax error (line and column).
    """
    given = {**(changes or {}), **({"data.path": data} if data else {}), **({"model.start": start} if start else {})}
    return translate(read(path), os.fspath(path), given, model_only=model_only)


def translate(
    text: str, path: str = PIPELINE, changes: Mapping[str, Any] | None = None, *, model_only: bool = False
) -> Pipeline:
    """:func:`examine_pipeline` of a text that is read already, from ``path``."""
    fields, given = parse(text, path), changes or {}
    translation = Translation(os.path.dirname(os.path.abspath(path)), given)
    classes, labels = (translation.trained_model if model_only else translation.all_of_it)(fields)
    translation.validate()
    overrides = {**translation.overrides, **given}
    honoured, ignored, refused, missing = translation.sorted_lines()
    return Pipeline(path, overrides, classes, labels, honoured, ignored, refused, missing, text)


def records_of(path: str | os.PathLike[str]) -> DataConfig:
    """The records and the label map that a `pipeline.config` names, as far as they are there.

    Raises:
        ResightError: none of its records are; or it cannot be read.
    """
    pipeline = examine_pipeline(path)
    globs = {
        split: tuple(pattern for pattern in pipeline.overrides.get(f"data.{split}", ()) if matches(pattern))
        for split in ("train", "test")
    }
    if not any(globs.values()):
        fix = "Name the records folder: --data RECORDS"
        raise ResightError("the records it names are not there", where=path, fix=fix)
    return DataConfig(label_map=pipeline.label_map, **globs)
