"""Drives past road signs: where the camera and the signs are in every frame, before anything is drawn.

Lengths are metres: ``x`` counts right from the middle of the camera's lane, ``y`` up from the road, ``s`` along it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .roadside import HEIGHT, WIDTH
from .signs import DESIGNS, OTHERS

RATE = 24  # frames a second
SMALLEST = 12  # px; signs whose shorter side is less are not in view yet
# One card a track, so that every hand of twenty tracks holds the classes in these shares.
DECK = ["stop"] * 5 + ["pedestrianCrossing"] * 4 + ["signalAhead"] * 4 + [""] * 7


@dataclass(frozen=True)
class Sign:
    """A plate beside the road; ``yaw, roll`` are radians, ``hidden_by`` is "", "branch" or "pole"."""

    label: str
    ground: int
    x: float
    y: float
    s: float
    size: tuple[float, float]
    yaw: float
    roll: float
    brightness: float
    hidden_by: str
    other_road: bool


@dataclass(frozen=True)
class Track:
    """The approach to one sign: ``frames`` of the video and, for each, the camera's place ``s`` along the road."""

    name: str
    seed: tuple[int, ...]
    signs: tuple[Sign, ...]
    start: int
    frames: tuple[int, ...]
    places: tuple[float, ...]


@dataclass(frozen=True)
class Video:
    """One drive. ``bend`` is amplitude, length in metres and phase of the road's winding."""

    folder: str
    file: str
    seed: tuple[int, ...]
    focal: float
    eye: float
    horizon: float
    bend: tuple[float, float, float]
    tracks: tuple[Track, ...]


class View:
    """The camera in one frame of a track."""

    def __init__(self, video: Video, track: Track, index: int) -> None:
        self.video, self.s = video, track.places[index]
        bounce = np.random.default_rng((*track.seed, 1, index)).normal(0, (2.0, 1.5), 2)
        self.horizon = video.horizon + float(bounce[0])
        self.middle = WIDTH / 2 + float(bounce[1])
        amplitude, length, phase = video.bend
        self.slope = amplitude / length * math.cos(self.s / length + phase)

    def sideways(self, s: np.ndarray) -> np.ndarray:
        """How far right of the camera's axis the lane's middle has moved at ``s``."""
        amplitude, length, phase = self.video.bend
        here = amplitude * math.sin(self.s / length + phase)
        return amplitude * np.sin(s / length + phase) - here - self.slope * (s - self.s)

    def project(self, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``[N, 2]`` pixels of points ``[N]`` right of the lane's middle, above the road and along it."""
        x, y, s = (np.asarray(value, np.float64) for value in (x, y, s))
        zoom = self.video.focal / np.maximum(s - self.s, 0.5)
        return np.stack([self.middle + (x + self.sideways(s)) * zoom, self.horizon + (self.video.eye - y) * zoom], -1)

    def on_plate(self, sign: Sign, points: np.ndarray) -> np.ndarray:
        """``[N, 2]`` pixels of points ``[N, 2]`` in the sign's own units."""
        across, down = (points * np.array(sign.size) / 2).T
        cos, sin = math.cos(sign.roll), math.sin(sign.roll)
        across, down = across * cos - down * sin, across * sin + down * cos
        return self.project(sign.x + across * math.cos(sign.yaw), sign.y - down, sign.s + across * math.sin(sign.yaw))

    def box(self, sign: Sign) -> tuple[int, int, int, int] | None:
        """The pixels a sign covers (xyxy, cut at the frame), None where it is not in view."""
        if sign.s - self.s < 2:
            return None
        outline = self.on_plate(sign, np.array(DESIGNS[sign.label].outline))
        (left, top), (right, bottom) = outline.min(0), outline.max(0)
        x1, y1 = max(0, round(left)), max(0, round(top))
        x2, y2 = min(WIDTH, round(right)), min(HEIGHT, round(bottom))
        seen = max(0, x2 - x1) * max(0, y2 - y1) / ((right - left) * (bottom - top))
        return (x1, y1, x2, y2) if seen > 0.6 and min(x2 - x1, y2 - y1) >= SMALLEST else None


def _plan_sign(rng: np.random.Generator, label: str, side: int) -> Sign:
    label = label or OTHERS[rng.integers(len(OTHERS))].label
    scale = float(rng.choice([0.85, 1.0, 1.2]))
    width, height = DESIGNS[label].size
    hidden = str(rng.choice(["", "branch", "pole"], p=[0.91, 0.05, 0.04]))
    return Sign(
        label=label,
        ground=int(rng.integers(6)),
        x=rng.uniform(2.6, 4.4) if side > 0 else -rng.uniform(6.2, 8.0),
        y=rng.uniform(2.1, 3.0),
        s=0.0,
        size=(width * scale, height * scale),
        yaw=rng.normal(-0.08 * side, 0.16),
        roll=rng.normal(0, 0.04),
        brightness=rng.uniform(0.72, 1.22),
        hidden_by=hidden,
        other_road=False,
    )


def plan_video(index: int, *, frames: int, seed: int) -> Video:
    """What video ``index`` of a set shows and where every sign is; nothing is drawn yet."""
    rng = np.random.default_rng((seed, index))
    focal, eye, horizon = rng.uniform(560, 860), rng.uniform(1.2, 1.6), rng.uniform(225, 285)
    bend = (rng.uniform(-7, 7), rng.uniform(70, 130), rng.uniform(0, 2 * math.pi))
    count = math.ceil(frames / 4)
    video = Video(f"vid{index}", f"vid_cmp{1 + index % 2}.avi", (seed, index), focal, eye, horizon, bend, ())
    tracks, start, epoch = [], int(rng.integers(200, 4000)), 1323802400 + 3600 * index
    for number in range(count):
        hand, card = divmod(index * count + number, len(DECK))
        label = DECK[np.random.default_rng((seed, 7, hand)).permutation(len(DECK))[card]]
        start += int(rng.integers(260, 1600))
        kept = frames * (number + 1) // count - frames * number // count
        track = _plan_track(rng, video, label, start, kept, f"{epoch + start // RATE}")
        tracks.append(track)
        start = track.frames[-1]
    return replace(video, tracks=tuple(tracks))


def _plan_track(rng: np.random.Generator, video: Video, label: str, start: int, kept: int, stamp: str) -> Track:
    sign = _plan_sign(rng, label, 1 if rng.random() < 0.85 else -1)
    s = rng.uniform(100, 900)
    signs = [sign := replace(sign, s=s)]
    if rng.random() < 0.24:
        other = _plan_sign(rng, label if rng.random() < 0.3 else "", -1 if sign.x > 0 else 1)
        crossroad = rng.random() < 0.15
        turned = other.yaw + (0.7 if crossroad else 0)
        signs.append(replace(other, s=s + rng.uniform(-3, 9), yaw=turned, other_road=crossroad))
    short = min(sign.size)
    far, near = video.focal * short / rng.uniform(15, 24), video.focal * short / rng.uniform(48, 115)
    pace = rng.uniform(0.25, 0.7)  # metres a frame
    seed = (*video.seed, start)
    while True:  # stop where the sign leaves the frame
        steps = sorted((np.arange(kept) + rng.random(kept)) / kept * (far - near) / pace)
        shot = [int(step) + 2 * order for order, step in enumerate(steps)]
        places = tuple(float(s - far + pace * frame) for frame in shot)
        frames = tuple(start + frame for frame in shot)
        track = Track(f"{sign.label}_{stamp}.avi", seed, tuple(signs), start, frames, places)
        if all(View(video, track, index).box(sign) for index in range(kept)):
            return track
        near += 0.3
        if near >= far - 4:  # the road bends away from it: set it closer
            return _plan_track(rng, video, label, start, kept, stamp)
