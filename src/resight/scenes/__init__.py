"""LISA-style dash-cam scenes drawn in code, written in LISA's own layout.

A video is a drive past a few signs; each sign has a track, from which a handful of frames is kept while the sign grows.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import ResightError
from ..io.cores import core_count
from ..io.outputs import atomic_folder
from ..io.progress import track as progress
from .drives import Video, plan_video
from .painting import Scenery, compose
from .roadside import develop

HEADER = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
    "Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number"
)


def make_scenes(out: str | os.PathLike[str], *, videos: int = 40, frames: int = 12, seed: int = 42) -> Path:
    """Draws road scenes with signs of LISA's classes and writes them as LISA does.

    Args:
        out: folder to write; must not exist or be empty.
        videos: number of drives; no two share signs, roadside, light or camera.
        frames: pictures kept of each, 704x480 pixels, about four of each sign's track.
        seed: same seed, same bytes.

    Returns:
        The folder, which holds ``allAnnotations.csv`` and the frames in a folder for each video.

    Raises:
        ResightError: ``out`` holds something or cannot be written, or there is nothing to draw.
    """
    out = Path(out)
    if videos < 1 or frames < 1:
        raise ResightError(f"cannot make {videos} videos of {frames} frames", fix="Ask for one of each at least.")
    with atomic_folder(out, False, lambda path: False) as work:
        lines = _render_all([plan_video(index, frames=frames, seed=seed) for index in range(videos)], work)
        (work / "allAnnotations.csv").write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8", newline="\n")
    return out


def _render_all(videos: list[Video], out: Path) -> list[str]:
    # Spawned, not forked: the caller may run threads, and a forked copy of them can hang.
    with ProcessPoolExecutor(min(len(videos), core_count()), multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(render_video, video, out) for video in videos]
        return [line for job in progress(jobs, "drawing road scenes") for line in job.result()]


def render_video(video: Video, out: Path) -> list[str]:
    """Writes a video's frames below ``out`` and returns its lines of ``allAnnotations.csv``."""
    scenery = Scenery(video)
    folder = f"{video.folder}/frameAnnotations-{video.file}_annotations"
    (out / folder).mkdir(parents=True)
    lines = []
    for track in video.tracks:
        rng = np.random.default_rng((*track.seed, 8))
        for index, frame in enumerate(track.frames):
            picture, found = compose(video, scenery, track, index)
            if not found:  # hidden behind something; LISA lists no frame without a sign
                continue
            name = f"{folder}/{track.name}_image{index}.png"
            develop(picture, scenery.look, scenery.grain, rng).save(out / name, compress_level=2)
            for sign, box, hidden in found:
                corners = ";".join(str(edge) for edge in box)
                lines.append(
                    f"{name};{sign.label};{corners};{int(hidden)},{int(sign.other_road)};{video.folder}/{video.file};"
                    f"{frame};{track.name};{frame - track.start + 2}"
                )
    return lines
