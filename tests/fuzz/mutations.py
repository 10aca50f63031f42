"""Damaged inputs: a seed, and what bit rot, cut-off copies, wrong programs and people with intent make of it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

_TOKEN = re.compile(rb"[A-Za-z_]+|-?\d+(?:\.\d+)?|\s+|.", re.DOTALL)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_NUMBERS = (
    b"0", b"-1", b"1e309", b"-1e-400", b"nan", b"NaN", b"inf", b"-Infinity", b"Infinity", b"2147483648", b"1e18",
    b"9223372036854775808", b"18446744073709551616", b"9" * 5000, b"0x" + b"f" * 6000, b"1_0", b"0.5", b"1e5", b"-0",
)  # fmt: skip
_PIECES = (
    b"\0", b"\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\x1b[31m", "\u202e".encode(), b"../../../", b"/dev/zero",
    b"&a ", b"*a", b"<<: *a\n", b"!!int ", b"!!timestamp ", b"!!python/name:os.system ", b"? ", b": ", b"- ", b"---\n",
    b"[", b"{", b"]", b"}", b'"', b"'", b"\\", b"\\ud800", b"<", b">", b"&lt;", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"%", b"\t",
    b",", b";", b"true", b"null", b"#", b"=", b"\\x", b"\\777", b"yes", b"2020-99-99", b".inf", b"~",
)  # fmt: skip
_OPENING = (b"[", b"{", b'{"a":', b"<a>", b"(", b"- ", b"a {", b"a.", b"a <", b"[[", b"&a [*a,", b"((((")
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", " ", "x", "0", "nan", "x" * 5000, "\ud800",
    "\x1b]0;x\x07", "/dev/zero", "../" * 20 + "etc/passwd", [], {}, [[]], [None], {"": None}, [1, 2, 3, 4], [1e309] * 4,
)  # fmt: skip


def damaged(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds, damaged once or a few times."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice(_WAYS)(data, seeds, rng)[: 1 << 20]
    return data


def _bits(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 30)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _bytes(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8)) if out else 0):
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out)


def _cut(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice((data[:start], data[start:], data[:start] + data[stop:]))


def _repeated(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start:stop] * rng.choice((1, 2, 50)) + data[stop:]


def _spliced(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _inserted(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_PIECES) * rng.choice((1, 1, 1, 3, 1000)) + data[at:]


def _nested(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_OPENING) * rng.choice((50, 300, 1200, 30_000)) + data[at:]


def _numbers(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(_NUMBERS) + data[one.end() :]


def _tokens(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    tokens = _TOKEN.findall(data[:20_000])
    for _ in range(rng.choice((1, 3)) if tokens else 0):
        at, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        tokens[at] = rng.choice((b"", tokens[at][:100] * 2, tokens[at][:100] * 500, tokens[other]))
    return b"".join(tokens) + data[20_000:]


def _values(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """In JSON, a value becomes one of another kind, a key goes, an entry comes twice."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _tokens(data, seeds, rng)
    places: list[tuple[Any, Any]] = []
    level = [tree]
    while level and len(places) < 5000:
        one = level.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one))) if isinstance(one, list) else []
        places += [(one, key) for key in keys]
        level += [one[key] for key in keys]
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    holder, key = rng.choice(places)
    way = rng.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.append(holder[key])
    elif way == 2:
        other, at = rng.choice(places)
        holder[key] = (
            json.loads(json.dumps(other[at]))
            if at in (other if isinstance(other, dict) else range(len(other)))
            else None
        )
    else:
        holder[key] = rng.choice(_VALUES)
    return json.dumps(tree).encode()


_WAYS = (_bits, _bytes, _cut, _repeated, _spliced, _inserted, _nested, _numbers, _tokens, _values, _values)
