"""``resight predict``: objects in images and folders, drawn and listed."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..arguments import PATH, check_type, check_types
from ..config.defaults import Precision, SaveFormat
from ..datasets.export import CROPS, DATASET, Crops, DetectionDataset, check_classes
from ..drawing import draw, save_picture
from ..errors import ResightError, counted, listed, one_line
from ..inference.detector import Detector, check_share, load
from ..inference.many import detect_each, read_ahead
from ..io.files import IMAGE_SUFFIXES, LARGE, read_json
from ..io.images import VIDEO_SUFFIXES, passed_over, read_image
from ..io.misplaced import meant
from ..io.object_store import is_remote
from ..io.outputs import atomic_folder, check_output, is_address, is_partial
from ..io.progress import track
from ..types import Detections

log = logging.getLogger(__name__)

LISTED_SCORE = 0.05  # detections.json holds everything of this score or more
RESULT = "detections.json"


@dataclass(frozen=True)
class PredictReport:
    """What was found.

    Args:
        result: the content of ``detections.json``.
        out: the folder with it and the pictures.
        unread: images that could not be read, each with the reason.
        full: what to know where images have as many detections as they can have; "" where none has.
    """

    result: dict[str, Any]
    out: str
    unread: tuple[str, ...] = ()
    full: str = ""

    def text(self) -> str:
        shown = [d["label"] for image in self.result["images"] for d in image["detections"] if d["score"] >= self.score]
        counts = ", ".join(f"{one_line(name)} {count:,}" for name, count in Counter(shown).most_common()) or "nothing"
        lines = [f"{counted(len(self.result['images']), 'image')}; at score {self.score:.2f} or more: {counts}"]
        if self.unread:
            lines.append(f"{counted(len(self.unread), 'image')} could not be read: {listed(self.unread, 5)}")
        if self.full:
            lines.append(self.full)
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        return self.result

    @property
    def score(self) -> float:
        return float(self.result["score"])


def predict(
    model: str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "predictions",
    *,
    score: float | None = None,
    nms_iou: float | None = None,
    class_agnostic_nms: bool = False,
    no_labels: bool = False,
    no_pictures: bool = False,
    crops: bool = False,
    save: SaveFormat | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    labels: str | os.PathLike[str] | None = None,
    detections: int | None = None,
    force: bool = False,
) -> PredictReport:
    """Detects objects and writes ``detections.json`` and a picture of each image into ``out``.

    Args:
        model: a run folder, a checkpoint or an exported model.
        inputs: image files, and folders whose images are all taken; or one of them.
        score: threshold of what is drawn, cut out and saved; by default the model's operating point.
        nms_iou: IoU threshold of NMS; by default the model's.
        class_agnostic_nms: NMS among the boxes of all classes.
        no_labels: draw boxes alone; a model of one class is drawn so anyway.
        no_pictures: draw none.
        crops: also cut out each detection of ``score`` or more, into ``out/crops/CLASS``.
        save: also write images and detections of ``score`` or more as a data set of this format, ``out/dataset``.
        precision: arithmetic of the network.
        labels: label map that names the classes, in the model's order.
        detections: the most detections of an image; by default the model's own number.
        force: replace an earlier prediction.

    Raises:
        ResightError: the model or an input does not exist, no image can be read, ``out`` cannot be written, or a data
            set cannot hold the name of a class.
    """
    check_types(locals(), predict)
    check_share(score, "score")
    check_share(nms_iou, "nms_iou")
    if Path(out).suffix.lower() in IMAGE_SUFFIXES:
        raise ResightError("is the name of an image; the output is a folder", where=out, fix="Name a folder with -o.")
    is_ours = _written_before(Path(out))
    check_output(out, force, is_ours)
    files = find_images([inputs] if isinstance(inputs, str | os.PathLike) else inputs, out)
    detector = load(model, device, labels=labels, detections=detections)
    detector.set_nms(nms_iou, class_agnostic_nms)
    detector.set_precision(precision)
    if save:
        check_classes(detector.classes)
    threshold = detector.score if score is None else score
    labelled = not no_labels and len(detector.classes) > 1
    with atomic_folder(out, force, is_ours) as folder:
        dataset = DetectionDataset(folder / DATASET, save, detector.classes) if save else None
        writers: list[_Pictures | Crops | DetectionDataset] = [] if no_pictures else [_Pictures(folder, labelled)]
        writers += [Crops(folder / CROPS, detector.classes)] if crops else []
        writers += [dataset] if dataset else []
        report = _predict_all(detector, files, threshold, writers, str(out))
        if dataset:
            dataset.finish()
        # The last file: what changes after it was not written by us. And a file name need not be text; what is not
        # becomes an escape of JSON.
        text = json.dumps(report.result, indent=1, ensure_ascii=False)
        (folder / RESULT).write_text(text, encoding="utf-8", errors="backslashreplace")
    return report


class _Pictures:
    """Images with what was found in them drawn, in a folder."""

    def __init__(self, folder: Path, labelled: bool) -> None:
        self._folder, self._labelled = folder, labelled
        self._names: set[str] = set()

    def add(self, file: Path, image: np.ndarray, found: Detections) -> None:
        picture = draw(image, found.boxes, found.names, found.scores, labels=self._labelled)
        save_picture(picture, self._folder / _picture_name(file, self._names))


def _predict_all(
    detector: Detector,
    files: list[Path],
    threshold: float,
    writers: Sequence[_Pictures | Crops | DetectionDataset],
    out: str,
) -> PredictReport:
    """Detects in images, hands what is found to the writers, and lists it."""
    found: list[dict[str, Any]] = []
    unread: list[str] = []
    full = 0

    def images() -> Iterator[tuple[Path, np.ndarray]]:
        for file, image in read_ahead(read_image, track(files, "predicting"), detector.on_gpu):
            if isinstance(image, ResightError):
                log.warning("not read: %s", image)
                unread.append(str(file))
            else:
                yield file, image

    for file, image, everything in detect_each(detector, images()):
        told = everything.above(min(LISTED_SCORE, threshold))
        found.append(replace(told, file=str(file)).listed())
        full += detector.most.reached(told.labels)
        shown = told.above(threshold)
        for writer in writers:
            writer.add(file, image, shown)
    if not found:
        raise ResightError("could not be read, and there is no other image", where=listed(unread, 3))
    result = {"model": detector.name, "classes": list(detector.classes), "score": threshold, "images": found}
    return PredictReport(result, out, tuple(unread), detector.most.full(full) if full else "")


def find_images(inputs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files named, and the images of the folders named, with those of their subfolders, sorted; what lies in
    ``out``, where pictures are to be drawn, is no input. Raises ResightError: an input does not exist or is neither a
    file nor a folder, or a folder holds no image or cannot be read."""
    fix = "Name images or folders of images."
    if not inputs:
        raise ResightError("there is none", where="INPUT", fix=fix)
    for number, path in enumerate(inputs, 1):
        check_type(f"number {number}", path, PATH, "INPUT")
    for path in inputs:
        if remedy := _no_image(str(path)):
            raise ResightError("predict takes images and folders of images", where=path, fix=remedy)
    missing = [str(path) for path in inputs if not os.path.exists(path)]
    if missing:
        raise ResightError(f"there is no {listed(missing)}", where="INPUT", fix=fix)
    if odd := [str(path) for path in inputs if not os.path.isdir(path) and not os.path.isfile(path)]:
        raise ResightError(f"{listed(odd)} is neither a file nor a folder", where="INPUT", fix=fix)
    files: list[Path] = []
    for path in map(Path, inputs):
        files += _images_below(path, out) if path.is_dir() else [path]
    return list(dict.fromkeys(files))


def _images_below(folder: Path, out: str | os.PathLike[str] | None) -> list[Path]:
    def stop(error: OSError) -> NoReturn:
        raise error

    files, left_out = [], os.path.realpath(out) if out is not None else ""
    try:
        for parent, folders, names in os.walk(folder, onerror=stop):
            files += [Path(parent, name) for name in names]
            for name in [name for name in folders if os.path.realpath(os.path.join(parent, name)) == left_out]:
                log.warning("%s: left out %s, the output folder", folder, name)
                folders.remove(name)
            # Nor is what a killed prediction left half-written an input.
            folders[:] = [name for name in folders if not is_partial(name)]
        # A dangling link is tried too, and reported; reading a pipe or a device might never end.
        regular = [file for file in files if file.is_file() or not file.exists()]
    except OSError as error:
        raise ResightError(f"cannot be read: {error.strerror}", where=error.filename or folder) from error
    images = sorted(file for file in regular if file.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        video = next((remedy for file in regular if (remedy := _no_image(str(file)))), "")
        fix = meant(folder, "images") or video or f"Images are {listed(sorted(IMAGE_SUFFIXES), 20)}."
        raise ResightError("holds no image" if regular else "is empty and holds no image", where=folder, fix=fix)
    if passed := passed_over(map(str, regular)):
        log.warning("%s: passed over %s", folder, passed)
    if special := sorted(set(files) - set(regular)):
        log.warning("%s: skipped non-regular files: %s", folder, listed(special, 5))
    return images


def _no_image(text: str) -> str:
    """How to get images of a video, a camera or an address, or an empty string where ``text`` is none of them."""
    path = shlex.quote(text)
    if text.lower().endswith(VIDEO_SUFFIXES):
        return (
            "Videos are not supported. Write its frames as images first:\n"
            f"  mkdir frames && ffmpeg -i {path} -vf fps=2 frames/%05d.jpg\n  and predict on the folder frames."
        )
    if (text.isdigit() and not os.path.exists(text)) or text.startswith("/dev/video"):
        return (
            "Cameras are not supported. Save a picture as an image first, or hand the frames to the detector in\n"
            "  Python: resight.load(MODEL)(frame), with the frame as an [H, W, 3] uint8 RGB array."
        )
    if is_remote(text):
        return f"Copy them here first: aws s3 cp --recursive {path} photos"
    if is_address(text):
        return "URLs are not supported. Download the images first."
    if "*" in text and not os.path.exists(text):
        return "No file matches this pattern."
    return ""


def _picture_name(file: Path, taken: set[str]) -> str:
    """A name for the drawn picture that no other picture of this call has."""
    name, number = f"{file.stem}.jpg", 2
    while name in taken:
        name, number = f"{file.stem}-{number}.jpg", number + 1
    taken.add(name)
    return name


def _written_before(out: Path) -> Callable[[Path], bool]:
    """Tells the files of an earlier prediction in ``out``, by its list, from others that lie there; of a data set and
    of crops by when they were changed: somebody may have corrected the boxes."""
    names: set[str] = set()
    written = -1.0
    with suppress(ResightError, LookupError, TypeError, OSError):
        for image in read_json(out / RESULT, LARGE)["images"]:
            _picture_name(Path(image["file"]), names)
        written = (out / RESULT).stat().st_ctime
        names.add(RESULT)

    def is_ours(path: Path) -> bool:
        if path.name in (DATASET, CROPS) and path.is_dir():
            return all(file.is_dir() or file.lstat().st_ctime <= written for file in path.rglob("*"))
        return path.name in names

    return is_ours
