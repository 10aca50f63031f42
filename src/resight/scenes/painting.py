"""A frame of a drive, painted thing by thing from the far end of the road to the camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from . import roadside
from .drives import Sign, Track, Video, View
from .roadside import HEIGHT, SKY, TURN, WIDTH, Look, fade, fractal, tint, wall
from .signs import Colour, paint_face, warp_face


class Scenery:
    """Everything of a video but its signs: drawn once, seen in every frame."""

    def __init__(self, video: Video) -> None:
        rng = np.random.default_rng((*video.seed, 2))
        self.look = look = roadside.draw_look(rng)
        self.sky = roadside.draw_sky(rng, look)
        self.textures, self.grain = roadside.draw_textures(rng), roadside.draw_grain(rng, look)
        kinds = ["fir" if rng.random() < 0.3 else "round" for _ in range(4)]
        drawn = {
            "tree": [roadside.draw_tree(rng, look, kind) for kind in kinds],
            "bush": [roadside.draw_tree(rng, look, "bush") for _ in range(2)],
            "branch": [roadside.draw_tree(rng, look, "branch") for _ in range(2)],
            "oncoming": [roadside.draw_car(rng, look, rear=False) for _ in range(2)],
            "parked": [roadside.draw_car(rng, look, rear=True) for _ in range(3)],
            "lights": [roadside.draw_lights(rng, look)],
        }
        # Each in full, half, quarter and eighth size: scaling down from the nearest is far cheaper.
        self.sprites = {
            kind: [[image, *(image.reduce(factor) for factor in (2, 4, 8))] for image in images]
            for kind, images in drawn.items()
        }
        self.faces: dict[Sign, Image.Image] = {}


@dataclass(frozen=True)
class Prop:
    """Something beside the road: ``kind``, place and size in metres, and which of its kind."""

    kind: str
    x: float
    s: float
    height: float
    which: int = 0
    sign: Sign | None = None


WALLS = ((178, 150, 128), (196, 190, 178), (150, 96, 80), (120, 130, 140))
BOARDS = ((190, 40, 40), (230, 180, 40), (40, 90, 160), (40, 120, 80), (220, 220, 220))
GAPS = {"tree": (6, 26), "bush": (5, 20), "house": (9, 16), "pole": (4.6, 7), "parked": (2.9, 3.3)}  # from the lane
HEIGHTS = {"tree": (4, 11), "bush": (0.7, 2), "house": (3.5, 10), "pole": (6, 9), "parked": (1.4, 1.8)}
# How many of each stand along a hundred metres, by place.
CROWD: dict[str, dict[str, float]] = {
    "town": {"tree": 8, "bush": 4, "house": 9, "pole": 5, "parked": 7},
    "suburb": {"tree": 18, "bush": 14, "house": 5, "pole": 4, "parked": 3},
    "country": {"tree": 26, "bush": 22, "house": 1, "pole": 3, "parked": 0.5},
}


def _plan_props(track: Track, look: Look, s0: float) -> list[Prop]:
    """The props of one stretch of road, the signs among them, farthest first."""
    rng = np.random.default_rng((*track.seed, 3))
    first, length = track.places[0], 190.0
    props = []
    for kind, amount in CROWD[look.place].items():
        for _ in range(rng.poisson(amount * length / 100)):
            right, s, which = rng.random() < 0.5, first + rng.uniform(2, length), int(rng.integers(1000))
            x = rng.uniform(*GAPS[kind])
            heights = {kind: rng.uniform(*span) for kind, span in HEIGHTS.items()}  # all are drawn, and one taken
            props.append(Prop(kind, x if right else -3.6 - x, s, heights[kind], which))
    here = s0 - first
    for _ in range(rng.poisson(0.9)):
        props.append(Prop("oncoming", -3.6, first + rng.uniform(20, 120) - 0.8 * here, 1.5, int(rng.integers(1000))))
    if rng.random() < 0.35:
        props.append(Prop("parked", 0.0, s0 + rng.uniform(14, 34), 1.5, int(rng.integers(1000))))
    if rng.random() < 0.25:
        props.append(Prop("lights", rng.uniform(2.5, 4.5), first + rng.uniform(25, 70), 4.6))
    for sign in track.signs:
        props.append(Prop("sign", sign.x, sign.s, sign.size[1], sign=sign))
        if sign.hidden_by:
            leaves = sign.hidden_by == "branch"
            ahead = rng.uniform(0.3, 0.8) if leaves else rng.uniform(0.5, 1.5)
            aside = rng.choice([-1, 1]) * (rng.uniform(0.2, 0.45) if leaves else rng.uniform(0.05, 0.35)) * sign.size[0]
            props.append(Prop("hider", sign.x + aside, sign.s - ahead, sign.size[1], int(rng.integers(1000)), sign))
    return sorted(props, key=lambda prop: -prop.s)


class Painter:
    """Paints one frame, farthest things first, and keeps count of what is left to see of each sign."""

    def __init__(self, video: Video, scenery: Scenery, track: Track, index: int) -> None:
        self.view, self.scenery, self.look, self.track = View(video, track, index), scenery, scenery.look, track
        self.canvas = Image.fromarray(self._background().clip(0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.canvas)
        self.cover = Image.new("L", (WIDTH, HEIGHT))
        self.cover_draw = ImageDraw.Draw(self.cover)
        self.areas: dict[Sign, int] = {}

    def _background(self) -> np.ndarray:
        view, look, focal = self.view, self.look, self.view.video.focal
        first = math.floor(view.horizon) + 2
        picture = np.empty((HEIGHT, WIDTH, 3), np.float32)
        turned = TURN + round(view.slope * focal)
        picture[:first] = self.scenery.sky[SKY - first :, turned : turned + WIDTH]
        depth = (focal * view.video.eye / (np.arange(first, HEIGHT) + 0.5 - view.horizon)).astype(np.float32)
        s = (view.s + depth).astype(np.float32)
        columns = (np.arange(WIDTH) + 0.5 - view.middle)[None, :]
        x = (columns * (depth / focal)[:, None] - view.sideways(s)[:, None]).astype(np.float32)
        crossing = float(np.random.default_rng((*self.track.seed, 4)).uniform(-30, 60)) + self.track.places[-1]
        ground = roadside.draw_ground(x, s, depth, look, self.scenery.textures, focal, crossing)
        keep = np.exp(-depth / look.haze)[:, None, None]
        picture[first:] = ground * keep + look.sky[1] * (1 - keep)
        return picture

    def lay(self, patch: Image.Image, corner: tuple[int, int], s: float, mark: int = 0) -> None:
        """Lays an RGBA patch, seen at ``s`` through the air, on the picture; ``mark`` is 0 or the sign's number."""
        lost = 1 - math.exp(-(s - self.view.s) / self.look.haze)
        if lost > 0.03:
            veil = Image.new("RGBA", patch.size, tuple(int(value) for value in self.look.sky[1]))
            veil.putalpha(patch.getchannel("A"))
            patch = Image.blend(patch, veil, lost)
        self.canvas.paste(patch, corner, patch)
        self.cover.paste(mark, (*corner, corner[0] + patch.width, corner[1] + patch.height), _solid(patch))

    def sprite(self, sizes: list[Image.Image], x: float, bottom: float, s: float, height: float) -> None:
        """Stands a sprite of ``height`` metres on ``(x, bottom, s)``."""
        base, head = self.view.project(*np.array([[x, x], [bottom, bottom + height], [s, s]]))
        tall = base[1] - head[1]
        image = next((image for image in reversed(sizes) if image.height >= tall), sizes[0])
        zoom = tall / image.height
        left, top = base[0] - image.width * zoom / 2, head[1]
        x1, y1 = max(0, math.floor(left)), max(0, math.floor(top))
        x2, y2 = min(WIDTH, math.ceil(left + image.width * zoom)), min(HEIGHT, math.ceil(base[1]))
        across = max(0.0, (x1 - left) / zoom), min(image.width, (x2 - left) / zoom)
        down = max(0.0, (y1 - top) / zoom), min(image.height, (y2 - top) / zoom)
        if min(x2 - x1, y2 - y1) >= 1 and min(across[1] - across[0], down[1] - down[0]) >= 0.1:
            region = (across[0], down[0], across[1], down[1])
            self.lay(image.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=region), (x1, y1), s)

    def polygon(self, points: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Fills ``points (x, y, s)`` with a colour as it looks through the air."""
        x, y, s = np.array(points).T
        flat = [(float(across), float(down)) for across, down in self.view.project(x, y, s)]
        shown = fade(colour, float(s.mean()) - self.view.s, self.look)
        self.draw.polygon(flat, fill=tuple(int(value) for value in shown))
        self.cover_draw.polygon(flat, fill=0)

    def upright(self, x1: float, x2: float, y1: float, y2: float, s1: float, s2: float, colour: Colour) -> None:
        """A rectangle that stands on the ground plan's line from ``(x1, s1)`` to ``(x2, s2)``."""
        self.polygon([(x1, y1, s1), (x2, y1, s2), (x2, y2, s2), (x1, y2, s1)], colour)

    def house(self, prop: Prop) -> None:
        rng, look = np.random.default_rng((*self.track.seed, 5, prop.which)), self.look
        base = rng.uniform(0.6, 1.0) * tint(WALLS[rng.integers(len(WALLS))])
        width, deep, out = rng.uniform(7, 14), rng.uniform(8, 18), math.copysign(1, prop.x)
        near, far, x1, x2 = prop.s, prop.s + deep, prop.x, prop.x + out * width
        glass = tint((60, 72, 86))
        self.upright(x1, x1, 0, prop.height, near, far, wall(base, 0.72, look))
        self.upright(x1, x2, 0, prop.height, near, near, wall(base, 0.95, look))
        for floor in range(int(prop.height / 3)):
            for place in np.arange(0.12, 0.85, 0.22):
                y1, y2 = floor * 3 + 1, floor * 3 + 2.3
                a, b = near + place * deep, near + (place + 0.11) * deep
                self.upright(x1, x1, y1, y2, a, b, wall(glass, 0.8, look))
                a, b = x1 + out * place * width, x1 + out * (place + 0.11) * width
                self.upright(a, b, y1, y2, near, near, wall(glass, 1.0, look))
        if look.place != "town":
            mid, eaves, ridge = (x1 + x2) / 2, prop.height, prop.height + width * 0.3
            roof = wall(tint((96, 74, 66)) * rng.uniform(0.6, 1.2), 0.9, look)
            self.polygon([(x1, eaves, near), (x1, eaves, far), (mid, ridge, far), (mid, ridge, near)], roof)
            self.polygon([(x1, eaves, near), (x2, eaves, near), (mid, ridge, near)], wall(base, 0.85, look))
        elif rng.random() < 0.6:  # a shop's board
            board = tint(BOARDS[rng.integers(len(BOARDS))])
            self.upright(x1 + out * 0.5, x1 + out * width * 0.7, 3, 3.8, near, near, wall(board, 1, look))
            self.upright(x1, x1, 3, 3.8, near + 1, near + deep * 0.8, wall(board, 0.8, look))

    def pole(self, x: float, s: float, height: float, radius: float, colour: Colour) -> None:
        self.upright(x - radius, x + radius, 0, height, s, s, wall(tint(colour), 1.0, self.look))

    def face(self, sign: Sign, number: int) -> None:
        if sign not in self.scenery.faces:
            self.scenery.faces[sign] = self._lit_face(sign, number)
        corners = self.view.on_plate(sign, np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]))
        patch, corner = warp_face(self.scenery.faces[sign], corners)
        self.areas[sign] = int(np.count_nonzero(np.asarray(_solid(patch))))
        self.lay(patch, corner, sign.s, number + 1)

    def _lit_face(self, sign: Sign, number: int) -> Image.Image:
        """The sign's face, faded and dirty, in the light that falls on it."""
        rng, look = np.random.default_rng((*self.track.seed, 6, number)), self.look
        face = np.array(paint_face(sign.label, sign.ground), np.float32)
        side = len(face)
        face[..., :3] += (face[..., :3].mean(-1, keepdims=True) + 30 - face[..., :3]) * rng.uniform(0, 0.3)
        shade = 1 - 0.05 * fractal(rng, side, side, 5, 4)
        if look.sun and rng.random() < 0.35:  # leaves throw their shadow
            shade *= 1 - 0.45 * ((fractal(rng, side, side, 3, 2) - 0.2) * 4).clip(0, 1)
        lamps = tint((0.86, 0.84, 0.78)) if look.dusk else look.light
        face[..., :3] *= shade[..., None] * lamps * sign.brightness
        return Image.fromarray(face.clip(0, 255).astype(np.uint8))

    def paint(self, prop: Prop) -> None:
        if prop.sign and prop.kind == "sign":
            radius, colour = (0.055, (112, 90, 66)) if prop.sign.ground % 3 == 0 else (0.035, (146, 148, 150))
            self.pole(prop.sign.x, prop.sign.s + 0.02, prop.sign.y, radius, colour)
        elif prop.sign and prop.sign.hidden_by == "pole":
            self.pole(prop.x, prop.s, 7, 0.05 + prop.which % 5 * 0.01, (92, 84, 76))
        elif prop.sign:
            leaves, height = self.scenery.sprites["branch"][prop.which % 2], prop.sign.size[1] * 0.8
            self.sprite(leaves, prop.x, prop.sign.y - height * (0.1 + prop.which % 7 / 10), prop.s, height)
        elif prop.kind == "house":
            self.house(prop)
        elif prop.kind == "pole":
            self.pole(prop.x, prop.s, prop.height, 0.13, (96, 84, 72))
            self.upright(prop.x - 1, prop.x + 1, prop.height - 0.8, prop.height - 0.6, prop.s, prop.s, (70, 62, 56))
        elif prop.kind == "lights":
            self.pole(prop.x + 1.5, prop.s, 5.6, 0.1, (90, 92, 92))
            self.upright(prop.x - 3.5, prop.x + 1.5, 5.5, 5.65, prop.s, prop.s, (90, 92, 92))
            for aside in (0.0, -3.2):
                self.sprite(self.scenery.sprites["lights"][0], prop.x + aside, 4.6, prop.s, 1.0)
        else:
            sprites = self.scenery.sprites[prop.kind]
            self.sprite(sprites[prop.which % len(sprites)], prop.x, 0, prop.s, prop.height)


def _solid(patch: Image.Image) -> Image.Image:
    return patch.getchannel("A").point([0] * 128 + [255] * 128)


def compose(video: Video, scenery: Scenery, track: Track, index: int, without: Sign | None = None
            ) -> tuple[Image.Image, list[tuple[Sign, tuple[int, int, int, int], bool]]]:  # fmt: skip
    """One frame before the camera spoils it.

    Args:
        without: a sign whose face is left out.

    Returns:
        The RGB picture and, for every sign in it, its box (xyxy, pixels) and whether a tenth or more is hidden.
    """
    painter = Painter(video, scenery, track, index)
    view, shown = painter.view, []
    for prop in _plan_props(track, scenery.look, view.s):
        if prop.s - view.s < 1.5 or (prop.sign is not None and view.box(prop.sign) is None):
            continue
        painter.paint(prop)
        if prop.sign is not None and prop.kind == "sign" and prop.sign is not without:
            number = track.signs.index(prop.sign)
            painter.face(prop.sign, number)
            shown.append((prop.sign, number))
    if scenery.look.bonnet:
        colour = wall(tint((52, 54, 60)), 1.0, scenery.look)
        painter.draw.ellipse((-160, HEIGHT - 46, WIDTH + 160, HEIGHT + 140), fill=colour)
    found, cover = [], np.asarray(painter.cover)
    for sign, number in shown:
        box, seen = view.box(sign), float(np.count_nonzero(cover == number + 1)) / painter.areas[sign]
        if box is not None and seen > 0.25:
            found.append((sign, box, seen < 0.9))
    return painter.canvas, found
