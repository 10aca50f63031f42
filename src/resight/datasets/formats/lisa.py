"""LISA traffic signs: a semicolon CSV, one row per box, frames in the folders of their videos.

Source: the annotation files of the LISA Traffic Sign Dataset (Mogelmose, Trivedi, Moeslund, 2012).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from ...errors import listed
from ...types import Box
from .dataset_dir import DatasetDir, peek
from .source import AnnotationCollector, Source
from .values import flag, number, text

NAME = "lisa"
LOOKS_FOR = "a CSV with the header 'Filename;Annotation tag;Upper left corner X;...'"
NEAR_FRAMES = 150

_CORNERS = ("upper left corner x", "upper left corner y", "lower right corner x", "lower right corner y")


def looks_like(tree: DatasetDir) -> str:
    files = _files(tree)
    return f"LISA's header in {listed(files, 1)}" if files else ""


def read(tree: DatasetDir, classes: Sequence[str] = ()) -> Source:
    """Reads every annotation file; of several that state the same frames, those highest up count.

    A box that is occluded is also difficult, and so is one on another road. The group of a frame is
    ``video#cluster``: tracks of one video whose frame ranges lie within 150 frames of each other are one cluster.
    """
    collector = AnnotationCollector(tree)
    tracks: dict[str, tuple[str, str]] = {}  # image: video and track
    ranges: dict[tuple[str, str], list[int]] = defaultdict(list)  # video and track: first and last frame
    for name in _files(tree):
        file, folder = tree.path(name), os.path.dirname(name)
        places = [tree.path(folder), tree.root, *tree.places(name, "..")]
        # Quotes mean nothing here; a stray one would otherwise swallow the rows after it.
        for where, image, row in collector.table(name, ";", ("annotation tag", *_CORNERS), places, quoted=False):
            occluded, _, elsewhere = row.get("occluded,on another road", "").partition(",")
            try:
                label = text(row["annotation tag"], "Annotation tag")
                left, top, right, bottom = (number(row[corner], corner) for corner in _CORNERS)
            except ValueError as error:
                collector.malformed(where, error, image)
                continue
            hidden, hard = flag(occluded), flag(occluded) or flag(elsewhere)
            collector.images[image].boxes[file].append(Box(label, left, top, right, bottom, hard, hidden))
            video = row.get("origin file", "")
            if video and image not in tracks:
                tracks[image] = (f"{folder}/{video}" if folder else video, row.get("origin track", ""))
                frames = ranges[tracks[image]]
                if re.fullmatch("[0-9]{1,9}", frame := row.get("origin frame number", "")):
                    frames.append(int(frame))
                    frames[:] = min(frames), max(frames)
    groups = _clusters(ranges)
    for path, track in tracks.items():
        collector.images[path].group = groups[track]
    return collector.source(NAME)


def _files(tree: DatasetDir) -> list[str]:
    wanted = {"filename", "annotation tag", *_CORNERS}
    heads = {name: peek(tree.path(name)).partition("\n")[0] for name in tree.candidates(".csv")}
    found = [name for name, head in heads.items() if wanted <= {cell.strip().lower() for cell in head.split(";")}]
    # LISA has one table for all beside one in each folder: what lies below another table's folder repeats it.
    folders = {PurePosixPath(name).parent for name in found}
    return [name for name in found if folders.isdisjoint(PurePosixPath(name).parent.parents)]


def _clusters(ranges: dict[tuple[str, str], list[int]]) -> dict[tuple[str, str], str]:
    groups: dict[tuple[str, str], str] = {}
    video_before, last, cluster = "", 0, 0
    # A track whose frames are not numbered cannot be near another one: it is a group of its own.
    for (video, track), frames in sorted(ranges.items(), key=lambda item: (item[0][0], item[1], item[0][1])):
        if not frames:
            groups[video, track] = f"{video}#{track}"
            continue
        first, end = frames
        if video != video_before:
            video_before, last, cluster = video, end, 0
        elif first - last > NEAR_FRAMES:
            cluster += 1
        last = max(last, end)
        groups[video, track] = f"{video}#{cluster}"
    return groups
