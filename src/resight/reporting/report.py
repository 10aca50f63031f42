"""``resight report``: one page that shows where a detector fails, from what its evaluation has kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arguments import check_types
from ..config.tree import DataConfig
from ..datasets.near_duplicates import group_near_duplicates
from ..dialect import load_config
from ..errors import ResightError, counted, listed
from ..evaluation.evaluate import evaluation_folder, run_folder
from ..evaluation.saved import DETECTIONS, SavedEvaluation, load_evaluation
from ..io.files import parse_json, read_json, read_text
from ..io.object_store import is_remote
from ..records.reader import Records, RecordSplit, open_configured
from ..types import SPLITS, named_split
from . import charts
from .compare import compare
from .data_columns import columns_of
from .data_report import MOST_COMPARED
from .data_suspects import Suspect, labelled_differently
from .files import ReportFiles, check_charts, csv_text, write_charts
from .findings import Run, findings
from .gallery import pictures
from .matched import Matched
from .page import page
from .thumbnails import BUDGET

SUSPECTS = ("kind", "file", "group", "xmin", "ymin", "xmax", "ymax", "label", "other", "score", "iou", "other_file")


@dataclass(frozen=True)
class Report:
    """
    Args:
        numbers: the content of ``report.json``, of the first run; with more than one, ``"comparison"`` in it.
        path: the page; its numbers (``report.json``) and ``report-suspects.csv`` lie beside it under its name.
        notes: what the page could not show, and why.
    """

    numbers: dict[str, Any]
    path: str
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        told = [one["text"] for one in self.numbers["advice"]]
        lines = [self.numbers["sentence"], *(f"* {text}" for text in told), *self.notes, f"Wrote {self.path}"]
        return "\n".join(lines)


def report(
    *runs: str | os.PathLike[str],
    split: str = "test",
    out: str | os.PathLike[str] | None = None,
    plots: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Report:
    """Writes the page of the evaluation of ``runs`` on ``split``, with its numbers beside it.

    Args:
        runs: run folders, or folders that ``evaluate --out`` wrote; with more than one the others are compared with
            the first.
        split: "train", "val" or "test".
        out: the page; by default ``report.html`` beside the evaluation's ``metrics.json``.
        plots: folder for the charts as SVG files.
        force: replace files that are there; a report of Resight's in its own place is replaced anyway.

    Raises:
        ResightError: a run has no such evaluation, or keeps none of its detections; two are not of the same images; or
            the page cannot be written.
    """
    check_types({"split": split, "out": out, "plots": plots, "force": force}, report)
    if not runs:
        raise ResightError("no run is named", where="RUN", fix="resight report RUN")
    if named_split(split) not in SPLITS:
        raise ResightError(f"there is no split '{split}'", where="--split", fix=f"Choose one of {listed(SPLITS)}.")
    folders = [evaluation_of(run, named_split(split)) for run in runs]
    files = ReportFiles.at(folders[0] / "report.html" if out is None else out, force or out is None)
    check_charts(plots, force)
    evaluations = [Matched(load_evaluation(folder / DETECTIONS)) for folder in folders]
    written = _write(evaluations, folders, files)
    write_charts(plots, force, charts.plots(written.numbers))
    return written


def _write(evaluations: list[Matched], folders: list[Path], files: ReportFiles) -> Report:
    first, folder = evaluations[0].evaluation, folders[0]
    records, notes = _records(first, folder)
    split = records.splits[first.metrics["split"]] if records else None
    content = findings(evaluations[0], _run(folder, records), _disagreements(first, split))
    if len(evaluations) > 1:
        content["comparison"] = compare(evaluations, [str(one) for one in folders])
    flipped = [row for other in content.get("comparison", {"others": []})["others"] for row in other["flipped"]]
    shown, problems = pictures(content["errors"], first, split)
    shown_flipped, more = pictures(flipped, first, split, BUDGET // 3)  # each is on the page twice
    if problems := list(dict.fromkeys([*problems, *more])):
        notes.append(f"{counted(len(problems), 'image')} cannot be shown: {listed(problems, 3)}")
    elif split and (left_out := [*shown, *shown_flipped].count(b"")):
        notes.append(f"{counted(left_out, 'picture')} left out: all of them would make the page too large")
    text = page(content, shown, shown_flipped, files.suspects.name)
    files.write(text, content, _csv(content["suspects"], first.classes))
    return Report(content, str(files.page), notes)


def _disagreements(evaluation: SavedEvaluation, split: RecordSplit | None) -> list[Suspect]:
    """Of labels in near-identical images, of up to ``MOST_COMPARED``: all are decoded for it."""
    if split is None or len(evaluation) > MOST_COMPARED:
        return []
    data = columns_of(evaluation, split)
    return labelled_differently(data, group_near_duplicates(data.fingerprints()))


def evaluation_of(run: str | os.PathLike[str], split: str) -> Path:
    """The folder of an evaluation: of ``split`` of a run, or ``run`` itself. Raises ResightError: there is none."""
    if is_remote(run):
        fix = f"Copy it first: aws s3 sync {os.fspath(run)} run"
        raise ResightError("a report is made of a run on this machine", where=run, fix=fix)
    path = Path(run)
    own = run_folder(path)
    folder = evaluation_folder(own, split) if own else path
    if not (folder / "metrics.json").is_file():
        if not path.exists():
            raise ResightError("there is no such run", where=run)
        words = "" if split == "test" else f" --split {split}"
        what = f"has not been evaluated on '{split}'" if own else "holds no evaluation"
        raise ResightError(what, where=run, fix=f"Evaluate it first: resight evaluate {os.fspath(run)}{words}")
    return folder


def _run_of(folder: Path) -> Path | None:
    """The run whose evaluation lies in ``folder``: as it was named, and in full where that was "." or ".."."""
    own = zip((folder.parent, folder.parent.parent), Path(os.path.abspath(folder)).parents, strict=False)
    for named, full in own:
        if run_folder(full) == full:
            return named if named.name == full.name else full
    return None


def _run(folder: Path, records: Records | None) -> Run:
    """What the run tells whose evaluation lies in ``folder``; little where it is of no run."""
    dataset = _dataset(records) if records else {}
    run = _run_of(folder)
    if run is None:
        return Run(dataset=dataset)
    rows = []
    if (run / "metrics.jsonl").is_file():
        for line in read_text(run / "metrics.jsonl").splitlines():
            try:
                rows.append(parse_json(line))
            except ResightError:  # the last line of a run that was killed
                continue
    environment = read_json(run / "environment.json") if (run / "environment.json").is_file() else {}
    rows = [row for row in rows if isinstance(row, dict)]
    return Run(str(run), rows, read_text(run / "config.toml"), environment, dataset)


def _dataset(records: Records) -> dict[str, Any]:
    """What `dataset.json` tells but for the names of its files, or what is known where there is none."""
    own = {"images": {name: len(split) for name, split in records.splits.items()}}
    return {**own, "digest": records.digest, **{key: value for key, value in records.info.items() if key != "files"}}


def _records(evaluation: SavedEvaluation, folder: Path) -> tuple[Records | None, list[str]]:
    """The records that were evaluated, and a note where they are not there or are others now."""
    place, split = evaluation.metrics["data"], evaluation.metrics["split"]
    run = _run_of(folder)
    config = load_config(run / "config.toml").data if run else DataConfig(path=place)
    if config.path != place and os.path.exists(place):
        config = DataConfig(path=place)
    try:
        records = open_configured(config)
    except ResightError as error:
        return None, [f"The page has no pictures: {error.where}: {error.message}"]
    same = split in records.splits and records.digest == evaluation.metrics.get("data_digest")
    if not same or not 0 <= evaluation.images["record"].max(initial=0) < max(len(records.splits[split]), 1):
        return None, [f"The page has no pictures: {place} is not what was evaluated any more"]
    return records, []


def _csv(suspects: list[dict[str, Any]], classes: tuple[str, ...]) -> str:
    rows = [
        {
            **one,
            **dict(zip(SUSPECTS[3:7], (f"{side:.1f}" for side in one["box"]), strict=True)),
            "label": None if one["label"] is None else classes[one["label"]],
            "other": classes[one["other"]],
            "score": None if one["score"] is None else f"{one['score']:.3f}",
            "iou": f"{one['iou']:.2f}",
        }
        for one in suspects
    ]
    return csv_text(SUSPECTS, rows)
