"""JSON as TensorFlow Serving reads and writes it, which is not quite JSON: NaN and Infinity are numbers, what follows
the document is not looked at, a text need not be UTF-8, of equal names in an object the first counts, and whole floats
end in ``.0``. RapidJSON is its parser, and ours: messages and offsets of syntax errors are the same."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import rapidjson

from .request import Refused

QUOTED = 256  # bytes of a value in a message
BOM = b"\xef\xbb\xbf"

_MESSAGE = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
_AFTER_DOCUMENT = "The document root must not be followed by other values."
# Bytes that are no UTF-8 pass the parser, which refuses them and lone surrogates, as characters that nobody uses.
_STRANGE = {0xDC00 + byte: 0x10DC00 + byte for byte in range(0x80, 0x100)}
_BACK = {kept: escape for escape, kept in _STRANGE.items()}
_ESCAPES = {code: f"\\u{code:04X}" for code in range(32)} | {
    ord(character): f"\\{letter}" for character, letter in zip('"\\\b\f\n\r\t', '"\\bfnrt', strict=True)
}


class _Decoder(rapidjson.Decoder):
    def start_object(self) -> list[tuple[str, Any]]:
        return []

    def end_object(self, members: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in members:
            found.setdefault(name, value)
        return found


class _StrangeDecoder(_Decoder):
    def string(self, text: str) -> str:
        return text.translate(_BACK)

    def end_object(self, members: list[tuple[str, Any]]) -> dict[str, Any]:
        return super().end_object([(name.translate(_BACK), value) for name, value in members])


_NUMBERS = rapidjson.NM_NATIVE | rapidjson.NM_NAN
_DECODER, _STRANGE_DECODER = _Decoder(number_mode=_NUMBERS), _StrangeDecoder(number_mode=_NUMBERS)


def parse(body: bytes) -> Any:
    """The value; bytes that are no UTF-8 are lone surrogates in its strings.

    Raises:
        Refused: it is no JSON, as TensorFlow Serving says it; or is nested a thousand deep.
    """
    if not body:
        raise Refused("JSON Parse error: The document is empty")
    start = len(BOM) if body.startswith(BOM) else 0
    collecting = gc.isenabled()
    gc.disable()  # an image is a million lists, none of them garbage, and they would be looked through again and again
    try:
        return _parse(body[start:])
    except _SyntaxError as error:
        raise Refused(f"JSON Parse error: {error.text} at offset: {start + error.offset}") from error
    except RecursionError as error:
        raise Refused("JSON Parse error: lists and objects are nested too deeply.") from error
    finally:
        if collecting:
            gc.enable()


class _SyntaxError(Exception):
    def __init__(self, text: str, offset: int) -> None:
        self.text, self.offset = text, offset


def _parse(body: bytes) -> Any:
    decoder, taken = _DECODER, body
    try:
        body.decode()
    except UnicodeDecodeError:
        decoder, taken = _STRANGE_DECODER, body.decode("utf-8", "surrogateescape").translate(_STRANGE).encode()
    try:
        return decoder(taken)
    except rapidjson.JSONDecodeError as error:
        matched = _MESSAGE.fullmatch(str(error))
        offset, text = (int(matched[1]), matched[2]) if matched else (0, str(error))
    if text == _AFTER_DOCUMENT:
        return decoder(taken[:offset])
    if taken is not body:
        before = taken[:offset].decode("utf-8", "ignore")
        offset = len(before.translate(_BACK).encode("utf-8", "surrogateescape"))
    raise _SyntaxError(text, offset)


def quoted(value: Any) -> str:
    """The value as a message quotes it: lists on one line, objects over several, the first 256 bytes."""
    text, size = [], 0
    for piece in _pieces(value, 1):
        text.append(piece)
        size += len(piece)
        if size >= QUOTED:
            break
    cut = "".join(text)[:QUOTED]
    while len(cut.encode("utf-8", "surrogateescape")) > QUOTED:
        cut = cut[:-1]
    return cut


class _NoText(Exception):
    """A number that RapidJSON does not write: it stops there."""


def _pieces(value: Any, depth: int) -> Iterator[str]:
    try:
        yield from _written(value, depth)
    except _NoText:
        return


def _written(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for number, (name, member) in enumerate(value.items()):
            yield f"{',' if number else '{'}\n{'    ' * depth}{_string(name)}: "
            yield from _written(member, depth + 1)
        yield f"\n{'    ' * (depth - 1)}}}"
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield ", " if number else "["
            yield from _written(item, depth + 1)
        yield "]"
    else:
        yield _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float):
        return _double(value)
    if value is None:
        return "null"
    return str(value).lower()  # an integer, true, false, [] or {}


def _string(text: str) -> str:
    closing = '"' if len(text) <= QUOTED else ""  # it is cut anyway
    return f'"{text[:QUOTED].translate(_ESCAPES)}{closing}'


def _double(value: float) -> str:
    """The digits of RapidJSON: the fewest that read back the same, an exponent from 1e21 on and below 1e-6."""
    if not math.isfinite(value):
        raise _NoText
    if not value:
        return str(value)
    sign, parts, power = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(power, int)
    digits, minus = "".join(map(str, parts)), "-" * sign
    whole = len(digits) + power
    if power >= 0 and whole <= 21:
        return f"{minus}{digits}{'0' * power}.0"
    if 0 < whole <= 21:
        return f"{minus}{digits[:whole]}.{digits[whole:]}"
    if -6 < whole <= 0:
        return f"{minus}0.{'0' * -whole}{digits}"
    return f"{minus}{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{whole - 1}"


def numbers(values: np.ndarray) -> list[str]:
    """Each value of the array, in order, as JSON. Floats have six digits, or where those read back as another number
    nine (seventeen of float64)."""
    flat = values.reshape(-1)
    if flat.dtype.kind != "f":
        return [str(value).lower() for value in flat.tolist()]
    given = tuple(flat.tolist())
    short = ("%.6g " * len(given)) % given
    other = np.fromstring(short, np.float64, sep=" ").astype(flat.dtype) != flat
    full = "%.9g " if flat.dtype.itemsize == 4 else "%.17g "
    exact = (full * len(given)) % given
    texts = [long if more else text for text, long, more in zip(short.split(), exact.split(), other, strict=True)]
    return [text if "." in text or "e" in text else _WORDS.get(text) or f"{text}.0" for text in texts]


_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def nested(values: np.ndarray, depth: int | None = None) -> str:
    """The array as JSON lists, on one line; or a line each value and bracket, indented to ``depth``."""
    texts, shape = numbers(values), values.shape
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        if not size:
            texts = ["[]"] * math.prod(shape[:axis])
            continue
        opening, between, closing = "[", ", ", "]"
        if depth is not None:
            line = f"\n{'    ' * (depth + axis + 1)}"
            opening, between, closing = f"[{line}", f",{line}", f"\n{'    ' * (depth + axis)}]"
        texts = [f"{opening}{between.join(texts[at : at + size])}{closing}" for at in range(0, len(texts), size)]
    return texts[0]
