"""Every kind of image people have becomes RGB or an error that names it."""

import base64
import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resight.errors import ResightError
from resight.io import images
from resight.io.files import IMAGE_SUFFIXES
from resight.io.images import (
    ImageInfo,
    as_array,
    decode,
    passed_over,
    probe,
    probe_file,
    read_bytes,
    read_image,
    upright,
    upright_image,
)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, so that no library's idea of its modes stands between test and file."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_back_their_pixels(pixels, kind):
    data = encode(Image.fromarray(pixels), kind)
    result = decode(data)
    assert result.dtype == np.uint8 and result.flags.writeable
    np.testing.assert_array_equal(result, pixels)
    assert probe(data) == ImageInfo(30, 20, kind.lower(), "RGB", 1)


def test_16_bit_grey_keeps_the_high_byte():
    samples = np.array([[0, 255, 256, 30000, 65535]], dtype=">u2")
    data = raw_png(5, 1, 16, 0, b"\0" + samples.tobytes())
    np.testing.assert_array_equal(decode(data)[0, :, 0], [0, 0, 1, 117, 255])
    np.testing.assert_array_equal(decode(data)[..., 0], decode(data)[..., 2])


def test_16_bit_rgb_keeps_the_high_byte():
    samples = np.array([[512, 65535, 300]], dtype=">u2")
    np.testing.assert_array_equal(decode(raw_png(1, 1, 16, 2, b"\0" + samples.tobytes())), [[[2, 255, 1]]])


def test_1_bit():
    np.testing.assert_array_equal(decode(raw_png(4, 1, 1, 0, b"\0\xa0"))[0, :, 1], [255, 0, 255, 0])


def test_grey_with_alpha_drops_alpha():
    data = raw_png(2, 1, 8, 4, b"\0" + bytes([7, 0, 200, 128]))
    np.testing.assert_array_equal(decode(data), [[[7, 7, 7], [200, 200, 200]]])


def test_rgba_drops_alpha():
    data = raw_png(2, 1, 8, 6, b"\0" + bytes([1, 2, 3, 0, 4, 5, 6, 255]))
    np.testing.assert_array_equal(decode(data), [[[1, 2, 3], [4, 5, 6]]])


def test_palette_with_transparency():
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + chunk(b"tRNS", bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode(raw_png(2, 1, 8, 3, b"\0\0\1", palette))
    np.testing.assert_array_equal(result, [[[10, 20, 30], [40, 50, 60]]])


def test_cmyk_jpeg_with_adobe_inversion():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    data = encode(ink, "JPEG", quality=95)
    assert b"Adobe" in data
    red, green, blue = decode(data)[8, 8]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ("#c81e1e", "#1e1ec8")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    red, _, blue = decode(data)[4, 4].astype(int)
    assert red > blue + 100


def test_zero_bytes_and_other_files_are_refused_with_their_name():
    for data in (b"", b"<html>404 not found</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        for read in (probe, decode, upright):
            with pytest.raises(ResightError, match=r"a/b\.png"):
                read(data, "a/b.png")


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.jpg", "a\0b.jpg"):
        for read in (read_image, probe_file, read_bytes):
            with pytest.raises(ResightError, match="cannot be read"):
                read(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated(pixels, kind):
    data = encode(Image.fromarray(pixels), kind)
    probe(encode(Image.fromarray(pixels), kind))
    with pytest.raises(ResightError):
        decode(data[: len(data) // 2], "half")


@pytest.mark.parametrize("side", [15_000, 50_000])
def test_a_huge_header_is_refused_by_name_before_decoding(side):
    data = raw_png(side, side, 8, 2, b"")
    with pytest.raises(ResightError, match=r"big\.png.* MB of memory.*") as caught:
        probe(data, "big.png")
    assert "tiles" in caught.value.fix and "data.max_image_mb" in caught.value.fix


def test_the_limit_is_of_memory_and_can_be_set(tmp_path, monkeypatch):
    data = encode(Image.new("RGB", (2000, 1000)), "PNG")
    monkeypatch.setenv("RESIGHT_MAX_IMAGE_MB", "13")
    with pytest.raises(ResightError, match="2000 x 1000 pixels"):
        decode(data)
    for enough in ("14", "5000"):
        monkeypatch.setenv("RESIGHT_MAX_IMAGE_MB", enough)
        assert decode(data).shape == (1000, 2000, 3)
    monkeypatch.setenv("RESIGHT_MAX_IMAGE_MB", "1e-3")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ResightError, match="too large"):
        read_bytes(tmp_path / "a.png")
    for wrong in ("much", "0", "nan", "inf"):
        monkeypatch.setenv("RESIGHT_MAX_IMAGE_MB", wrong)
        with pytest.raises(ResightError, match="not a number of megabytes"):
            probe(data)


def of_large_images():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 33, 3), np.uint8)
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 65535, (40, 33), np.uint16))
    animation = [Image.fromarray(pixels), Image.new("RGB", (33, 40))]
    yield "jpg", encode(Image.fromarray(pixels), "JPEG", progressive=True)
    yield "png of 16 bits", encode(grey, "PNG")
    yield "png with alpha", encode(Image.fromarray(pixels).convert("RGBA"), "PNG")
    yield "palette", encode(Image.fromarray(pixels).quantize(), "GIF")
    yield "animation", encode(animation[0], "WEBP", save_all=True, append_images=animation[1:], lossless=True)
    yield "cmyk", encode(Image.fromarray(pixels).convert("CMYK"), "JPEG")


@pytest.mark.parametrize(("kind", "data"), of_large_images(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_large_image_is_converted_strip_by_strip_to_the_same_pixels(kind, data, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(data)
    whole = decode(data), read_image(tmp_path / "a")
    monkeypatch.setattr(images, "_STRIP", 100)  # three rows
    for once, strips in zip(whole, (decode(data), read_image(tmp_path / "a")), strict=True):
        np.testing.assert_array_equal(once, strips)


def test_the_limit_holds_when_pil_has_none(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ResightError, match="50000 x 50000"):
        decode(raw_png(50_000, 50_000, 8, 2, b""))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, kind, orientation):
    rows, columns = np.mgrid[0:48, 0:64]
    smooth = np.stack([columns * 4, rows * 5, (rows + columns)], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(smooth), kind, exif=exif)
    # What each value means, written as array operations.
    expected = {
        1: smooth, 2: smooth[:, ::-1], 3: smooth[::-1, ::-1], 4: smooth[::-1], 5: smooth.transpose(1, 0, 2),
        6: np.rot90(smooth, -1), 7: smooth[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(smooth),
    }[orientation]  # fmt: skip
    info = probe(data)
    assert (info.width, info.height, info.orientation) == (64, 48, orientation)
    assert info.upright_size == (expected.shape[1], expected.shape[0])
    # PIL turns TIFFs itself; of the others decode leaves the stored frame alone.
    assert np.abs(decode(data).astype(int) - (expected if kind == "TIFF" else smooth)).max() < 30
    turned = upright(data)
    if orientation == 1:
        assert turned is data
    after = probe(turned)
    assert (after.format, after.orientation) == (kind.lower(), 1)
    assert np.abs(decode(turned).astype(int) - expected).mean() < 4
    (tmp_path / "x").write_bytes(data)
    assert probe_file(tmp_path / "x") == info
    assert np.abs(read_image(tmp_path / "x").astype(int) - expected).mean() < 4


def test_a_pil_image_is_turned_by_the_same_rules_as_its_file():
    exif = Image.Exif()
    exif[0x0112] = 6
    rows, columns = np.mgrid[0:48, 0:64]
    smooth = Image.fromarray(np.stack([columns * 4, rows * 5, (rows + columns)], -1).astype(np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        data = encode(smooth, kind, exif=exif)
        turned = upright_image(Image.open(io.BytesIO(data)))
        assert turned.size == probe(data).upright_size == (48, 64)
        assert np.abs(np.asarray(turned).astype(int) - np.rot90(np.asarray(smooth), -1)).mean() < 4


# 64 x 48 pixels, red on the left and blue on the right, green in the upper left corner; to be turned by a quarter.
HEIC = base64.b64decode(
    b"AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    b"AAAERAAAIAAQAAAAAB7AABAAAAAAAAAIwAAgAAAAACeAABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    b"bmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    b"ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkA"
    b"AAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEH"
    b"BpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAALhtZGF0AAAA"
    b"iCgBrwngITk0HkJfv//ZxH//g5lvX/0g63fATTf+V0G+f/dNEB5M99/qnWr+aE//6nUHP7WPW/8um/0gHJPrQtsPQ6mbxHb+qaesJGthl+NBO1"
    b"QiQ8Ysr4Iqjzu3iuQYTV2PcLzOa+iAYB4o9IbHvOI4kPfne6ND+M2tp9+E/i/wOMstk+5R3AgAAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAAB"
    b"AAYAAAAAAAA="
)


def test_heic_is_read_as_it_is_shown(tmp_path):
    info = probe(HEIC)
    assert (info.width, info.height, info.format, info.orientation) == (48, 64, "heif", 1)  # the decoder turns it
    assert upright(HEIC) is HEIC
    (tmp_path / "photo.jpg").write_bytes(HEIC)  # telephones' photographs are often named so
    for pixels in (decode(HEIC), read_image(tmp_path / "photo.jpg")):
        assert pixels.shape == (64, 48, 3)
        near = [np.argmax(pixels[y, x]) for y, x in ((4, 44), (4, 4), (60, 24))]
        assert near == [1, 0, 2]
    with pytest.raises(ResightError, match=r"damaged|known format"):
        decode(HEIC[:-300])


def test_what_cannot_be_read_here_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    for data, where in ((HEIC, "a.jpg"), (b"xx", "a.heic")):
        with pytest.raises(ResightError, match=r"HEIC.*resight\[heif\]"):
            probe(data, where)
    avif = encode(Image.new("RGB", (8, 4)), "AVIF")
    assert probe(avif).format == "avif"
    monkeypatch.setattr(images, "_AVIF", False)
    monkeypatch.setattr(images, "_FORMATS", tuple(name for name in images._FORMATS if name != "AVIF"))
    with pytest.raises(ResightError, match=r"AVIF.*pillow>=11\.3"):
        probe(avif)


def test_what_is_passed_over_is_counted_by_suffix():
    said = passed_over(["a.jpg", "b.mp4", "c/d.MP4", "e.cr2", "f.txt", "g.heic", "h"])
    assert said.startswith("2 .mp4 (") and "ffmpeg" in said and "1 .cr2 (" in said and "txt" not in said
    assert passed_over(["a.jpg", "b.txt"]) == ""


def test_16_bit_png_is_turned_without_loss():
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    turned = upright(encode(Image.fromarray(samples), "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(turned))), np.rot90(samples, -1))


def test_exif_after_the_pixels_of_a_png_is_seen():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(Image.new("RGB", (3, 2)), "PNG")
    late = data[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]
    assert probe(late).orientation == 3


SAMPLES = [
    encode(Image.new(mode, (9, 7), 1), kind)
    for mode, kind in [("RGB", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("P", "GIF"),
                       ("RGB", "BMP"), ("RGB", "TIFF"), ("L", "PPM"), ("F", "TIFF"), ("LAB", "TIFF"), ("I;16", "TIFF")]
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    end=st.integers(0, 2000),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_end_in_pixels_or_our_error(sample, damage, end):
    data = bytearray(sample)
    for at, value in damage:
        data[at % len(data)] = value
    damaged = bytes(data[:end])
    for read in (probe, decode, upright):
        try:
            result = read(damaged, "x")
        except ResightError as error:
            assert error.where == "x"
        else:
            assert read is not decode or (result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3)


def test_the_page_on_data_names_the_formats_that_are_read():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"^Images are (.*?);", page, re.MULTILINE)
    assert set(re.findall(r"\b[A-Z]{3,}\b", sentence)) - {"PGM", "PBM"} == set(images._FORMATS)
    suffixes = [suffix for suffix in IMAGE_SUFFIXES if suffix not in (".heic", ".heif")]
    formats = {Image.registered_extensions()[suffix] for suffix in suffixes}
    assert formats == set(images._FORMATS)
    for suffix in suffixes:
        buffer = io.BytesIO()
        Image.new("1" if suffix == ".pbm" else "L", (8, 4)).save(buffer, Image.registered_extensions()[suffix])
        assert decode(buffer.getvalue()).shape == (4, 8, 3)


def test_nothing_is_printed_about_odd_images(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0" + b"\xff" * 30)
    (tmp_path / "exif.jpg").write_bytes(buffer.getvalue())
    Image.new("L", (9600, 9600)).save(tmp_path / "large.png")
    script = (
        "import logging, sys; from resight.io import images\n"
        "for path in sys.argv[1:]: images.read_image(path)\n"
        "logging.getLogger('PIL.TiffImagePlugin').error('printed')\n"
    )
    command = [sys.executable, "-c", script, *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_array_is_taken_as_it_is():
    image = np.zeros((2, 3, 3), np.uint8)
    array, name = as_array(image)
    assert array is image and name == ""
