"""``resight predict``: objects in images and videos, drawn and listed; of millions in parts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..arguments import check_types
from ..config.defaults import Precision, SaveFormat
from ..datasets.export import CROPS, DATASET, Crops, DetectionDataset, check_classes
from ..errors import ResightError, listed
from ..inference.detector import Detector, check_share, load
from ..inference.inputs import Inputs
from ..inference.pictures import expected, read_pictures
from ..io.files import IMAGE_SUFFIXES
from ..io.object_store import is_remote
from ..io.parts import part_of
from ..io.progress import track
from ..models.fingerprint import fingerprint
from .predict_parts import merge_predictions, predict_part
from .predictions import Add, Head, Pictures, PredictReport, check_list, list_in, list_path, look


def predict(
    model: str | os.PathLike[str] | None = None,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] = "predictions",
    *,
    score: float | None = None,
    nms_iou: float | None = None,
    class_agnostic_nms: bool = False,
    no_labels: bool = False,
    no_pictures: bool = False,
    crops: bool = False,
    save: SaveFormat | None = None,
    frame_stride: int = 1,
    jsonl: bool = False,
    part: str | None = None,
    merge: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    labels: str | os.PathLike[str] | None = None,
    detections: int | None = None,
    force: bool = False,
) -> PredictReport:
    """Detects objects and writes ``detections.json`` and a picture of each image into ``out``.

    Of videos, of what lies in a store, with ``jsonl`` and with ``part`` the list is ``detections.jsonl``, a line for
    each image or frame. Of a part, and where ``out`` is an ``s3://`` address, only the list is written.

    Args:
        model: a run folder, a checkpoint or an exported model.
        inputs: image and video files, folders whose images are all taken, and ``s3://`` addresses of the same; or one
            of them.
        score: threshold of what is drawn, cut out and saved; by default the model's operating point.
        nms_iou: IoU threshold of NMS; by default the model's.
        class_agnostic_nms: NMS among the boxes of all classes.
        no_labels: draw boxes alone; a model of one class is drawn so anyway.
        no_pictures: draw none.
        crops: also cut out each detection of ``score`` or more, into ``out/crops/CLASS``.
        save: also write images and detections of ``score`` or more as a data set of this format, ``out/dataset``.
        frame_stride: look at every so many frames of a video.
        jsonl: write ``detections.jsonl`` in any case.
        part: do one part of the work, "I/N" from "1/N" to "N/N", or "auto", which takes both from the environment of
            an array of jobs. What was done already is not done again.
        merge: make what one run writes of the parts in this folder or at this address; no model is needed.
        precision: arithmetic of the network.
        labels: label map that names the classes, in the model's order.
        detections: the most detections of an image; by default the model's own number.
        force: replace an earlier prediction, or a part of another.

    Raises:
        ResightError: the model or an input does not exist, nothing can be read, ``out`` cannot be written, a data set
            cannot hold the name of a class, or parts are missing or of several jobs.
    """
    check_types(given := dict(locals()), predict)
    if merge is not None:
        _check_merge(given)
        return merge_predictions(os.fspath(merge), os.fspath(out), jsonl, force)
    place, remote = os.fspath(out), is_remote(out)
    check_share(score, "score")
    check_share(nms_iou, "nms_iou")
    if model is None:
        raise ResightError("there is none", where="MODEL", fix="resight predict MODEL INPUT...")
    if frame_stride < 1:
        raise ResightError(f"is {frame_stride}, and must be at least 1", where="--frame-stride")
    if Path(out).suffix.lower() in IMAGE_SUFFIXES:
        raise ResightError("is the name of an image; the output is a folder", where=out, fix="Name a folder with -o.")
    if (part or remote) and (more := "--save" if save else "--crops" if crops else ""):
        message = "is not for parts, nor for an output in a store: only the list is written"
        raise ResightError(message, where=more, fix="Leave it out.")
    if not part:
        check_list(place, force)
    sources = Inputs([inputs] if isinstance(inputs, str | os.PathLike) else inputs, out)
    if save and sources.as_lines:
        fix = "Write frames as images first (ffmpeg -i VIDEO frames/%05d.jpg), and copy what lies in a store."
        raise ResightError("takes image files", where="--save", fix=fix)

    def ready() -> tuple[Detector, Head]:
        detector = load(model, device, labels=labels, detections=detections)
        detector.set_nms(nms_iou, class_agnostic_nms)
        detector.set_precision(precision)
        return detector, Head.of(detector, detector.score if score is None else score)

    if part:
        settings = {
            "model": fingerprint(model, *([labels] if labels else [])),
            "score": score if score is None else float(score),
            "nms_iou": nms_iou if nms_iou is None else float(nms_iou),
            "class_agnostic_nms": class_agnostic_nms,
            "detections": detections if detections is None else int(detections),
            "precision": precision,
            "frame_stride": int(frame_stride),
        }
        return predict_part(place, part_of(part), sources, settings, ready, jsonl, force)
    survey, lines = sources.survey(), jsonl or sources.as_lines
    frames = expected(sources.videos, frame_stride)
    detector, head = ready()
    if save:
        check_classes(detector.classes)
    total = None if frames is None else survey.count - len(sources.videos) + frames
    with (
        list_in(place, head, lines, force) as (folder, listing),
        _made_in(folder, detector, not (no_pictures or remote), not no_labels, crops, save) as adders,
    ):
        pictures = track(read_pictures(sources, frame_stride, detector.on_gpu), "predicting", total)
        tally = look(detector, pictures, head, listing, adders)
        tally.check()
    return PredictReport(list_path(place, lines), head, tally)


@contextmanager
def _made_in(
    folder: Path, detector: Detector, drawn: bool, labelled: bool, crops: bool, save: SaveFormat | None
) -> Iterator[list[Add]]:
    """What is to be made of each picture beside the list; whole when the block has ended."""
    adders, pictures = list[Add](), Pictures(folder, labelled and len(detector.classes) > 1)
    if drawn:
        adders.append(pictures.add)
    if crops:
        cut = Crops(folder / CROPS, detector.classes)
        adders.append(lambda picture, image, found: cut.add(picture.name, image, found))
    if save:
        dataset = DetectionDataset(folder / DATASET, save, detector.classes)
        adders.append(lambda picture, image, found: dataset.add(Path(picture.file), image, found))
    yield adders
    pictures.finish()
    if save:
        dataset.finish()


def _check_merge(given: Mapping[str, Any]) -> None:
    """Raises ResightError: something is given that the parts have decided."""
    defaults = {name: one.default for name, one in inspect.signature(predict).parameters.items()}
    for name in ("out", "jsonl", "merge", "device", "no_labels", "no_pictures", "force"):
        del defaults[name]
    if others := [name for name, default in defaults.items() if given[name] not in (default, [])]:
        arguments = {"model": "MODEL", "inputs": "INPUT"}
        named = listed(arguments.get(name, f"--{name.replace('_', '-')}") for name in others)
        fix = "Leave it out; name the output with -o."
        raise ResightError(f"takes the parts as they are, and no {named}", where="--merge", fix=fix)
