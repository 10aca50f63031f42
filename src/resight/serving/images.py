"""``POST /predict``: images as a form sends them, and what is in them as ``detections.json`` has it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any, cast
from urllib.parse import parse_qs

from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import ResightError, listed
from ..inference.detector import check_share
from .request import Refused, Request, Response, check_count
from .servable import Servable

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # of a malformed form its sender is told

NAME, FORM = "image", b"multipart/form-data"
HOW = "Send the images as parts called image: curl -F image=@photo.jpg http://HOST:PORT/predict"


def predict(servable: Servable, request: Request) -> Response:
    """Raises Refused."""
    score = _score(request.route.query)
    before = servable.seconds
    found = []
    for number, (file, data) in enumerate(images_of(request), 1):
        image = servable.read(data, file or f"image {number}", upright=True)
        found.append(replace(servable.detect(image, score), file=file).listed())
    detector = servable.detector
    told = {
        "model": servable.name,
        "classes": list(detector.classes),
        "score": detector.score if score is None else score,
        "default_score": detector.score,
        "images": found,
    }
    text = json.dumps(told, ensure_ascii=False)
    return Response(200, text.encode("utf-8", "backslashreplace"), model_seconds=servable.seconds - before)


def _score(query: str) -> float | None:
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise Refused(f"the query cannot be read: {error}") from error
    if unknown := [name for name in given if name != "score"]:
        raise Refused(f"there is no parameter '{unknown[0]:.40}'; /predict takes ?score=")
    if "score" not in given:
        return None
    text = given["score"][-1]
    try:
        score = float(text)
        check_share(score, "score")
    except (ValueError, ResightError) as error:
        raise Refused(f"score is a number from 0 to 1, not '{text:.40}'") from error
    return score


def images_of(request: Request) -> list[tuple[str, bytes]]:
    """Name and bytes of each part called image. Raises Refused: the body is no such form, or has none."""
    try:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != FORM or not options.get(b"boundary"):
            said = f"{kind.decode('latin-1')[:80] or 'of no type'}, not {FORM.decode()}"
            raise Refused(f"the body is {'a form without its boundary' if kind == FORM else said}. {HOW}", 415)
        form = _Form(options[b"boundary"], request.body)
    except ValueError as error:
        raise Refused(f"the form cannot be read: {error}. {HOW}") from error
    if not form.whole:
        raise Refused(f"the form is cut off. {HOW}")
    if not form.images:
        others = f" but {listed(form.others, 5)}" if form.others else ""
        raise Refused(f"the form has no part called image{others}. {HOW}")
    return form.images


class _Form:
    """The parts of a form.

    Args:
        body: all of it.

    Raises:
        ValueError: it is not well-formed.
        Refused: it has too many parts.
    """

    def __init__(self, boundary: bytes, body: bytes) -> None:
        self.images: list[tuple[str, bytes]] = []
        self.others: list[str] = []
        self.whole = False
        self._begin()
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.append(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.append(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        MultipartParser(boundary, cast(Any, callbacks)).write(body)

    def _begin(self) -> None:
        self._field: list[bytes] = []
        self._value: list[bytes] = []
        self._data: list[bytes] = []
        self._name = self._file = ""

    def _header(self) -> None:
        if b"".join(self._field).lower() == b"content-disposition":
            options = parse_options_header(b"".join(self._value))[1]
            self._name, self._file = (
                options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename")
            )
        self._field, self._value = [], []

    def _end(self) -> None:
        if self._name == NAME:
            self.images.append((self._file, b"".join(self._data)))
        else:
            self.others.append(self._name)
        check_count(len(self.images) + len(self.others))

    def _finish(self) -> None:
        self.whole = True
