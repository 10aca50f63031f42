"""Image bytes: what they say about themselves, and their pixels as 8-bit RGB."""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import ResightError, reading
from .files import open_file, read_file

# What PIL remarks about odd files is for programmers; what matters of it is an error of ours.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".3gp"),
)
_OTHERS = (
    *(".jp2", ".j2k", ".jxl", ".tga", ".psd", ".svg", ".eps", ".pdf", ".exr", ".hdr", ".pcx", ".ico"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw"),
)
MAX_IMAGE_MB = 1000.0  # of memory that decoding one image may take, where neither a key nor the environment says more
ALLOWED = "RESIGHT_MAX_IMAGE_MB"  # in the environment, so that it reaches the processes that load images
_STRIP = 4_000_000  # pixels that are converted at a time

# Only formats that photographs come in: fewer parsers see foreign bytes (PIL would even start Ghostscript for EPS).
_AVIF = "avif" in features.modules and features.check("avif")  # Pillow from 11.3 on, where its wheel has the library
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", *(["AVIF"] if _AVIF else []))
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_NAMES = {"mpo": "jpeg", "dib": "bmp"}
_ORIENTATION = 0x0112
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_TRANSPOSE = {orientation: Image.Transpose[name] for orientation, name in enumerate(_TURNS, 2)}


@dataclass(frozen=True)
class ImageInfo:
    """The header of an image. ``width`` and ``height`` are pixels as stored, before any rotation.

    ``format`` is lower case ("jpeg", "png", ...), ``mode`` is PIL's ("RGB", "L", "I;16", ...), ``orientation`` is the
    EXIF value, 1 (upright) to 8.
    """

    width: int
    height: int
    format: str
    mode: str
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """``(width, height)`` after the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def open_image(data: bytes | BinaryIO, where: object = "") -> Image.Image:
    """Opens encoded bytes, or a file, by their header; pixels are not decoded yet, and may still turn out damaged.
    Raises ResightError: no image, of an unknown format, or one whose decoding would take more memory than is
    allowed."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    if not (head := file.read(12)):
        raise ResightError("the image is empty (0 bytes)", where=where, fix="Copy or download it again.")
    file.seek(0)
    heic = head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS
    most = max_image_mb()
    if most > MAX_IMAGE_MB:
        Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, which was raised
    try:
        image = Image.open(file, formats=(*_FORMATS, "HEIF") if heic and _reads_heic() else _FORMATS)
    except UnidentifiedImageError as error:
        message = f"is not an image of a known format ({', '.join(_FORMATS)}), or its header is damaged"
        if (heic or str(where).lower().endswith((".heic", ".heif"))) and not _reads_heic():
            message = "is a HEIC image: to read it, pip install 'resight[heif]', or convert it to JPEG"
        elif head[4:] in (b"ftypavif", b"ftypavis") and not _AVIF:
            message = "is an AVIF image: to read it, pip install -U 'pillow>=11.3', or convert it to JPEG"
        raise ResightError(message, where=where) from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), most, where) from error
    except Exception as error:  # the parsers raise nearly anything on damaged bytes
        raise ResightError(f"the image header is damaged: {error}", where=where) from error
    if (needed := image.width * image.height * _bytes_per_pixel(image) / 1e6) > most:
        message = f"{image.width} x {image.height} pixels ({image.format}, {image.mode}) take {needed:,.0f} MB"
        raise _too_large(message, most, where)
    if image.width <= 0 or image.height <= 0:
        raise ResightError(f"the image header says {image.width} x {image.height} pixels", where=where)
    return image


def probe(data: bytes | BinaryIO, where: object = "") -> ImageInfo:
    """Reads the header only. Raises ResightError as ``open_image`` does."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    image = open_image(file, where)
    name = (image.format or "").lower()
    orientation = _orientation(image, file)
    width, height = image.size
    if name == "tiff" and orientation >= 5:  # PIL turns TIFFs itself, and tells the size that they will have
        width, height = height, width
    return ImageInfo(width, height, _NAMES.get(name, name), image.mode, orientation)


def probe_file(path: str | os.PathLike[str]) -> ImageInfo:
    """``probe`` of a file, of which little more than the header is read."""
    with open_file(path) as file, reading(path):
        return probe(file, path)


def decode(data: bytes, where: object = "") -> np.ndarray:
    """The pixels ``[H, W, 3]`` uint8 RGB as stored: an EXIF rotation is not applied, but for TIFF's.

    16-bit samples keep their high byte, grey is repeated, alpha is dropped, CMYK is converted; of an animation the
    first frame is taken.

    Raises:
        ResightError: as ``open_image``, or the pixel data is truncated or damaged.
    """
    return _pixels(_load(data, where), where)


def decode_upright(data: bytes, where: object = "") -> np.ndarray:
    """``decode`` after the EXIF rotation."""
    orientation = probe(data, where).orientation
    return _pixels(_turned(_load(data, where), orientation), where)


def upright(data: bytes, where: object = "") -> bytes:
    """Applies the EXIF rotation: the image re-encoded in its own format, without the tag; unrotated bytes as given."""
    orientation, image = probe(data, where).orientation, _load(data, where)
    if orientation == 1:
        return data
    turned = _turned(image, orientation).copy()
    fine: dict[str, Any] = {"JPEG": {"subsampling": 0}, "WEBP": {}, "AVIF": {"subsampling": "4:4:4"}}
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    options = {"quality": 95, **fine[kind]} if kind in fine else {}
    profile = image.info.get("icc_profile")
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    out = io.BytesIO()
    try:
        turned.save(out, kind, icc_profile=profile, **options)
    except (OSError, ValueError, KeyError) as error:  # KeyError: Pillow reads the format, but does not write it
        raise ResightError(f"cannot store the image upright: {error}", where=where) from error
    return out.getvalue()


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a file as ``[H, W, 3]`` uint8 RGB, upright. Raises ResightError as ``decode``, or if it cannot be read."""
    return decode_upright(read_bytes(path), path)


def upright_image(image: Image.Image) -> Image.Image:
    """A PIL image after its EXIF rotation, by the same rules as ``read_image``. Raises whatever PIL's parsers raise."""
    image.load()
    return _turned(image, _tag(image.info.get("exif")))


def as_array(image: Any) -> tuple[np.ndarray, str]:
    """``[H, W, 3]`` uint8 RGB and the file name ("" where there is none) of anything a detector takes."""
    if isinstance(image, str | os.PathLike):
        return read_image(image), os.fspath(image)
    if hasattr(image, "convert"):
        file = str(getattr(image, "filename", ""))
        try:
            upright = upright_image(image)
        except Exception as error:  # PIL reads the pixels now, and its parsers raise nearly anything on damaged bytes
            raise ResightError(f"the image is truncated or damaged: {error}", where=file) from error
        return np.array(to_rgb(upright, file)), file
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        if not image.size:
            raise ResightError(f"the image array is empty: {image.shape}")
        return image, ""
    got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ResightError(
        f"an image is a path, a PIL image or an [H, W, 3] uint8 RGB array, not {got}", fix="Convert it first."
    )


def read_bytes(image: str | os.PathLike[str] | bytes) -> bytes:
    """The encoded bytes of ``Annotation.image``: a file's, given ones, or those a records folder holds. Raises
    ResightError: the file cannot be read."""
    if isinstance(image, StoredImage):
        return image.read_bytes()
    return image if isinstance(image, bytes) else read_file(image, int(max_image_mb() * 1e6))


class StoredImage(os.PathLike[str]):
    """An image that is no file of its own; ``str`` of it says where it is."""

    def read_bytes(self) -> bytes:
        raise NotImplementedError


def _load(data: bytes, where: object) -> Image.Image:
    image = open_image(data, where)
    try:
        image.load()
    except Exception as error:  # as above
        raise ResightError(f"the image is truncated or damaged: {error}", where=where) from error
    return image


def to_rgb(image: Image.Image, where: object = "") -> Image.Image:
    """The image in 8-bit RGB, as ``decode`` has it; ``image`` itself where it is that. Raises ResightError: the pixels
    are damaged, or have no conversion."""
    if image.mode == "RGB":
        return image
    try:
        if image.mode.startswith("I"):
            image = high_byte(image)
        image.info.pop("transparency", None)
        if image.mode == "F":
            raise ValueError("floating-point pixels have no fixed white")
        return image.convert("RGB")
    except Exception as error:  # colour spaces without a conversion, damaged palettes
        message = f"pixels of kind '{image.mode}' cannot be read as RGB: {error}"
        raise ResightError(message, where=where, fix="Save the image as an 8-bit JPEG or PNG.") from error


def high_byte(image: Image.Image) -> Image.Image:
    """16-bit samples as 8-bit ones, as libpng and TensorFlow take them; PIL would saturate at 255."""
    grey = np.empty((image.height, image.width), np.uint8)
    for top, strip in _strips(image):
        samples = np.asarray(strip)
        grey[top : top + len(samples)] = (samples.clip(0, 65535) >> 8).astype(np.uint8)
    return Image.fromarray(grey)


def _pixels(image: Image.Image, where: object) -> np.ndarray:
    """The pixels of ``to_rgb``, without a second image of them."""
    if image.width * image.height <= _STRIP:
        return np.array(to_rgb(image, where))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        rgb[top : top + strip.height] = np.asarray(to_rgb(strip, where))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def max_image_mb() -> float:
    """The megabytes that decoding one image may take. Raises ResightError: the environment says what is no number."""
    said = os.environ.get(ALLOWED) or MAX_IMAGE_MB
    with suppress(ValueError):
        if 0 < (most := float(said)) < math.inf:
            return most
    raise ResightError(f"{said!r:.40} is not a number of megabytes", where=ALLOWED)


def _bytes_per_pixel(image: Image.Image) -> int:
    """What decoding takes at its peak: the image as Pillow keeps it, an array of 3 bytes, and what the decoder has."""
    own = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    return own + 3 + (12 if image.format in ("WEBP", "AVIF", "HEIF") else 6 if image.info.get("progressive") else 0)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 or image.format == "TIFF" else image.transpose(_TRANSPOSE[orientation])


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    # Image.getexif would decode a whole PNG in search of late chunks, and follow XMP, which viewers do not.
    # Of HEIC the decoder applies the rotation, which the format has of its own; AVIF's arrives as an EXIF tag.
    if isinstance(image, TiffImageFile):
        value = image.tag_v2.get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return _tag(_png_exif(file) if image.format == "PNG" else image.info.get("exif"))


def _tag(block: bytes | None) -> int:
    """The orientation that a block of EXIF tells; 1 where it tells none."""
    if not block:
        return 1
    exif = Image.Exif()
    with suppress(Exception):  # a damaged EXIF block tells nothing; the pixels are still good
        exif.load(block)
        value = exif.get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def _reads_heic() -> bool:
    """Whether the decoder of HEIC is installed; it is registered with PIL when the first HEIC image comes."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True


def passed_over(names: Iterable[str], videos: str = "take frames of videos: ffmpeg -i VIDEO frame%06d.jpg") -> str:
    """How many of these files are videos or pictures that are not read, by suffix, and what to do, ``videos`` with
    those; "" if none is."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    said = []
    for kind, remedy in ((VIDEO_SUFFIXES, videos), (_OTHERS, "convert pictures to JPEG or PNG")):
        if counts := [f"{suffixes[suffix]:,} {suffix}" for suffix in kind if suffixes[suffix]]:
            said.append(f"{', '.join(counts)} ({remedy})")
    return "; ".join(said)


def _png_exif(file: BinaryIO) -> bytes:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    return b""


def _too_large(detail: str, most: float, where: object) -> ResightError:
    message = f"the image is too large to decode within {most:,.0f} MB of memory: {detail}"
    fix = f"Cut it into tiles, scale it down, or allow more: data.max_image_mb = MB in the configuration, {ALLOWED}=MB."
    return ResightError(message, where=where, fix=fix)
