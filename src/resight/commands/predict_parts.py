"""``resight predict`` in parts: one of them, and what one run writes of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

from ..errors import ResightError, counted
from ..inference.detector import Detector
from ..inference.inputs import Inputs
from ..inference.pictures import read_pictures
from ..inference.video import check_decoder
from ..io.object_store import is_remote
from ..io.parts import Part, all_parts, check_parts, file_at, find_part, part_data, settings_of, writing
from ..io.progress import track
from .predictions import Head, Lines, PredictReport, Tally, check_list, list_in, list_path, look

KIND, SUFFIX = "predict", ".jsonl"


def predict_part(
    place: str,
    part: Part,
    sources: Inputs,
    settings: Mapping[str, Any],
    ready: Callable[[], tuple[Detector, Head]],
    jsonl: bool,
    force: bool,
) -> PredictReport:
    """Looks at the images of one part, unless that was done already, and leaves their lines at ``place``."""
    check_parts(place)
    for video in sources.videos[:1]:
        check_decoder(video.file)
    survey = sources.survey()
    stride = settings["frame_stride"]
    settings = settings_of(KIND, part, inputs=list(sources.named), files=survey.count, names=survey.digest, **settings)
    if done := find_part(place, part, SUFFIX, settings, force):
        return _report(place, done, "It was done already.")
    detector, head = ready()
    span = part.of(survey.count)
    with writing(place, part, SUFFIX, settings) as (path, about):
        pictures = read_pictures(sources.within(survey, span), stride, detector.on_gpu)
        total = None if sources.videos else len(span)
        with closing(Lines(path)) as listing:
            tally = look(detector, track(pictures, f"predicting {part.number}/{part.count}", total), head, listing)
        about |= {"head": asdict(head), "lines": jsonl or sources.as_lines, "tally": asdict(tally), "part": part.name}
    return _report(place, about, "")


def merge_predictions(place: str, out: str, lines: bool, force: bool) -> PredictReport:
    """Writes into ``out`` the list that one run writes of all the images whose parts are at ``place``."""
    check_list(out, force)
    parts = all_parts(place, KIND)
    head, tally = _read(place, parts[0])[0], Tally()
    lines = bool(lines or parts[0].get("lines") or is_remote(out))
    with list_in(out, head, lines, force) as (_, listing):
        for part in track(parts, "merging"):
            tally.join(_read(place, part)[1])
            with part_data(place, part, SUFFIX) as path:
                listing.take(path)
        tally.check()
    return PredictReport(list_path(out, lines), head, tally, f"Merged {counted(len(parts), 'part')}.")


def _report(place: str, about: Mapping[str, Any], note: str) -> PredictReport:
    return PredictReport(file_at(place, about["part"] + SUFFIX), *_read(place, about), note)


def _read(place: str, about: Mapping[str, Any]) -> tuple[Head, Tally]:
    """What the head of a part says. Raises ResightError: it was changed."""
    try:
        return Head.read(about["head"]), Tally(**about["tally"])
    except (LookupError, TypeError, ValueError) as error:
        fix = "Remove it, and do the part again."
        raise ResightError("does not say what a part says", where=f"{place}/{about['part']}.json", fix=fix) from error
