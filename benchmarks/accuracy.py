"""What a setting is worth: the same trainings with and without it, on fixed folds, compared image by image.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py signs RUNS --voc ROAD_SIGNS [--steps 150 300] [--only NAME ...]
    OMP_NUM_THREADS=1 python benchmarks/accuracy.py scenes RUNS
    python benchmarks/accuracy.py signs

Settings are tables of configuration keys in `accuracy/settings.toml`. Each is trained for 150 steps on one fold, the
best five for 300 steps on three folds, the best two of those for 1,500 steps on one; the default is in all. What
`--only` names takes part in any case. 50 steps are for what a very short training reaches. What was measured lies in
`accuracy/SET/`: a `.json` with the numbers, and an `.npz` with what became of each detection, for the intervals. It is
not measured twice, and a training that was interrupted goes on in its folder below RUNS, where the detections
themselves are, too. Several processes can share RUNS, each on a core of its own (`--core`). Without RUNS the tables are
printed, and nothing else is done. A setting whose values change is measured again; what a change of the code changes is
not noticed: remove what was measured, or give the setting another name. What was compared with earlier defaults is in
`accuracy/one-head/` and `accuracy/two-sizes/` (`--results`); `--against` compares with the default there.

`signs` is a Pascal VOC folder of numbered images; fifteen consecutive numbers are a group, and no group is parted.
`scenes` is drawn: drives past signs that are twice as tall in a third of them and small in another. A group is a drive.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch
from average_precision import MEASURES, Matches, Numbers, detect_all, match_all, mean_of, numbers_of
from filelock import FileLock, Timeout

import resight
from resight.config.toml_text import flat
from resight.config.tree import Config
from resight.datasets.formats import read_source
from resight.dialect import model_config
from resight.io.outputs import atomic_folder, write_text
from resight.io.progress import track
from resight.models.checkpoints import LAST, load_checkpoint
from resight.records.reader import open_records
from resight.scenes import HEADER, render_video
from resight.scenes.drives import Video, plan_video
from resight.training.trainer import Diverged
from resight.types import Annotation, Detections

HOME = Path(__file__).with_suffix("")
SETTINGS: dict[str, dict[str, Any]] = tomllib.loads((HOME / "settings.toml").read_text())
FOLDS, BLOCK, SEED = 3, 15, 42
RUNGS = {50: (0,), 150: (0,), 300: (0, 1, 2), 1500: (0,)}  # steps: folds; the default takes 150 steps on all
BEST = {300: (150, 5), 1500: (300, 2)}  # steps: the rung that decides who comes here, and how many do
DRAWS = 1000
VIDEOS, FRAMES = 90, 6
SIGN_SIZES = ((1.0, 1.0), (1.0, 2.2), (0.6, 0.6))  # factors on width and height, in turn: as they are, tall, small
DRAWN_CLASSES = ("stop", "pedestrianCrossing", "signalAhead")  # the other signs are background
PARTS = (("mAP", "all", 0), ("AP50", "all", 1), ("AP75", "all", 2), ("small", "small", 0), ("tall", "tall", 0))

log = logging.getLogger("accuracy")


# Data: annotations in groups, groups in folds, a records folder a fold.


def signs(folder: Path) -> list[Annotation]:
    """The images of a Pascal VOC folder, each block of consecutive numbers a group."""
    items = read_source(folder, "voc").annotations
    return [replace(item, group=f"{int(re.findall(r'[0-9]+', item.filename)[-1]) // BLOCK:04}") for item in items]


def scenes(folder: Path) -> list[Annotation]:
    """Drawn drives, each a group; drawn into ``folder`` where they are not yet."""
    if not folder.exists():
        with atomic_folder(folder, False, lambda path: False) as work:
            lines = [HEADER]
            for number in track(range(VIDEOS), "drawing"):
                video = plan_video(number, frames=FRAMES, seed=SEED)
                across, down = SIGN_SIZES[number % len(SIGN_SIZES)]
                lines += render_video(resized(video, across, down), work)
            (work / "allAnnotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = read_source(folder, "lisa").annotations
    return [replace(item, group=Path(item.source_id).parts[0]) for item in items]


def resized(video: Video, across: float, down: float) -> Video:
    """The same drive past signs that are larger or smaller by these factors."""
    tracks = []
    for drive in video.tracks:
        signs = (replace(sign, size=(sign.size[0] * across, sign.size[1] * down)) for sign in drive.signs)
        tracks.append(replace(drive, signs=tuple(signs)))
    return replace(video, tracks=tuple(tracks))


def folds_of(items: Sequence[Annotation]) -> dict[str, int]:
    """``{group: fold}``: each class has its share of boxes in each fold, as well as whole groups allow."""
    boxes: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        boxes[item.group or ""].update(box.label for box in item.boxes)
    total = sum(boxes.values(), Counter[str]())
    shares = {group: {name: n / total[name] for name, n in count.items()} for group, count in boxes.items()}
    loads: list[Counter[str]] = [Counter() for _ in range(FOLDS)]
    chosen = {}
    for group in sorted(shares, key=lambda group: (-sum(shares[group].values()), group)):
        chosen[group] = min(
            range(FOLDS),
            key=lambda f: (
                sum(loads[f][name] * share for name, share in shares[group].items()),
                sum(loads[f].values()),
                f,
            ),
        )
        loads[chosen[group]].update(shares[group])
    return dict(sorted(chosen.items()))


def build_folds(items: Sequence[Annotation], classes: Sequence[str], out: Path) -> list[Path]:
    """A records folder for each fold, whose test split is the fold and whose train split is the others."""
    fold_of, folders = folds_of(items), [out / f"fold{fold}" for fold in range(FOLDS)]
    for fold, folder in enumerate(folders):
        if not folder.exists():
            parted = [replace(i, split="test" if fold_of[i.group or ""] == fold else "train") for i in items]
            resight.write_records(parted, folder, classes=classes, split="given", background="all")
    return folders


def digest_of(folder: Path) -> str:
    """Names the images and boxes of a records folder, however they are stored."""
    digest = hashlib.sha256()
    for name, split in sorted(open_records(folder).splits.items()):
        for record in (split[i] for i in range(len(split))):
            objects = sorted(zip(record.label_texts, np.round(record.boxes, 2).tolist(), strict=True))
            facts = (name, record.source_id, record.group, hashlib.sha256(record.encoded).hexdigest(), objects)
            digest.update(repr(facts).encode())
    return digest.hexdigest()[:16]


# Measurements: one training each, found again by its name.


class Job(NamedTuple):
    setting: str
    steps: int
    fold: int

    def file(self, results: Path) -> Path:
        return results / f"{self.setting}-{self.steps}-{self.fold}.json"


def config_of(job: Job, folder: Path) -> Config:
    """Without a val or test split: the last weights are measured, and nothing is chosen on the fold."""
    keys = {"data.train": sorted(map(str, folder.glob("train*.tfrecord"))), "data.workers": 0}
    keys |= {"data.label_map": str(folder / "label_map.pbtxt"), "train.steps": job.steps, "train.seed": SEED}
    return resight.load_config(None, keys | SETTINGS[job.setting])


def keys_of(config: Config) -> dict[str, Any]:
    return {key: value for key, value in flat(config.model_dump(mode="json")).items() if not key.startswith("data.")}


def is_same(file: Path, config: Config, data: str) -> bool:
    """Whether ``file`` tells of these values and this data. Of keys that were unknown when it was written those of the
    model count as what models were before, others do not."""
    if not file.exists():
        return False
    known, now = json.loads(file.read_text()), keys_of(config)
    own = {key.removeprefix("model."): value for key, value in known["config"].items() if key.startswith("model.")}
    model = model_config(own).of_earlier_version().model_dump(mode="json")
    before = known["config"] | {f"model.{key}": value for key, value in model.items()}
    return known["data"] == data and all(now.get(key) == value for key, value in before.items())


def train_job(job: Job, config: Config, run: Path, data: str) -> float | None:
    """Trains, or goes on; CPU seconds of the whole training, None where it was interrupted.

    A process that was killed leaves no account of its seconds: its steps are taken to cost as much as the others.
    """
    ledger = run.with_name(f"{run.name}.json")
    if not is_same(ledger, config, data):  # of this name, but another setting, or other images
        shutil.rmtree(run, ignore_errors=True)
        write_text(ledger, json.dumps({"data": data, "config": keys_of(config), "seconds": 0.0, "steps": 0}))
    spent, before, began = json.loads(ledger.read_text()), steps_of(run), process_time()
    seconds, steps = spent["seconds"], spent["steps"]
    if before < job.steps:
        try:
            if resight.train(config, run, resume=True).exit_code:
                return None
        finally:
            seconds, steps = seconds + process_time() - began, steps + steps_of(run) - before
            write_text(ledger, json.dumps(spent | {"seconds": seconds, "steps": steps}))
    return seconds / max(steps, 1) * job.steps


def steps_of(run: Path) -> int:
    return load_checkpoint(run / LAST, tensors=False).state["step"] if (run / LAST).exists() else 0


def measure(job: Job, folder: Path, runs: Path, results: Path, data: str) -> bool:
    """Trains and measures; False where it was interrupted. A training that diverged has found nothing."""
    config, test = config_of(job, folder), open_records(folder).splits["test"]
    run, file = runs / f"{job.setting}-{job.steps}-{job.fold}", job.file(results)
    try:
        if (seconds := train_job(job, config, run, data)) is None:
            return False
        detect = resight.load(run / LAST, "cpu").detect
    except Diverged:
        seconds, detect = 0.0, nothing
    rows, each = detect_all(test, detect)
    rows.save(run.with_name(f"{run.name}.npz"))
    matches = match_all(rows)
    results.mkdir(parents=True, exist_ok=True)
    matches.save(matches_of(file))
    facts = {
        **job._asdict(),
        "code": revision(),
        "data": data,
        "training_cpu_seconds": round(seconds, 1),
        "prediction_cpu_seconds": round(each, 4),
        "numbers": rounded(numbers_of(matches)),
        "config": keys_of(config),
    }
    write_text(file, json.dumps(facts, indent=1) + "\n")
    log.info("%s: %s", file.stem, facts["numbers"]["all"])
    return True


def matches_of(file: Path) -> Path:
    return file.with_name(f"{file.stem}.npz")


def nothing(image: np.ndarray) -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())


def rounded(numbers: Numbers) -> dict[str, dict[str, float | None]]:
    return {
        part: {
            name: None if np.isnan(v) else round(float(v), 4) for name, v in zip(MEASURES, values[:, 0], strict=True)
        }
        for part, values in numbers.items()
    }


def revision() -> str:
    """The last change of the package."""
    command = ["git", "-C", str(HOME.parents[1]), "log", "-1", "--format=%h", "--", "src"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def jobs_of(steps: int, results: Path, only: Sequence[str] | None = None) -> list[Job]:
    """Who takes part in a rung: all settings, or the best of the rung before, and the default first; or ``only``."""
    names = [name for name in SETTINGS if name != "default"]
    if only:
        names = [name for name in names if name in only]
    elif steps in BEST:
        before, count = BEST[steps]
        known = {}
        for name in names:
            files = [Job(name, before, fold).file(results) for fold in RUNGS[before]]
            if all(file.exists() for file in files):
                known[name] = np.mean([json.loads(file.read_text())["numbers"]["all"]["mAP"] for file in files])
        names = sorted(known, key=lambda name: -known[name])[:count]
    default = range(FOLDS) if steps == min(rung for rung, _ in BEST.values()) else RUNGS[steps]
    jobs = [Job("default", steps, fold) for fold in default if not only or "default" in only]
    return jobs + [Job(name, steps, fold) for fold in RUNGS[steps] for name in names]


# Tables


def measured(job: Job, results: Path) -> dict[str, Any]:
    """What was measured, with the numbers for drawn images too."""
    facts: dict[str, Any] = json.loads(job.file(results).read_text())
    matches = Matches.load(matches_of(job.file(results)))
    return facts | {"numbers": numbers_of(matches, DRAWS, job.fold), "counts": matches.counts}


def measured_settings(results: Path) -> list[str]:
    return sorted({file.stem.rsplit("-", 2)[0] for file in results.glob("*.json")})


def difference(ours: Sequence[Numbers], others: Sequence[Numbers], part: str, measure: int) -> tuple[float, ...]:
    """How much more ours are than the others on the same folds, and the ends of its 95 % interval."""
    mean = mean_of([mine[part][measure] - theirs[part][measure] for mine, theirs in zip(ours, others, strict=True)])
    drawn = mean[1:][~np.isnan(mean[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return float(mean[0]), float(low), float(high)


def report(results: Path, against: Path, steps: int, settings: Sequence[str], every_part: bool) -> None:
    """Means over the folds a setting was measured on, beside those of the default in ``against`` on the same folds."""

    def found_in(folder: Path, name: str, folds: Iterable[int]) -> dict[int, dict[str, Any]]:
        jobs = [Job(name, steps, fold) for fold in folds]
        return {job.fold: measured(job, folder) for job in jobs if job.file(folder).exists()}

    known = found_in(against, "default", range(FOLDS))
    if not known:
        return
    parts: tuple[tuple[str, str, int], ...] = PARTS
    if every_part:
        counts = sum((Counter(facts["counts"]) for facts in known.values()), Counter[str]())
        parts = tuple((f"{part} ({n}) {MEASURES[m]}", part, m) for part, n in counts.items() for m in range(3))
    rows = [["setting", "folds", *(title for title, *_ in parts), "CPU minutes", "CPU ms an image"]]
    elsewhere = against != results
    others = [name for name in settings if name != "default" or elsewhere]
    compared = {f"the default{' there' * elsewhere}": known} | {name: found_in(results, name, known) for name in others}
    for name, found in compared.items():
        if not found:
            continue
        ours = [facts["numbers"] for facts in found.values()]
        theirs = [known[fold]["numbers"] for fold in found]
        row = [name, " ".join(map(str, found))]
        for _, part, measure in parts:
            values = [value for numbers in ours if not np.isnan(value := numbers[part][measure, 0])]
            row.append(f"{np.mean(values):.3f}" + f" ± {np.std(values):.3f}" * (len(values) > 1) if values else "-")
            if found is not known and values:
                row[-1] += " ({:+.3f}, {:+.3f} to {:+.3f})".format(*difference(ours, theirs, part, measure))
        row.append(f"{np.mean([facts['training_cpu_seconds'] for facts in found.values()]) / 60:.1f}")
        row.append(f"{np.mean([facts['prediction_cpu_seconds'] for facts in found.values()]) * 1000:.0f}")
        rows.append(row)
    if every_part:
        rows = [list(column) for column in zip(*rows, strict=True)]
    print(f"\n{steps} steps, {results.name}\n")
    for number, row in enumerate(rows):
        print("| " + " | ".join(row) + " |" + ("\n|" + "---|" * len(row)) * (number == 0))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=["signs", "scenes"])
    parser.add_argument("runs", type=Path, nargs="?", help="folder of records and trainings; absent: only the tables")
    parser.add_argument("--voc", type=Path, help="Pascal VOC folder of the set signs")
    parser.add_argument("--steps", type=int, nargs="*", choices=RUNGS, default=list(RUNGS), help="which rungs")
    parser.add_argument("--folds", type=int, nargs="*", choices=range(FOLDS), default=range(FOLDS), help="which folds")
    parser.add_argument("--only", nargs="*", help="which settings; by default all")
    parser.add_argument("--every-part", action="store_true", help="tables of all sizes, shapes and classes")
    parser.add_argument("--results", type=Path, default=HOME, help="folder of what was measured")
    parser.add_argument("--against", type=Path, help="folder of results with whose default all are compared")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to run on")
    options = parser.parse_args(arguments)
    results = options.results / options.set
    if options.runs and options.set == "signs" and not options.voc:
        parser.error("the set signs needs --voc FOLDER")
    if unknown := {*(options.only or ())} - {*SETTINGS, *(() if options.runs else measured_settings(results))}:
        parser.error(f"there is no setting {', '.join(sorted(unknown))}")
    if options.runs and not measure_all(options, options.runs / options.set, results):
        return 75
    against = options.against / options.set if options.against else results
    for steps in options.steps:
        report(results, against, steps, options.only or measured_settings(results), options.every_part)
    return 0


def measure_all(options: argparse.Namespace, runs: Path, results: Path) -> bool:
    """All that is not measured yet; False where it was interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    runs.mkdir(parents=True, exist_ok=True)
    with FileLock(runs / "data.lock"):
        items = signs(options.voc) if options.set == "signs" else scenes(runs / "drawn")
        folders = build_folds(items, () if options.set == "signs" else DRAWN_CLASSES, runs / "records")
    digests = [digest_of(folder) for folder in folders]
    for steps in options.steps:
        for job in jobs_of(steps, results, options.only):
            folder, data = folders[job.fold], digests[job.fold]
            if job.fold not in options.folds or is_same(job.file(results), config_of(job, folder), data):
                continue
            try:
                with FileLock(runs / f"{job.file(results).stem}.lock", timeout=0):
                    log.info("%s, %d steps, fold %d", *job)
                    if not measure(job, folder, runs, results, data):
                        return False
            except Timeout:
                log.info("%s, %d steps, fold %d: another process is at it", *job)
    return True


if __name__ == "__main__":
    sys.exit(main())
