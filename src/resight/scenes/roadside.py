"""What a dash-cam sees beside the signs: light, sky, road, trees, cars, houses, and what the camera makes of it.

Colours are RGB 0..255; lengths are metres; ``x`` counts right from the camera's lane, ``s`` along the road.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 704, 480
SKY, TURN = 320, 112  # rows of sky above the horizon; pixels by which the camera may turn aside
Tint = np.ndarray  # [3] float32 RGB

LIGHTS = {  # light on things, upper sky, sky at the horizon
    "noon": ((1.0, 1.0, 0.98), (86, 138, 205), (190, 212, 232)),
    "overcast": ((0.82, 0.84, 0.88), (168, 174, 182), (206, 209, 212)),
    "evening": ((1.0, 0.86, 0.68), (96, 122, 170), (246, 206, 150)),
    "dusk": ((0.42, 0.43, 0.52), (44, 54, 88), (150, 120, 118)),
}


@dataclass(frozen=True)
class Look:
    """Time of day, weather, place and camera of one video."""

    sun: bool
    dusk: bool
    light: Tint
    sky: tuple[Tint, Tint]
    haze: float  # distance at which 1/e of the contrast is left
    rain: bool
    place: str
    road: Tint
    verge: Tint
    leaves: Tint
    dashed: bool
    bonnet: bool
    exposure: float
    balance: Tint
    blur: float
    shake: float
    noise: float
    quality: int
    grey: bool


def tint(colour: Sequence[float]) -> Tint:
    return np.array(colour, np.float32)


def draw_look(rng: np.random.Generator) -> Look:
    """A random look."""
    time = str(rng.choice(list(LIGHTS), p=[0.42, 0.28, 0.18, 0.12]))
    light, top, low = (np.array(values, np.float32) for values in LIGHTS[time])
    dusk, rain = time == "dusk", time == "overcast" and rng.random() < 0.35
    foggy = rng.random() < (0.25 if time == "overcast" else 0.06)
    place = str(rng.choice(["town", "suburb", "country"], p=[0.35, 0.35, 0.3]))
    verge = {"town": (152, 148, 142), "suburb": (98, 122, 62), "country": (134, 128, 82)}[place]
    greens = [(70, 104, 44), (52, 88, 48), (104, 112, 46), (142, 98, 44)]
    return Look(
        sun=time in ("noon", "evening"), dusk=dusk, light=light, sky=(top, low),
        haze=rng.uniform(60, 110) if foggy else rng.uniform(200, 700), rain=rain, place=place,
        road=np.float32(rng.uniform(74, 128) * (0.8 if rain else 1)) + rng.normal(0, 3, 3).astype(np.float32),
        verge=tint(verge) * rng.uniform(0.85, 1.1), leaves=tint(greens[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])]),
        dashed=rng.random() < 0.5, bonnet=rng.random() < 0.45,
        exposure=rng.uniform(0.82, 1.15), balance=rng.normal(1, 0.035, 3).astype(np.float32),
        blur=rng.uniform(0.3, 0.9), shake=rng.uniform(0, 2.2),
        noise=rng.uniform(5, 9) if dusk else rng.uniform(1.5, 5), quality=int(rng.integers(45, 90)),
        grey=rng.random() < 0.15,
    )  # fmt: skip


def fractal(rng: np.random.Generator, height: int, width: int, cells: int = 4, octaves: int = 4) -> np.ndarray:
    """``[height, width]`` float32 cloud noise of mean 0 and deviation about 1."""
    total, weight = np.zeros((height, width), np.float32), 1.0
    for _ in range(octaves):
        grid = Image.fromarray(rng.standard_normal((cells + 1, cells + 1)).astype(np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        cells, weight = cells * 2, weight * 0.6
    total -= total.mean()
    total /= total.std() + 1e-6
    return total


def draw_tree(rng: np.random.Generator, look: Look, kind: str) -> Image.Image:
    """A tree ("round" or "fir"), a "bush", or a "branch" of loose leaves; as high as its sprite."""
    height, width = (256, 176) if kind in ("round", "fir") else (128, 160)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / height, x / width * 2 - 1
    rough, fine = fractal(rng, height, width, 5, 3), fractal(rng, height, width, 24, 2)
    if kind == "fir":
        body = 0.8 * y - 0.06 - np.abs(x) + 0.08 * np.sin(y * 60) - 3 * np.maximum(y - 0.88, 0)
    elif kind == "round":
        body = 0.72 - np.hypot(x, (y - 0.38) / 0.44)
    else:
        body = 0.68 - np.hypot(x, (y - 0.58) / 0.62)
    crown = body + 0.14 * rough + 0.08 * fine
    alpha = (crown * 14 + 0.5).clip(0, 1)
    if kind == "branch":
        alpha *= (fine * 2 + 1.6).clip(0, 1)
    shade = 0.72 + 0.16 * rough + 0.14 * fine + (0.25 if look.sun else 0.1) * (0.4 - y)
    colour = (tint((56, 88, 50)) if kind == "fir" else look.leaves) * rng.uniform(0.7, 1.15)
    rgb = shade[..., None] * colour
    if kind in ("round", "fir"):
        trunk = (np.abs(x + 0.03 * np.sin(9 * y)) < 0.05 + 0.05 * (y - 0.5)) & (y > 0.5)
        rgb = np.where((trunk & (alpha < 0.6))[..., None], tint((78, 62, 48)), rgb)
        alpha = np.maximum(alpha, trunk)
    return Image.fromarray(np.dstack([rgb * look.light, alpha * 255]).clip(0, 255).astype(np.uint8), "RGBA")


def draw_car(rng: np.random.Generator, look: Look, rear: bool) -> Image.Image:
    """A car from behind or from the front."""
    image = Image.new("RGBA", (220, 180))
    draw = ImageDraw.Draw(image)
    paint = np.array([(196, 198, 200), (40, 42, 46), (150, 30, 34), (44, 66, 118), (226, 226, 222), (92, 98, 96)])
    body, dark = paint[rng.integers(len(paint))], wall(tint((34, 36, 40)), 1, look)
    shades = [wall(body, factor, look) for factor in (1.0, 0.8, 0.6)]
    draw.ellipse((4, 158, 216, 179), fill=(18, 18, 20, 150))
    for left in (22, 166):
        draw.rounded_rectangle((left, 120, left + 32, 174), 8, fill=(20, 20, 22))
    roof = int(rng.integers(8, 34))
    draw.polygon([(24, 84), (52, roof), (168, roof), (196, 84)], fill=shades[1])
    draw.polygon([(38, 80), (60, roof + 9), (160, roof + 9), (182, 80)], fill=dark)
    draw.rounded_rectangle((10, 76, 210, 156), 16, fill=shades[0])
    draw.rectangle((12, 122, 208, 150), fill=shades[2])
    lamp = (190, 24, 26) if rear else (240, 240, 225)
    for left in (14, 176):
        draw.rounded_rectangle((left, 92, left + 30, 112), 5, fill=lamp)
    draw.rectangle((88, 108, 132, 122), fill=(220, 220, 214) if rear else dark)
    return image


def draw_lights(rng: np.random.Generator, look: Look) -> Image.Image:
    """A traffic light in its box."""
    image = Image.new("RGBA", (60, 150))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((2, 2, 58, 148), 8, fill=(34, 36, 32) if rng.random() < 0.6 else (190, 150, 30))
    lit = rng.integers(3)
    for place, colour in enumerate(((255, 60, 50), (255, 200, 60), (80, 240, 160))):
        shown = colour if place == lit else tuple(value // 5 for value in colour)
        draw.ellipse((14, 10 + 46 * place, 46, 42 + 46 * place), fill=shown)
    return image


def draw_sky(rng: np.random.Generator, look: Look) -> np.ndarray:
    """``[SKY, 2 * TURN + WIDTH, 3]``: the sky above the horizon, which is its lower edge, with hills before it."""
    top, low = look.sky
    width = 2 * TURN + WIDTH
    rise = np.linspace(1.2, 0, SKY, dtype=np.float32).clip(0, 1)[:, None, None] ** 0.7
    sky: np.ndarray = top * rise + low * (1 - rise)
    clouds = fractal(rng, SKY, width, 6, 5) + np.float32(rng.uniform(-1.2, 0.8))
    cover = (clouds * 0.5).clip(0, 1)[..., None] * 0.8
    sky = sky + (low * 0.6 + 100 * look.light - sky) * cover
    rows = np.arange(SKY)[:, None]
    for distance, height in ((0.75, rng.uniform(10, 46)), (0.4, rng.uniform(6, 26))):
        ridge = SKY - height * (1 + 0.45 * fractal(rng, 2, width, 6, 5)[0])
        sky[rows > ridge] = (look.leaves * look.light * 0.6) * (1 - distance) + low * distance
    return sky


def draw_textures(rng: np.random.Generator) -> np.ndarray:
    """``[2, 512, 512]`` float32: coarse and fine ground, without seams when repeated."""
    tiles = [fractal(rng, 256, 256, 4, 4), fractal(rng, 256, 256, 64, 2)]
    return np.stack([np.block([[t, t[:, ::-1]], [t[::-1], t[::-1, ::-1]]]) for t in tiles])


def draw_ground(x: np.ndarray, s: np.ndarray, depth: np.ndarray, look: Look, textures: np.ndarray, focal: float,
                crossing: float) -> np.ndarray:  # fmt: skip
    """The road and its verge as ``[rows, WIDTH, 3]``.

    Args:
        x: ``[rows, WIDTH]`` metres right of the lane's middle.
        s, depth: ``[rows]`` metres along the road, absolute and from the camera.
        look, textures: from ``draw_look`` and ``draw_textures``.
        focal: in pixels.
        crossing: where along the road a white bar lies across it.
    """
    foot = (depth / focal)[:, None]  # metres a pixel covers
    column, row = (x * 6).astype(np.int32) & 511, (s * 4).astype(np.int32)[:, None] & 511
    coarse = textures[0][row, column]
    fine = textures[1][(s * 24).astype(np.int32)[:, None] & 511, (x * 40).astype(np.int32) & 511]
    fine *= np.minimum(1, 0.012 / foot)

    def band(centre: float, half: float) -> np.ndarray:
        return np.asarray(((half - np.abs(x - centre)) / foot + 0.5).clip(0, 1))

    shoulder = 0.5 if look.place == "town" else 1.1
    on_road = band(-1.8, 3.6 + shoulder)
    paint = np.maximum(band(1.75, 0.06), band(-5.35, 0.06)) * 0.85
    paint = np.maximum(paint, band(0, 1.7) * (np.abs(s - crossing) < 0.3)[:, None] * 0.8)
    centre = band(-1.8, 0.07) * (s % 9 < 3)[:, None]
    if not look.dashed:
        centre = np.maximum(band(-1.66, 0.06), band(-1.94, 0.06))
    worn = (0.8 + 0.15 * coarse).clip(0, 1)
    road = (1 + 0.03 * coarse + 0.035 * fine)[..., None] * look.road
    road += (paint * worn)[..., None] * (205 - road)
    road += (centre * worn)[..., None] * (tint((206, 166, 60)) - road)
    verge = (1 + 0.1 * coarse + 0.08 * fine)[..., None] * look.verge
    kerb = np.maximum(band(1.9 + shoulder, 0.1), band(-5.5 - shoulder, 0.1)) if look.place != "country" else 0 * on_road
    verge += kerb[..., None] * (168 - verge)
    ground: np.ndarray = verge + on_road[..., None] * (road - verge)
    if look.sun:
        shadow = (textures[0][(s * 7).astype(np.int32)[:, None] & 511, (x * 9).astype(np.int32) & 511] - 0.75) * 3
        ground *= 1 - 0.36 * shadow.clip(0, 1)[..., None]
    elif look.rain:
        ground += (np.exp(-depth / 25)[:, None] * on_road * 14)[..., None]
    ground *= look.light
    return ground


def draw_grain(rng: np.random.Generator, look: Look) -> np.ndarray:
    """``[HEIGHT + 64, WIDTH + 64, 3]`` float32: the sensor's noise, larger than a frame to be cut out of anywhere."""
    high, wide = HEIGHT + 64, WIDTH + 64
    coloured = rng.standard_normal((high // 2, wide // 2, 3), np.float32).repeat(2, 0).repeat(2, 1)
    grain: np.ndarray = look.noise * (rng.standard_normal((high, wide, 1), np.float32) + 0.5 * coloured)
    return grain


def develop(picture: Image.Image, look: Look, grain: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Lens, shutter, sensor and codec: the RGB scene as the camera would have stored it (RGB or L)."""
    if look.rain:
        streaks = ImageDraw.Draw(picture, "RGBA")
        for _ in range(140):
            left, top, length = rng.uniform(0, WIDTH), rng.uniform(-20, HEIGHT), rng.uniform(6, 22)
            streaks.line((left, top, left + length * 0.15, top + length), fill=(225, 228, 232, 70))
    # Defocus and motion in one kernel: a Gaussian smeared along the shake.
    angle, reach = rng.normal(0, 0.5), look.shake * rng.random()
    y, x = np.mgrid[-2:3, -2:3]
    kernel = np.zeros((5, 5))
    for step in np.linspace(-reach, reach, 9):
        away = (x - step * math.cos(angle)) ** 2 + (y - step * math.sin(angle)) ** 2
        kernel += np.exp(-away / (2 * look.blur**2))
    picture = picture.filter(ImageFilter.Kernel((5, 5), list(kernel.ravel()), float(kernel.sum())))
    y, x = np.ogrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    values = np.asarray(picture) * (1 - 0.1 * (x * x + y * y)).astype(np.float32)[..., None]
    values *= np.float32(look.exposure) * look.balance
    top, left = rng.integers(65, size=2)
    values += grain[top : top + HEIGHT, left : left + WIDTH]
    picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if look.grey:
        picture = picture.convert("L")
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=look.quality)
    return Image.open(stream).copy()


def wall(base: Tint, facing: float, look: Look) -> tuple[int, int, int]:
    """The colour of a surface that gets ``facing`` of the light."""
    return tuple(int(value) for value in (base * look.light * facing).clip(0, 255))  # type: ignore[return-value]


def fade(colour: Sequence[float], distance: float, look: Look) -> Tint:
    """``colour`` through the air of ``distance`` metres."""
    keep = math.exp(-max(distance, 0) / look.haze)
    return np.asarray(tint(colour) * keep + look.sky[1] * (1 - keep))
