"""A configuration as TOML: written with a comment for each key, and the line of a key found again."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")
_KEY = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_ASSIGNED = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")


def to_toml(config: BaseModel) -> str:
    """The whole tree as TOML, each key with its comment; what is unset is a comment line."""
    return "\n".join(line for name in type(config).model_fields for line in _section_lines(name, getattr(config, name)))


def _section_lines(title: str, values: BaseModel) -> list[str]:
    lines, inner = [f"[{title}]"], []
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            inner += _section_lines(f"{title}.{name}", value)
        elif field.description:
            text = f"# {name} =" if value is None else f"{name} = {toml_value(value)}"
            lines.append(f"{text:<36} # {field.description}")
    return [*lines, "", *inner]


def toml_value(value: Any) -> str:
    """``value`` as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        pairs = ", ".join(f"{toml_value(k)} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return repr(value)


def flat(tree: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """The values of a tree of sections by their full keys, such as ``train.seed``."""
    keys: dict[str, Any] = {}
    for name, value in tree.items():
        keys |= flat(value, f"{section}{name}.") if isinstance(value, Mapping) else {f"{section}{name}": value}
    return keys


def line_of(text: str, keys: Sequence[str]) -> int:
    """The line, counted from 1, of TOML in which the key ``keys`` is set, or the innermost table of it that is there;
    0 where none is found."""
    section: list[str] = []
    found, depth, tables = 0, 0, Counter[str]()
    for number, line in enumerate(text.splitlines(), 1):
        paths: list[list[str]] = []
        if header := _HEADER.match(line):
            section = _parts(header[1])
            paths.append(section)
            if line.lstrip().startswith("[["):  # one more table of an array
                section = [*section, str(tables[header[1]])]
                tables[header[1]] += 1
                paths.append(section)
        elif assigned := _ASSIGNED.match(line):
            paths.append([*section, *_parts(assigned[1])])
        for path in paths:
            if len(path) > depth and path == list(keys[: len(path)]):
                found, depth = number, len(path)
    return found


def _parts(key: str) -> list[str]:
    return [part.strip().strip("\"'") for part in key.split(".")]
