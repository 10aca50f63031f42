"""The old workflow's first command: LISA's three signs as TFOD's records, ``lisa/`` -> ``lisa/records/``.

Where it wrote an image once for each of its boxes and parted the images at random, this writes one record an image and
keeps the frames of a track together.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Literal, NoReturn

from ..arguments import check_types
from ..config.defaults import OnBad
from ..datasets.build import BuildReport, build_data
from ..errors import ResightError, nearest
from ..label_map import LabelMap
from . import guard as console
from .frame import wrote

CLASSES = ("pedestrianCrossing", "signalAhead", "stop")  # ids 1, 2, 3, as they were
TEST_FRACTION, SEED = 0.25, 42


def build_lisa_records(
    folder: str = "lisa", *, split: Literal["group", "random"] = "group", on_bad: OnBad = "error", force: bool = False
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
    check_types(locals(), build_lisa_records)
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


def main() -> NoReturn:
    """``build_lisa_records.py``, and ``python -m resight.cli.legacy_lisa_records``."""
    console.listen()
    sys.exit(console.guard(_command, sys.argv[1:]))


def _command() -> None:
    about = "Makes lisa/records/ of lisa/: training.record, testing.record and classes.pbtxt."
    parser = argparse.ArgumentParser("build_lisa_records.py", description=about, allow_abbrev=False)
    parser.add_argument("--split", default="group", metavar="group|random", help="tracks stay together, or not")
    parser.add_argument("--on-bad", default="error", metavar="error|skip", help="what to do with bad images and boxes")
    parser.add_argument("--force", action="store_true", help="replace the records of an earlier run")
    given, unknown = parser.parse_known_args()
    if unknown:
        message = f"unknown option '{unknown[0]}'. {nearest(unknown[0], ('--split', '--on-bad', '--force'))}".rstrip()
        raise ResightError(message, fix="build_lisa_records.py --help lists what there is.")
    report = build_lisa_records(split=given.split, on_bad=given.on_bad, force=given.force)
    console.show(report.text())
    if "test" not in report.images:
        fix = "Frames of one track stay together; build_lisa_records.py --split random --force parts them as well."
        raise ResightError("has no testing.record: there are too few tracks for a test part", where=report.out, fix=fix)
    wrote(report.out, f"train --data {report.out}")


if __name__ == "__main__":
    main()
