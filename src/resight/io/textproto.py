"""Text protobuf (`label_map.pbtxt`, `pipeline.config`) as a tree of fields, without a schema.

Reads what protobuf's own text parser reads: comments, both quotes, adjacent strings, `{}` and `<>`, an optional colon
before a message, lists, separators `,` and `;`, extension names in brackets. What a value means (an enum, a number of a
certain width) is left to who knows the schema.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import NoReturn

from ..errors import ResightError
from .files import read_text

MAX_BYTES = 1 << 20  # of what people write: twenty thousand classes
MAX_DEPTH = 100  # protobuf's own limit on nested messages


_Token = re.Match[str]


class Word(str):
    """A value written without quotes: an enum constant, `true`, `false`, `inf` or `nan`."""

    __slots__ = ()


@dataclass(frozen=True)
class Field:
    """One `name: value`; a message's value is the list of its fields. A list `[a, b]` gives one Field per element.

    ``line`` and ``column`` count from 1 and point at the name; ``start`` and ``end`` are where the whole, from the name
    to the value, lies in the text as :func:`normalized` gives it.
    """

    name: str
    value: str | int | float | list[Field]
    line: int
    column: int
    start: int = 0
    end: int = 0


_TOKEN = re.compile(
    r"""(?P<blank>(?:\s+|\#[^\n]*)+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![\w.]))
    |(?P<word>[A-Za-z_]\w*)
    |(?P<mark>[][{}<>:,;./-])
    |(?P<end>\Z)
    |(?P<wrong>.)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_SIMPLE |= {mark: mark for mark in "\\'\"?"}


def read(path: str | os.PathLike[str]) -> str:
    """The text of a file. Raises ResightError: it cannot be read, is no text, or is larger than what people write."""
    return read_text(path, MAX_BYTES)


def normalized(text: str) -> str:
    """``text`` without a byte order mark, and with ``\\n`` at the end of its lines."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str, where: object = "") -> list[Field]:
    """The fields of ``text`` in their order. Raises ResightError: a syntax error, with line and column; messages nested
    more than 100 deep."""
    return _Parser(normalized(text), str(where)).fields("", 0)


def quote(text: str) -> str:
    """``text`` as a double-quoted string that :func:`parse` and protobuf read back."""
    text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair has no UTF-8
    special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(special.get(c) or (c if c >= " " and c != "\x7f" else f"\\{ord(c):03o}") for c in text) + '"'


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.where, self.position = where, 0
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]  # where each begins
        self.tokens: list[_Token] = []
        for token in _TOKEN.finditer(text):
            if token.lastgroup == "wrong":
                unclosed = " (quote not closed)" if token[0] in "'\"" else ""
                self.fail(f"unexpected {token[0]!r}{unclosed}", token)
            if token.lastgroup != "blank":
                self.tokens.append(token)

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    def take(self) -> _Token:
        token = self.next
        if token.lastgroup != "end":
            self.position += 1
        return token

    def accept(self, *marks: str) -> str:
        return self.take()[0] if self.next.lastgroup == "mark" and self.next[0] in marks else ""

    def place(self, token: _Token) -> tuple[int, int]:
        """Line and column of a token, from 1."""
        line = bisect_right(self.lines, token.start())
        return line, token.start() - self.lines[line - 1] + 1

    def fail(self, message: str, token: _Token) -> NoReturn:
        place = "line {}, column {}".format(*self.place(token))
        where = f"{self.where}, {place}" if self.where else place
        raise ResightError(f"not valid text protobuf: {message}", where=where)

    def fields(self, closing: str, depth: int) -> list[Field]:
        """Fields up to the ``closing`` mark, or to the end of the text when it is empty."""
        found: list[Field] = []
        while True:
            if closing and self.accept(closing):
                return found
            if self.next.lastgroup == "end":
                if closing:
                    self.fail(f"the text ends where '{closing}' is expected", self.next)
                return found
            self.field(found, depth)

    def field(self, found: list[Field], depth: int) -> None:
        first = self.take()
        name = self.bracketed() if first[0] == "[" else first[0]
        if first.lastgroup != "word" and first[0] != "[":
            self.fail(f"a field name is expected, not {first[0]!r}", first)
        colon = self.accept(":")
        values = []
        if self.accept("["):
            while not self.accept("]"):
                values.append(self.value(depth))
                self.accept(",")  # protobuf insists on it; a list without is no less clear
        elif colon or self.next[0] in ("{", "<"):
            values.append(self.value(depth))
        else:
            self.fail(f"':' is expected after '{name}', not {self.next[0] or 'the end'!r}", self.next)
        end = self.tokens[self.position - 1].end()
        found += [Field(name, value, *self.place(first), first.start(), end) for value in values]
        self.accept(",", ";")

    def bracketed(self) -> str:
        parts = ["["]
        while parts[-1] != "]":
            token = self.take()
            if token.lastgroup != "word" and token[0] not in ("]", ".", "/", "-"):
                self.fail(f"']' is expected, not {token[0] or 'the end'!r}", token)
            parts.append(token[0])
        return "".join(parts)

    def value(self, depth: int) -> str | int | float | list[Field]:
        token = self.take()
        if token[0] in ("{", "<"):
            if depth >= MAX_DEPTH:
                self.fail(f"messages nested more than {MAX_DEPTH} deep", token)
            return self.fields("}" if token[0] == "{" else ">", depth + 1)
        if token.lastgroup == "string":
            data = bytearray(self.string(token))
            while self.next.lastgroup == "string":
                data += self.string(self.take())
            try:
                return data.decode()
            except UnicodeDecodeError:
                self.fail("the string is not UTF-8", token)
        sign = "-" if token[0] == "-" else ""
        if sign:
            token = self.take()
        if token.lastgroup == "number":
            return self.number(sign, token)
        if token.lastgroup == "word" and (not sign or token[0].lower() in ("inf", "infinity", "nan")):
            return Word(sign + token[0])
        self.fail(f"a value is expected, not {token[0] or 'the end'!r}", token)

    def number(self, sign: str, token: _Token) -> int | float:
        text = token[0].lower()
        if len(text) > 400:  # longer than any number protobuf knows, and Python limits the digits of an int
            self.fail("the number is too long", token)
        if text.startswith("0x"):
            number: int | float = int(text, 16)
        elif not text.isdigit():
            number = float(text.rstrip("f"))
        elif text.startswith("0") and len(text) > 1:
            if set(text) & {"8", "9"}:
                self.fail(f"{text} is not an octal number, as the leading 0 says", token)
            number = int(text, 8)
        else:
            number = int(text)
        return -number if sign else number

    def string(self, token: _Token) -> bytes:
        """The bytes of a quoted token: octal and hexadecimal escapes are single bytes of its UTF-8."""
        data, body, start = bytearray(), token[0][1:-1], 0
        try:
            for match in _ESCAPE.finditer(body):
                data += body[start : match.start()].encode()
                octal, hexadecimal, short, long, simple = match.groups()
                if octal or hexadecimal:
                    data.append(int(octal, 8) & 255 if octal else int(hexadecimal, 16))
                elif short or long:
                    data += chr(int(short or long, 16)).encode()
                else:
                    data += _SIMPLE[simple].encode()
                start = match.end()
            data += body[start:].encode()
        except (KeyError, ValueError, OverflowError):
            self.fail(f"unknown escape or character in {token[0]}", token)
        return bytes(data)
