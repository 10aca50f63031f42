"""The site of these pages (``make docs``). Where a page holds ``<!-- generated: NAME -->``, the function ``NAME`` of
this file writes the reference from the code."""

import re
from collections.abc import Iterator
from inspect import isclass, isfunction
from typing import Any, get_type_hints

import resight
from resight.config.toml_text import toml_value
from resight.fpn.config import FpnTree
from resight.tfod.config import TfodTree

project = "Resight"
author = copyright = "the authors of Resight"
version = release = resight.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # page.md#heading means here what it means on GitHub
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]  # types in signatures: no other site is asked for
autodoc_member_order = "bysource"
autodoc_default_options = {"special-members": "__call__"}
maximum_signature_line_length = 100
html_theme = "pydata_sphinx_theme"
html_title = "Resight"
html_copy_source = False
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}


def configuration() -> Iterator[str]:
    """A table for each section of the configuration's types: key, type, default, description."""
    schema, other = (tree.model_json_schema() for tree in (TfodTree, FpnTree))
    types = other["$defs"] | schema["$defs"]
    own = types["FpnModelConfig"]["properties"]
    types["TfodModelConfig"]["properties"] = own | types["TfodModelConfig"]["properties"]
    for name, field in schema["properties"].items():
        yield from _section(name, field, types)


def _section(title: str, field: dict[str, Any], types: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {title}", "", "| key | type | default | |", "|---|---|---|---|")
    inner = {}
    for key, value in types[_name(field)]["properties"].items():
        if _name(value):
            inner[f"{title}.{key}"] = value
            continue
        default = "" if value["default"] is None else f"`{toml_value(value['default'])}`"
        cells = (f"`{key}`", _type(value, types), default, value["description"])
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for name, value in inner.items():
        yield from _section(name, value, types)


def _name(field: dict[str, Any]) -> str:
    """The type of a field that is a section."""
    return next((_name(option) for option in field.get("anyOf", ())), field.get("$ref", "")).rpartition("/")[2]


def _type(field: dict[str, Any], types: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(option, types) for option in field["anyOf"] if option != {"type": "null"})
    if "$ref" in field:
        return "table of " + ", ".join(f"`{key}`" for key in types[_name(field)]["properties"])
    if "enum" in field:
        return ", ".join(f'`"{value}"`' for value in field["enum"])
    if "prefixItems" in field:
        return f"[{', '.join(_type(item, types) for item in field['prefixItems'])}]"
    if field["type"] == "array":
        return f"list of {_type(field['items'], types)}"
    if field["type"] == "object":
        return f"table of {_type(field['additionalProperties'], types)}"
    signs = {"exclusiveMinimum": "> ", "minimum": "≥ ", "maximum": "≤ "}
    bounds = ", ".join(f"{sign}{field[key]:g}" for key, sign in signs.items() if key in field)
    return f"{field['type']} {bounds}".rstrip()


def functions() -> Iterator[str]:
    return _documented("autofunction", *(f"resight.{name}" for name in resight.__all__ if isfunction(_public(name))))


def classes() -> Iterator[str]:
    return _documented("autoclass", *(f"resight.{name}" for name in resight.__all__ if isclass(_public(name))))


def results() -> Iterator[str]:
    """The classes of what the functions return, but for the configuration, which has a page of its own."""
    found = {get_type_hints(_public(name))["return"] for name in resight.__all__ if isfunction(_public(name))}
    ours = [kind for kind in found if kind.__module__.startswith("resight.") and not hasattr(kind, "model_fields")]
    names = [f"{kind.__module__}.{kind.__name__}" for kind in sorted(ours, key=lambda kind: kind.__name__)]
    return _documented("autoclass", *names)


def _public(name: str) -> Any:
    return getattr(resight, name)


def _documented(directive: str, *names: str) -> Iterator[str]:
    yield "```{eval-rst}"
    for name in names:
        yield from (f".. {directive}:: {name}", "   :members:" * (directive == "autoclass"), "")
    yield "```"


def _generate(app: Any, page: str, source: list[str]) -> None:
    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda found: "\n".join(globals()[found[1]]()), source[0])


def setup(app: Any) -> None:
    app.connect("source-read", _generate)
