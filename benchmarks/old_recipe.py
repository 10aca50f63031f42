"""What the faults of an old recipe cost: the same trainings with and without them, on drives past road signs.

    OMP_NUM_THREADS=1 python benchmarks/old_recipe.py RUNS [--lisa allAnnotations.csv] [--seeds N ...] [--core N]
    python benchmarks/old_recipe.py

The recipe is that of an old workflow for LISA's traffic signs on the TensorFlow Object Detection API. Three of its
faults are known, and all else is held equal: backbone, starting weights, steps, images, optimizer, augmentation. Its
model has one box head where ours has two (`head`), which is no fault, but part of what it reaches.

`copies`: an image with n signs is written n times, with the first 1, 2, ... n of them. The copies that lack a sign
teach that it is background, and an image with several signs is seen more often than one with a single sign.
`anchors`: the smallest is of 64 px where the short side of the image is 600, and most signs are smaller. Here they are
scaled to the network's input, one size a level. Ours are fitted to the training boxes.
The split: frames are assigned at random, so that test frames come from drives that were trained on. That costs the
model nothing (all are trained on the same frames), but its score says nothing of other roads. So each model is measured
on drives that nobody trained on, on the frames that the old split keeps for its test, and on these as the old
evaluation counted them: of the copies it looks at the first alone, which has one sign.

The drives are drawn, past signs of three of LISA's classes. A second sign beside the first is of its class, so that
about a fifth of the frames has several (in LISA a seventh). With `--lisa` each sign grows through the sizes of one of
LISA's own tracks. What was measured lies in `old_recipe/`. It is not measured twice, and a training that was
interrupted goes on in its folder below RUNS. Without RUNS the tables are printed, and nothing else is done.
"""

import argparse
import csv
import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import DRAWN_CLASSES, DRAWS, Job, difference, digest_of, is_same, keys_of, revision, rounded, train_job
from average_precision import Matches, Numbers, Rows, detect_all, match_all, numbers_of
from filelock import FileLock

import resight
from resight.config.tree import Config
from resight.datasets.formats import read_source
from resight.fpn import specs
from resight.io.outputs import atomic_folder, write_text
from resight.io.progress import track
from resight.models.checkpoints import LAST
from resight.records.reader import open_records
from resight.scenes import HEADER, render_video
from resight.scenes.drives import SMALLEST, Track, Video, plan_video
from resight.types import Annotation

HOME = Path(__file__).with_suffix("")
SETTINGS: dict[str, tuple[str, ...]] = {  # what each has of the old recipe
    "ours": (),
    "copies": ("copies",),
    "anchors": ("anchors",),
    "old": ("copies", "anchors"),
    "head": ("head",),
    "old-head": ("copies", "anchors", "head"),
}
TRAINED, UNSEEN = (16, 24), (24, 12)  # drives and pictures of each, before those of other signs are left out
FRAME_TEST = 0.25  # of the frames of the first drives, at random: the old test split
OLD_ANCHORS, OLD_SIDE = (64, 128, 256, 512), 600  # pixels of a network input with this short side
STEPS, SEEDS = 300, (42, 43)  # of the trainings
SEED = 42  # of the drives and of the old test split
SMALL = {"model.min_size": 320, "model.max_size": 533, "train.batch_size": 4}  # so that a training takes five minutes
MEASURED = ("unseen", "frames", "counted")  # drives nobody trained on; the old test split; this as it was counted

log = logging.getLogger("old_recipe")


# Data: drives, of which some are not trained on, and two folders of records.


def lisa_tracks(file: Path) -> dict[str, list[list[int]]]:
    """``{class: short sides in pixels, in ascending order, of each of its tracks}`` of LISA's annotations."""
    tracks: dict[tuple[str, str], list[int]] = defaultdict(list)
    with file.open(encoding="utf-8", newline="") as text:
        for row in csv.DictReader(text, delimiter=";", quoting=csv.QUOTE_NONE):
            left, top, right, bottom = (
                int(row[f"{corner} corner {axis}"]) for corner in ("Upper left", "Lower right") for axis in "XY"
            )
            tracks[row["Annotation tag"], row["Origin track"]].append(min(right - left, bottom - top))
    return {name: [sorted(s) for (n, _), s in sorted(tracks.items()) if n == name] for name in DRAWN_CLASSES}


def plan_drive(number: int, frames: int, sizes: Mapping[str, Sequence[Sequence[int]]]) -> Video:
    """A drive past signs of the three classes alone, two of a kind where there are two."""
    video = plan_video(number, frames=frames, seed=SEED)
    tracks = []
    for drive in video.tracks:
        first, *others = drive.signs
        if first.label in DRAWN_CLASSES:
            pair = (first, *(replace(sign, label=first.label, size=first.size) for sign in others))
            tracks.append(as_in_lisa(video, replace(drive, signs=pair), sizes.get(first.label, ())))
    return replace(video, tracks=tuple(tracks))


def as_in_lisa(video: Video, drive: Track, tracks: Sequence[Sequence[int]]) -> Track:
    """The same approach, with the camera where the sign has the sizes of one of ``tracks``."""
    if not tracks:
        return drive
    sign, chosen = drive.signs[0], tracks[np.random.default_rng((*drive.seed, 9)).integers(len(tracks))]
    sides = np.maximum(np.quantile(chosen, np.linspace(0, 1, len(drive.places))), SMALLEST + 1)
    return replace(drive, places=tuple((sign.s - video.focal * min(sign.size) / sides).tolist()))


def drawn(folder: Path, sizes: Mapping[str, Sequence[Sequence[int]]]) -> list[Annotation]:
    """The frames of all drives, each a group, drawn into ``folder`` where they are not yet. The split is "train",
    "val" for frames that the old recipe would have tested on, "test" for drives that nobody trains on."""
    if not folder.exists():
        with atomic_folder(folder, False, lambda path: False) as work:
            lines = [HEADER]
            for number in track(range(TRAINED[0] + UNSEEN[0]), "drawing"):
                frames = (TRAINED if number < TRAINED[0] else UNSEEN)[1]
                lines += render_video(plan_drive(number, frames, sizes), work)
            (work / "allAnnotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw, items = np.random.default_rng(SEED), []
    for item in sorted(read_source(folder, "lisa").annotations, key=lambda item: item.source_id):
        group, kept = Path(item.source_id).parts[0], draw.random() < FRAME_TEST
        seen = int(group.removeprefix("vid")) < TRAINED[0]
        items.append(replace(item, group=group, split=("val" if kept else "train") if seen else "test"))
    return items


def copied(items: Sequence[Annotation]) -> Iterator[Annotation]:
    """Each training image as many times as it has boxes, each time with one more of them. The names differ: under one
    name they would be read as one image."""
    for item in items:
        if item.split != "train":
            yield item
            continue
        for count in range(1, len(item.boxes) + 1):
            names = {"filename": f"{count}-{item.filename}", "source_id": f"{item.source_id}#{count}"}
            yield replace(item, boxes=item.boxes[:count], **names)


def build(items: Sequence[Annotation], out: Path) -> dict[bool, Path]:
    """Records folders without and with the copies."""
    folders = {False: out / "once", True: out / "copies"}
    for copies, folder in folders.items():
        if not folder.exists():
            chosen = copied(items) if copies else items
            resight.write_records(chosen, folder, classes=DRAWN_CLASSES, split="given", background="none")
    return folders


# Measurements: one training each, found again by its name. The fold of a job is the seed here.


def config_of(job: Job, folder: Path) -> Config:
    keys = {"data.train": sorted(map(str, folder.glob("train*.tfrecord"))), "data.workers": 0}
    keys |= {"data.label_map": str(folder / "label_map.pbtxt"), "train.steps": job.steps, "train.seed": job.fold}
    keys |= {"model.anchors": "default" if has(job, "anchors") else "fit"}
    keys |= {"model.heads": 1} if has(job, "head") else {}
    return resight.load_config(None, keys | SMALL)


def has(job: Job, part: str) -> bool:
    return part in SETTINGS[job.setting]


@contextmanager
def old_anchors(config: Config) -> Iterator[None]:
    """The model's default anchors are the old ones meanwhile, scaled to its input, one size a level."""
    spec = specs.spec_of(config.model.name)
    sizes = tuple((float(round(size * config.model.min_size / OLD_SIDE)),) for size in OLD_ANCHORS)
    specs.SPECS[spec.name] = replace(spec, anchor_sizes=sizes)
    try:
        yield
    finally:
        specs.SPECS[spec.name] = spec


def as_counted(rows: Rows) -> Rows:
    """Of each image the first object alone."""
    first = np.unique(rows.truth_image, return_index=True)[1]
    names = ("truth_image", "truth_label", "truth_box")
    return replace(rows, **{name: getattr(rows, name)[first] for name in names})


def measure(job: Job, folders: Mapping[bool, Path], runs: Path, file: Path) -> bool:
    """Trains and measures; False where it was interrupted."""
    folder = folders[has(job, "copies")]
    data, config, records = digest_of(folder), config_of(job, folder), open_records(folder)
    if is_same(file, config, data):
        return True
    log.info("%s, %d steps, seed %d", *job)
    with old_anchors(config) if has(job, "anchors") else nullcontext():
        seconds = train_job(job, config, runs / file.stem, data)
    if seconds is None:
        return False
    detector = resight.load(runs / file.stem / LAST, "cpu")
    unseen, frames = (detect_all(records.splits[name], detector.detect)[0] for name in ("test", "val"))
    matches = [match_all(rows) for rows in (unseen, frames, as_counted(frames))]
    file.parent.mkdir(parents=True, exist_ok=True)
    matches[0].save(file.with_suffix(".npz"))
    facts = {
        "setting": job.setting,
        "steps": job.steps,
        "seed": job.fold,
        "code": revision(),
        "data": data,
        "images": {name: len(split) for name, split in records.splits.items()},
        "anchors": detector.model.anchors.sizes,
        "training_cpu_seconds": round(seconds, 1),
        "config": keys_of(config),
    }
    numbers = {name: rounded(numbers_of(each)) for name, each in zip(MEASURED, matches, strict=True)}
    write_text(file, json.dumps(facts | numbers, indent=1) + "\n")
    log.info("%s: %s", file.stem, {name: numbers[name]["all"] for name in MEASURED})
    return True


# The table


def report(results: Path, steps: int, seeds: Sequence[int]) -> None:
    """Means over the seeds. The cost is the difference from ours on drives that nobody trained on, with its 95 %
    interval."""
    titles = ["unseen drives: mAP, AP50, AP75", "small: mAP", "cost: mAP", "old test split: mAP, AP50", "as counted"]
    rows = [["", *titles], ["---"] * (1 + len(titles))]
    for setting in SETTINGS:
        files = {seed: file for seed in seeds if (file := Job(setting, steps, seed).file(results)).exists()}
        facts = [json.loads(file.read_text()) for file in files.values()]
        ours = {seed: file for seed in files if (file := Job("ours", steps, seed).file(results)).exists()}
        row = [setting, told(facts, "unseen", "mAP", "AP50", "AP75"), told(facts, "unseen", "mAP", part="small")]
        if ours and setting != "ours":
            pairs = zip(*((numbers_at(ours[seed]), numbers_at(files[seed])) for seed in ours), strict=True)
            row.append("{:.3f} ({:.3f} to {:.3f})".format(*difference(*pairs, "all", 0)))
        else:
            row.append("-")
        rows.append([*row, told(facts, "frames", "mAP", "AP50"), told(facts, "counted", "mAP", "AP50")])
    print(f"\n{steps} steps, {results.name}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))


def told(facts: Sequence[dict[str, Any]], name: str, *measures: str, part: str = "all") -> str:
    if not facts:
        return "-"
    return ", ".join(f"{np.mean([fact[name][part][measure] for fact in facts]):.3f}" for measure in measures)


def numbers_at(file: Path) -> Numbers:
    return numbers_of(Matches.load(file.with_suffix(".npz")), DRAWS)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of records and trainings; absent: only the table")
    parser.add_argument("--lisa", type=Path, help="LISA's allAnnotations.csv, whose sizes the signs then have")
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS), help="which recipes")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--results", type=Path, default=HOME, help="folder of what was measured")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to run on")
    options = parser.parse_args(arguments)
    if options.runs and not measure_all(options, "lisa" if options.lisa else "drawn"):
        return 75
    for results in sorted(path for path in options.results.glob("*") if path.is_dir()):
        report(results, options.steps, options.seeds)
    return 0


def measure_all(options: argparse.Namespace, name: str) -> bool:
    """All that is not measured yet; False where it was interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    runs = options.runs / name
    runs.mkdir(parents=True, exist_ok=True)
    with FileLock(runs / "lock"):
        items = drawn(runs / "drawn", lisa_tracks(options.lisa) if options.lisa else {})
        folders = build(items, runs / "records")
        jobs = (Job(setting, options.steps, seed) for seed in options.seeds for setting in options.only)
        return all(measure(job, folders, runs, job.file(options.results / name)) for job in jobs)


if __name__ == "__main__":
    sys.exit(main())
