"""A `pipeline.config` read by the table of its fields. As in TFOD, of a field given twice the last counts, a message
given twice is joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from ...errors import nearest, shortened
from ...io.textproto import Field, Word
from .fields import CHOICES, MESSAGES, Known, join, scalar

_WANTED = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text in quotes"}
_BOOLS = {**dict.fromkeys(("true", "True", "t", "1"), True), **dict.fromkeys(("false", "False", "f", "0"), False)}
MAX_STRANGE = 20  # unknown fields of one message that are named


class Reading:
    """The fields of one config on their way to our keys."""

    def __init__(self, folder: str, given: Mapping[str, Any]) -> None:
        self.folder, self.given = folder, given
        self.overrides: dict[str, Any] = {}
        self.lines: dict[str, int] = {}  # of each field read, by its path
        self.places: dict[str, str] = {}  # our key -> path of the field that it comes from
        self.honoured: list[tuple[int, str]] = []
        self.ignored: list[tuple[int, str]] = []
        self.refused: list[tuple[int, str]] = []
        self.missing: list[tuple[int, str]] = []

    def sorted_lines(self) -> Iterator[tuple[str, ...]]:
        for lines in (self.honoured, self.ignored, self.refused, self.missing):
            yield tuple(text for _, text in sorted(lines, key=lambda item: item[0]))

    def note(self, lines: list[tuple[int, str]], line: int, place: str, text: str) -> None:
        lines.append((line, shortened(f"line {line}, {place}: {text}")))

    def refuse(self, place: str, text: str) -> None:
        self.note(self.refused, self.line(place), place, text)

    def line(self, place: str) -> int:
        """Line of a field, or of the message where it is missing."""
        while place and place not in self.lines:
            place = place.rpartition(".")[0]
        return self.lines.get(place, 1)

    def set(self, key: str, value: Any, place: str) -> None:
        self.overrides[key] = value
        self.places[key] = place

    # Any message, by the table

    def message(self, fields: Sequence[Field], kind: str, path: str, line: int) -> dict[str, Any]:
        """The values of a message, with defaults; of a choice only what is given."""
        table, choice, given = MESSAGES[kind], kind in CHOICES, defaultdict[str, list[Field]](list)
        for field in fields:
            given[field.name].append(field)
        strange = [found[0] for name, found in given.items() if name not in table]
        for field in strange[:MAX_STRANGE]:
            text = f"no such field. {nearest(field.name, table)}".rstrip()
            text = f"{_shown(field.value)} (supported is {' or '.join(table)})" if choice else text
            self.note(self.refused, field.line, join(path, field.name), text)
        if len(strange) > MAX_STRANGE:
            text = f"{len(strange):,} fields that there are not, these {MAX_STRANGE} among them"
            self.note(self.refused, line, path, text)
        present = [name for name in table if name in given]
        if choice and len(present) > 1:
            text = f"{' and '.join(present)} are given, and one can hold; a block for each, or one of them"
            self.note(self.refused, line, path, text)
        values: dict[str, Any] = {}
        for name in present if choice else table:
            known, place, found = table[name], join(path, name), given[name]
            if found:
                self.lines[place] = found[-1].line
            if known.use == "read":
                values[name] = self.value(found, known, place, line)
                continue
            for item in found:
                lines = self.ignored if known.use == "ignored" else self.refused
                self.note(lines, item.line, place, f"{_shown(item.value)} ({known.note})")
        return values

    def value(self, found: Sequence[Field], known: Known, place: str, line: int) -> Any:
        """The value of a field that is given by ``found``, or is absent."""
        if known.is_message:
            blocks = [(item.value, item.line) for item in found if isinstance(item.value, list)]
            if len(blocks) < len(found):
                self.refuse(place, "is a message, { ... }, and holds no value of its own")
            if known.repeated:
                for at in (at for block, at in blocks if not block and known.kind in CHOICES):
                    self.note(self.refused, at, place, "{} names no augmentation")
                return [self.message(block, str(known.kind), place, at) for block, at in blocks]
            merged = [inner for block, _ in blocks for inner in block]
            return self.message(merged, str(known.kind), place, found[-1].line if found else line)
        values = [self.scalar(item, known, place) for item in found]
        if known.repeated:
            value: Any = tuple(item for item in values if item is not None)
        else:
            for item in found[:-1]:
                text = f"{_shown(item.value)} (line {found[-1].line} gives it again)"
                self.note(self.ignored, item.line, place, text)
            values = values[-1:]
            value = known.default if values in ([], [None]) else values[0]
            if known.only and value not in known.only and values != [None]:
                value = Word(value) if isinstance(known.kind, tuple) else value
                self.refuse(place, f"{_shown(value)}{'' if found else ', the default'} ({known.note})")
                return value
        if found and None not in values:
            shown = ", ".join(_shown(item) for item in values)
            self.note(self.honoured, found[-1].line, place, shown + (f" -> {known.key}" if known.key else ""))
        if known.key and not known.by_hand:
            self.set(known.key, value, place)
        return value

    def scalar(self, item: Field, known: Known, place: str) -> Any:
        """The value of a field; None where it is of a wrong type, which is then refused."""
        value, kind = item.value, cast(Any, known.kind)
        if isinstance(kind, tuple):
            if isinstance(value, int) and 0 <= value < len(kind):
                return Word(kind[value])
            if isinstance(value, Word) and value in kind:
                return value
        elif kind is bool and isinstance(value, Word | int) and str(value) in _BOOLS:
            return _BOOLS[str(value)]
        elif kind is int and isinstance(value, int) and abs(value) < 2**32:
            return value
        elif kind is float and isinstance(value, int | float) and abs(value) < 1e38:
            return float(value)
        elif kind is str and isinstance(value, str) and not isinstance(value, Word):
            return value
        wanted = f"one of {', '.join(kind)}" if isinstance(kind, tuple) else _WANTED[kind]
        self.note(self.refused, item.line, place, f"{_shown(value)} is not {wanted}")
        return None


def _shown(value: Any) -> str:
    """A value as a config has it; of a message the type of its feature extractor, where it has one."""
    if isinstance(value, list):
        inner = {item.name: item.value for item in value}
        extractor = inner.get("feature_extractor") or inner.get("type")
        if not extractor:
            return "{...}"
        return f"{{ {_shown(extractor)} }}" if isinstance(extractor, list) else _shown(extractor)
    text = scalar(value)
    return text if len(text) <= 120 else f"{text[:110]} ..."
