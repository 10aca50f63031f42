"""The old workflow's first command: LISA's three signs as TFOD's records, ``lisa/`` -> ``lisa/records/``.

Where it wrote an image once for each of its boxes and parted the images at random, this writes one record an image and
keeps the frames of a track together.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from .. import console
from ..application import print_result, verb, wrote
from ..data.build import BuildReport, build_data
from ..errors import ResightError, nearest
from ..labels import LabelMap

CLASSES = ("pedestrianCrossing", "signalAhead", "stop")  # ids 1, 2, 3, as they were
TEST_FRACTION, SEED = 0.25, 42

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def build_lisa_records(
    folder: str = "lisa", *, split: str = "group", on_bad: str = "error", force: bool = False
) -> BuildReport:
    """Writes ``records/{training.record,testing.record,classes.pbtxt}`` into the folder of the LISA data set.

    Args:
        folder: holds ``allAnnotations.csv`` and the folders of the frames, as LISA is unpacked.
        split: "group", or "random" as the old workflow had it, with frames of one track on both sides.
        on_bad: "error" writes nothing if an image or a box is bad, "skip" leaves the bad ones out.
        force: replace the records of an earlier run.

    Raises:
        ResightError: the data set is not there, or as ``build_data``.
    """
    if split not in ("group", "random"):
        fix = f"It is group or random. {nearest(split, ('group', 'random'))}".rstrip()
        raise ResightError(f"unknown value '{split}'", where="--split", fix=fix)
    table = os.path.join(folder, "allAnnotations.csv")
    if not os.path.isfile(table):
        fix = f"Unpack the LISA traffic signs into {folder}/ of the working directory, {os.getcwd()}."
        raise ResightError("there is no such file, which lists LISA's boxes", where=table, fix=fix)
    return build_data(
        table,
        os.path.join(folder, "records"),
        format="lisa",
        classes=CLASSES,
        labels=LabelMap.from_names(CLASSES),
        split=split,
        test_fraction=TEST_FRACTION,
        val_fraction=0.0,
        seed=SEED,
        shards=1,
        on_bad=on_bad,
        layout="tfod",
        force=force,
    )


@verb(app, "build_lisa_records")
def _command(
    split: Annotated[str, typer.Option(metavar="group|random", help="Tracks stay together, or not.")] = "group",
    on_bad: Annotated[str, typer.Option(metavar="error|skip", help="What to do with bad images and boxes.")] = "error",
    force: Annotated[bool, typer.Option("--force", help="Replace the records of an earlier run.")] = False,
) -> None:
    """Makes lisa/records/ of lisa/: training.record, testing.record and classes.pbtxt."""
    report = build_lisa_records(split=split, on_bad=on_bad, force=force)
    print_result(report, False)
    if "test" not in report.images:
        fix = "Frames of one track stay together; build_lisa_records.py --split random --force parts them as well."
        raise ResightError("has no testing.record: there are too few tracks for a test part", where=report.out, fix=fix)
    wrote(report.out, f"train --data {report.out}")


def main() -> NoReturn:
    """``build_lisa_records.py``, and ``python -m resight.tfod.build_lisa_records``."""
    argv, command = sys.argv[1:], typer.main.get_command(app)
    sys.exit(console.guard(lambda: command.main(argv, "build_lisa_records.py", standalone_mode=False), argv))


if __name__ == "__main__":
    main()
