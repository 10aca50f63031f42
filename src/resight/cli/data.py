"""The verbs of ``resight data``, each a thin call of the public function of its name."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from ..config import defaults
from ..errors import BAD, ResightError, counted, listed
from ..io.misplaced import kind_of
from ..io.outputs import beside
from . import guard as console
from .frame import (
    Force,
    Json,
    NoLabels,
    Out,
    ResightGroup,
    argument,
    option,
    pairs_of,
    quoted,
    say,
    suggest,
    verb,
    without,
    wrote,
)

data_app = typer.Typer(cls=ResightGroup, help="Annotations in, records out.")

FORMATS = "lisa, coco, voc, yolo, csv, tfrecord, cvat, labelme, labelstudio"
Format = Annotated[str, option("FORMAT", f"Format of the annotations: auto, {FORMATS}")]
DUPLICATES = "Look for near-duplicates among more than 5,000 images too: decodes all."
FRAMES = "stored (its pixels as they are in the file), upright (the image as shown), or auto"
Exif = Annotated[defaults.Exif, option(None, f"Pixel frame of the boxes on EXIF-rotated images: {FRAMES}")]
ConfigFile = Annotated[str | None, option("TOML", "Configuration of the training")]


@verb(data_app, "build")
def build(
    source: Annotated[str, argument("SOURCE", "Annotated images: a folder or an annotation file")],
    out: Out,
    format: Format = "auto",
    classes: Annotated[str | None, option("A,B,C", "Only these classes")] = None,
    rename: Annotated[list[str] | None, option("OLD=NEW", "Another name for a class")] = None,
    labels: Annotated[str | None, option("MAP", "A label map whose ids are kept")] = None,
    split: Annotated[str, option("RULE", "How images are split: auto, given, group, random or a FILE")] = "auto",
    group_by: Annotated[str | None, option("KEY", "What stays in one split: track, video or a REGEX on names")] = None,
    test_fraction: Annotated[float, option("SHARE", "Test fraction", min=0, max=1)] = defaults.TEST_FRACTION,
    val_fraction: Annotated[float, option("SHARE", "Validation fraction", min=0, max=1)] = defaults.VAL_FRACTION,
    seed: Annotated[int, option("N", "Seed of the split", min=0)] = defaults.SEED,
    shards: Annotated[int | None, option("N", "Files per split", "by size", min=1)] = None,
    background: Annotated[defaults.Background, option(None, "Images without a selected box to keep")] = "empty",
    on_bad: Annotated[defaults.OnBad, option(None, "What to do with bad images and boxes")] = "error",
    exif: Exif = "auto",
    layout: Annotated[defaults.Layout, option(None, "Names of the files")] = "resight",
    force: Force = False,
    json: Json = False,
) -> None:
    """Turns annotations into a records folder, split without leakage."""
    options = without(locals(), "source", "out", "json")
    if kind_of(source) == "records" and os.path.isdir(source):
        say(f"{source} is a records folder already (resight train --data {quoted(source)}); this makes another")
    from ..datasets.build import build_data

    report = build_data(
        source, out, **options | {"classes": _names_of(classes), "rename": pairs_of(rename, "--rename")}
    )
    console.show_result(json, lambda: asdict(report), report.text)
    wrote(out, f"data show {quoted(out)} -o look", f"then: resight train --data {quoted(out)}")


@verb(data_app, "check")
def check(
    data: Annotated[str, argument("DATA", "A source or a records folder")],
    format: Format = "auto",
    exif: Exif = "auto",
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Says what is wrong with a source or a records folder; exit code 1 when anything is an error."""
    from ..commands.check import check_data
    from ..dialect import load_settings

    report = check_data(data, format=format, exif=exif, config=load_settings(config, data) if config else None)
    console.show_result(json, lambda: report.json(), report.text)
    if report.errors:
        if any(problem.kind != "exif_rotation" for problem in report.errors):  # which says itself what to do
            say(f"Fix the errors, or leave them out: resight {_build_of(data, exif)} --on-bad skip")
        return BAD
    suggest(f"train --data {quoted(data)}" if report.format == "records" else _build_of(data, exif))
    return console.DONE


@verb(data_app, "report")
def data_report(
    data: Annotated[str, argument("DATA", "A source or a records folder")],
    out: Out = "data-report.html",
    format: Format = "auto",
    exif: Exif = "auto",
    duplicates: Annotated[bool, typer.Option("--duplicates", help=DUPLICATES)] = False,
    config: ConfigFile = None,
    plots: Annotated[str | None, option("DIR", "Folder for the charts as SVG files")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Shows what a data set is made of, and labels that look wrong, as one HTML page."""
    options = without(locals(), "data", "out", "json")
    from ..dialect import load_settings
    from ..reporting.data_report import report_data

    report = report_data(data, out, **options | {"config": load_settings(config, data) if config else None})
    console.show_result(json, lambda: report.numbers, report.text)
    wrote(listed(report.files), f"data show {quoted(data)} -o look")


@verb(data_app, "show")
def show(
    data: Annotated[str, argument("DATA", "A source or a records folder")],
    out: Out,
    format: Format = "auto",
    exif: Exif = "auto",
    augment: Annotated[bool, typer.Option("--augment", help="Draw augmented samples.")] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="All in one picture, sheet.jpg.")] = False,
    limit: Annotated[int, option("N", "Number of pictures", min=1)] = 32,
    split: Annotated[str, option("SPLIT", "train, val or test")] = "train",
    config: ConfigFile = None,
    no_labels: NoLabels = False,
    force: Force = False,
) -> None:
    """Draws pictures with their boxes, as stored or as training sees them."""
    options = without(locals(), "data", "out")
    from ..commands.show import show_data
    from ..datasets.formats import holds_records
    from ..dialect import load_settings

    written = show_data(data, out, **options | {"config": load_settings(config, data) if config else None})
    print(f"{counted(len(written), 'picture')} in {out}")
    wrote(out, f"train --data {quoted(data)}" if holds_records(data, format) else _build_of(data, exif))


def _build_of(source: str, exif: str) -> str:
    return f"data build {quoted(source)} -o {quoted(beside(source))}" + (f" --exif {exif}" if exif != "auto" else "")


def _names_of(text: str | None) -> tuple[str, ...]:
    """``A,B,C`` of --classes."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text and not names:
        raise ResightError(f"'{text}' names no class", where="--classes")
    return names
