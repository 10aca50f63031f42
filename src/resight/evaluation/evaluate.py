"""``resight evaluate``: measures a model on one split of a records folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import check_types
from ..config.defaults import Precision
from ..config.tree import DataConfig
from ..dialect import dialect_of, load_config, records_left_by_tfod
from ..errors import ResightError, counted, listed, nearest
from ..inference.detector import Detector, load
from ..io import object_store as storage
from ..io.files import read_json
from ..io.object_store import is_remote
from ..io.outputs import check_local, check_place
from ..io.parts import Part, check_parts, file_at, find_part, part_of, settings_of, writing
from ..io.progress import track
from ..label_map import LabelMap
from ..models.fingerprint import fingerprint
from ..models.remote import fetch_model
from ..records.reader import Records, RecordSplit, open_configured
from ..types import named_split
from . import report
from .coco import STANDARD, CocoMetrics, measures_of
from .loop import ClassNames, ImageResult, evaluate_images, mean_losses, measure, unknown_classes
from .operating_point import OperatingPoint
from .parts import KIND, SUFFIX, Found, gather, save_part
from .reach import with_proposals
from .saved import METRICS, to_save, write_evaluation


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Args:
        metrics: the content of ``metrics.json``.
        missed: each unmet requirement in words.
        path: the file that was written.
        notes: what else must be known to read the numbers.
    """

    metrics: dict[str, Any]
    missed: list[str]
    path: str
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The table, the operating point in a sentence, the weakest classes, and the notes."""
        metrics = self.metrics
        head = f"{metrics['model']} on '{metrics['split']}' of {metrics['data']}: "
        head += f"{counted(metrics['num_images'], 'image')}, {counted(metrics['num_boxes'], 'box', 'boxes')}"
        if metrics["num_ignored"]:
            head += f", {metrics['num_ignored']:,} more ignored (crowd or difficult)"
        return "\n\n".join(filter(None, [head, report.text(metrics), "\n".join(self.notes), f"Wrote {self.path}"]))


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
    require: Sequence[str] = (),
    ignore_difficult: bool = False,
    device: str = "auto",
    precision: Precision = "float32",
    labels: str | os.PathLike[str] | None = None,
    detections: int | None = None,
    part: str | None = None,
    merge: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Evaluation:
    """Measures ``model`` on ``split`` of ``data``; writes ``metrics.json`` and ``detections.safetensors``, of which
    ``resight report`` makes a page.

    The operating point is at the score stored with the model, which ``predict`` uses; for a model without one it is
    the best on these images.

    Args:
        model: a run folder, a checkpoint or an exported model.
        data: records folder; by default the one the run was trained with, or for what TFOD left the records that its
            `pipeline.config` names.
        split: "train", "val" or "test".
        limit: evaluate only the first so many images, in the order of the records.
        out: folder of ``metrics.json``; by default ``evaluation`` in the run folder, else in the current one, and of
            other splits than "test" a folder with the split's name in that.
        require: lower bounds such as ``"AP50=.80"`` on the numbers; what is below is listed in ``missed``.
        ignore_difficult: difficult objects count neither as found nor as missed.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: arithmetic of the network; "bfloat16" is measured beside float32 on the same images.
        labels: label map that names the classes, in the model's order.
        part: look at one part of the images, "I/N" from "1/N" to "N/N" or "auto", and leave what is found in the folder
            or at the ``s3://`` address ``out``. What was done already is not done again.
        merge: measure what the parts in this folder or at this address hold, with the same model, data and options.
        detections: the most detections of an image, and those that the numbers beside COCO's count; by default the
            model's own, and ``evaluate.max_detections`` of the run.
        force: replace the ``metrics.json`` of an earlier evaluation; in the run folder it is replaced anyway.

    Raises:
        ResightError: the model or the data cannot be used, a record is damaged, the output cannot be written, or parts
            are missing or of another evaluation.
    """
    check_types(locals(), evaluate)
    split = named_split(split)
    if limit is not None and limit < 1:
        raise ResightError(f"is {limit}, and must be at least 1", where="--limit")
    run = run_folder(fetch_model(os.fspath(model)) if is_remote(model) else model)
    own = _part_of(part, merge, out, require) if part else None
    path = Path() if own else _output(out, run, split, force)
    detector = load(model, device, labels=labels, detections=detections)  # what is no model needs no data
    detector.set_precision(precision)
    most = detections or (run and load_config(run / "config.toml").evaluate.max_detections) or detector.most.of_a_class
    bounds = parse_requirements(require, most)
    source, same_path = data_of(model, run, data)
    records = _opened(source, labels, detector)
    images = split_of(records, split)
    measured = min(len(images), limit or len(images))
    counting = {"ignore_difficult": ignore_difficult, "max_detections": most}
    task = _Task(detector, records, images, range(measured), counting, source.on_bad_record == "skip")
    settings: dict[str, Any] = {"split": split, "images": int(measured), "precision": precision}
    settings["detections"] = detections if detections is None else int(detections)
    if own or merge:
        settings |= {"model": fingerprint(model, *([labels] if labels else [])), "data": records.digest}
    if own:
        return task.leave(os.fspath(out or ""), own, settings, force)
    found = task.look() if merge is None else gather(os.fspath(merge), settings, detector.classes)
    kept = to_save(task.metrics(found, limit), detector, found.results)
    metrics, written = kept.metrics, str(path)
    for file in write_evaluation(path.parent, kept):
        if is_remote(model) and run and out is None:
            written = storage.join(model, file.relative_to(run).as_posix())
            storage.write(written, file)
    cut = measured < len(images)
    notes = [f"Only the first {measured:,} of the {len(images):,} images were measured."] if cut else []
    notes += _notes(detector, found, metrics["operating_point"]["score"])
    if others := dict.fromkeys(problem.message for problem in records.problems if problem.kind != "unknown_class"):
        notes.append(f"Findings in the data: {listed(others, 3)}")
    notes += _split_note(split, detector.selected_on, _trained_on(run, records, same_path))
    return Evaluation(metrics, missed(metrics, bounds), written, notes)


class EvaluatedPart(Evaluation):
    """A part of an evaluation, of which nothing is measured yet."""

    def text(self) -> str:
        return "\n".join([*self.notes, f"Wrote {self.path}"])


@dataclass(frozen=True)
class _Task:
    """What is measured on what: the images ``indices`` of ``split``; ``counting`` are options of ``measure``."""

    detector: Detector
    records: Records
    split: RecordSplit
    indices: Sequence[int]
    counting: dict[str, Any]
    skip_bad: bool

    def look(self) -> Found:
        """What is found in the images; where the precision is not float32, in that, too."""
        precision, unusable, class_names = self.detector.precision, list[str](), self._class_names()

        def on_error(error: ResightError) -> None:
            if not self.skip_bad or isinstance(error, storage.StorageError):
                raise error
            unusable.append(f"{error.where}: {error.message}")

        results, usual = self._results(class_names, on_error), list[ImageResult]()
        if precision != "float32":
            self.detector.set_precision("float32")
            usual = self._results(self._class_names(), lambda _: None, with_losses=False)  # errors are known
            self.detector.set_precision(precision)
        return Found(results, usual, class_names.unknown, unusable)

    def leave(self, place: str, part: Part, settings: dict[str, Any], force: bool) -> EvaluatedPart:
        """Looks at the images of one part, unless that was done already, and leaves what is found at ``place``."""
        check_parts(place)
        settings = settings_of(KIND, part, **settings)
        path = file_at(place, part.name + SUFFIX)
        note = "It was done already."
        if not (head := find_part(place, part, SUFFIX, settings, force)):
            span = part.of(len(self.indices))
            found = replace(self, indices=self.indices[span.start : span.stop]).look()
            with writing(place, part, SUFFIX, settings) as (file, head):
                save_part(file, found)
                head["images"] = len(found.results)
            note = ""
        notes = [f"Part {part.number} of {part.count}: {counted(head['images'], 'image')}", *filter(None, [note])]
        return EvaluatedPart({"part": part.name, "images": head["images"]}, [], path, notes)

    def _class_names(self) -> ClassNames:
        return ClassNames(self.records, self.detector.classes)

    def _results(
        self, class_names: ClassNames, on_error: Callable[[ResightError], None], with_losses: bool = True
    ) -> list[ImageResult]:
        title = f"evaluating {self.split.name}" + ("" if with_losses else f" in {self.detector.precision}")
        options: dict[str, Any] = {"class_names": class_names, "on_error": on_error, "with_losses": with_losses}
        images = evaluate_images(self.detector, self.split, track(self.indices, title), **options)
        return [result for _, result in (with_proposals(self.detector, images) if with_losses else images)]

    def measure(self, results: Sequence[ImageResult]) -> tuple[CocoMetrics, OperatingPoint]:
        truths, found = [result.truth for result in results], [result.detections for result in results]
        score = self.detector.score if self.detector.has_score else None
        return measure(truths, found, self.detector.classes, score=score, **self.counting)

    def metrics(self, found: Found, limit: int | None) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        numbers, point = self.measure(found.results)
        means = mean_losses([result.losses for result in found.results])
        own = dialect_of(self.detector.config).own_metrics(numbers.summary, means)
        about = report.about(
            self.detector,
            self.records,
            self.split.name,
            limit=limit,
            ignore_difficult=self.counting["ignore_difficult"],
            unknown_classes=found.unknown,
        )
        about |= self._beside_float32(numbers, found.usual) | ({self.detector.config.dialect: own} if own else {})
        return report.as_dict(numbers, point, point_of_model=self.detector.has_score, losses=means, **about)

    def _beside_float32(self, numbers: CocoMetrics, results: Sequence[ImageResult]) -> dict[str, Any]:
        """The precision of ``numbers`` where it is not float32, what that gives on the same images, and the
        differences."""
        if self.detector.precision == "float32":
            return {}
        usual = self.measure(results)[0].summary
        both = ((name, value, usual[name]) for name, value in numbers.summary.items())
        more = {name: None if value is None or other is None else value - other for name, value, other in both}
        return {"precision": self.detector.precision, "float32": usual, "difference": more}


def run_folder(model: str | os.PathLike[str]) -> Path | None:
    """The run that ``model`` is, or is a checkpoint of; None for any other model."""
    path = Path(model)
    candidates = [path] if path.is_dir() else [path.parent, path.parent.parent]
    return next((run for run in candidates if (run / "config.toml").is_file() and (run / "checkpoints").is_dir()), None)


def evaluation_folder(run: Path, split: str) -> Path:
    """Where the evaluation of a split of ``run`` lies."""
    return run / "evaluation" / ("" if split == "test" else split)


def parse_requirements(require: Sequence[str], max_detections: int = STANDARD) -> dict[str, float]:
    """``["AP50=.80"]`` -> ``{"AP50": 0.8}``; all that is wrong is said at once."""
    known = [measure.key for measure in measures_of(max_detections)]
    bounds, wrong = {}, []
    for item in require:
        name, _, value = (part.strip() for part in item.partition("="))
        try:
            bounds[name] = float(value)
        except ValueError:
            wrong.append(f"'{item}' is not of the form NAME=VALUE")
            continue
        if name not in known:
            wrong.append(f"unknown number '{name}'. {nearest(name, known)}".rstrip())
        elif not 0 <= bounds[name] <= 1:
            wrong.append(f"'{item}': the value lies between 0 and 1")
    if wrong:
        raise ResightError("; ".join(wrong), where="--require", fix=f"Known numbers: {', '.join(known)}")
    return bounds


def missed(metrics: dict[str, Any], bounds: dict[str, float]) -> list[str]:
    """Each number that is below its bound, or cannot be told, in words."""
    unmet = []
    for name, bound in bounds.items():
        value = metrics[name]
        if value is None or value < bound:
            said = "n/a (there is no such object)" if value is None else f"{value:.6g}"
            unmet.append(f"{name} is {said}, {bound:g} required")
    return unmet


def data_of(
    model: str | os.PathLike[str], run: Path | None, data: str | os.PathLike[str] | None
) -> tuple[DataConfig, bool]:
    """Where the records are, and whether that is where the run had them."""
    trained_on = load_config(run / "config.toml").data if run else None
    if data is not None:
        same = trained_on is not None and os.path.realpath(data) == os.path.realpath(trained_on.path)
        return (trained_on if trained_on and same else DataConfig(path=os.fspath(data))), same
    if run is None and (records := records_left_by_tfod(Path(model))):
        return records, False
    if trained_on is None or not (trained_on.path or trained_on.train or trained_on.test):
        raise ResightError("has no record of its data set", where=model, fix="Name the records folder: --data RECORDS")
    if trained_on.path and not is_remote(trained_on.path) and not os.path.exists(trained_on.path):
        message = f"was trained on {trained_on.path}, which is not there now"
        raise ResightError(message, where=model, fix="Name it: --data RECORDS")
    return trained_on, True


def _trained_on(run: Path | None, records: Records, same_path: bool) -> bool | None:
    """Whether the model was trained on ``records``, wherever they lie now; None where nothing tells."""
    if run is None or same_path:
        return same_path or None
    try:
        return bool(read_json(run / "environment.json")["dataset"] == records.digest)
    except (ResightError, LookupError, TypeError):
        return None


def _part_of(
    part: str, merge: str | os.PathLike[str] | None, out: str | os.PathLike[str] | None, require: Sequence[str]
) -> Part:
    """The part, before the model is loaded. Raises ResightError: there is no such part, or it has no place."""
    if merge is not None:
        raise ResightError("is for all parts together", where="--merge", fix="Leave out --part.")
    if out is None:
        raise ResightError("parts need a place", where="--part", fix="Name a folder or s3:// address: --out PARTS")
    if require:
        raise ResightError("is of all parts together", where="--require", fix="Give it to --merge.")
    return part_of(part)


def _opened(source: DataConfig, labels: str | os.PathLike[str] | None, detector: Detector) -> Records:
    """The records, whose names a detector gets that has numbers alone for its classes."""
    records = open_configured(source, labels)
    if detector.classes == LabelMap(()).by_id(len(detector.classes)).names:
        detector.classes = records.label_map.by_id(len(detector.classes)).names
    return records


def split_of(records: Records, split: str) -> RecordSplit:
    if split not in records.splits:
        there = ", ".join(f"{name} ({len(part):,} images)" for name, part in records.splits.items())
        fix = f"There is {there or 'no split at all'}; choose with --split."
        raise ResightError(f"has no split '{split}'", where=records.path, fix=fix)
    return records.splits[split]


def _notes(detector: Detector, found: Found, score: float) -> list[str]:
    """Objects that are not counted, and where an image may hold more than the model's most detections: by its objects,
    or by what was found in it from ``score`` on."""
    notes, most, results = list[str](), detector.most, found.results
    if left_out := sum(result.left_out for result in results):
        beyond = dialect_of(detector.config).left_out
        notes.append(f"Skipped {counted(left_out, 'box', 'boxes')} {beyond}with non-finite corners.")
    images = np.repeat(np.arange(len(results)), [len(result.labels) for result in results])
    labels = np.concatenate([np.zeros(0, np.int64), *(result.labels for result in results)])
    if crowded := most.crowded(images, labels, lambda image: results[image].name, "--detections {}"):
        notes.append(f"{crowded[0]}.")
    if full := sum(most.reached(result.detections.above(score).labels) for result in results):
        notes.append(f"{most.full(full)}.")
    notes += unknown_classes(found.unknown)
    if found.unusable:
        named = listed(found.unusable, 3)
        notes.append(f"Left out, as they cannot be used: {len(found.unusable):,} of the images: {named}")
    return notes


def _split_note(split: str, selected_on: str | None, own: bool | None) -> list[str]:
    if own and split == "train":
        return ["The model was trained on these images, so the scores are optimistic."]
    if own is False or selected_on != split:
        return []
    where = ", this split, so" if own else " of its training data; if these are the same images,"
    return [f"The checkpoint was chosen by its numbers on '{split}'{where} the scores are optimistic."]


def _output(out: str | os.PathLike[str] | None, run: Path | None, split: str, force: bool) -> Path:
    """The file to write; refused before the work starts where something is in its place."""
    check_local(out)
    folder = Path(out) if out is not None else evaluation_folder(run or Path(), split)
    path = folder / METRICS
    check_place(folder, fix="Name another with --out.")
    if path.exists():
        if not force and (out is not None or run is None):  # a run's own is measured again as often as one likes
            raise ResightError("exists already", where=path, fix="Replace it with --force, or name another --out.")
        if not _is_ours(path):
            raise ResightError("was not written by Resight and is not replaced", where=path, fix="Name another --out.")
    elif out is not None and not force and folder.is_dir() and any(folder.iterdir()):
        raise ResightError("holds something already", where=folder, fix="Add to it with --force, or choose another.")
    return path


def _is_ours(path: Path) -> bool:
    try:
        content = read_json(path)
    except ResightError:
        return False
    return isinstance(content, dict) and {"mAP", "operating_point"} <= content.keys()
