"""The configuration from a file and options: defaults < a TOML file < ``--set key=value``.

``to_toml`` writes the tree back with a comment for each key, so the ``config.toml`` of a run folder is itself a
configuration.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import ResightError, listed, nearest, shown
from ..io.files import TEXT, check_tree, parse_toml, read_text
from ..io.misplaced import meant
from .other_names import instead_of_a_file, key_here
from .toml_text import flat, line_of
from .tree import Config

Keys = Callable[[], Iterable[str]]


def load(
    path: str | os.PathLike[str] | None,
    overrides: Mapping[str, Any] | None,
    tree_of: Callable[[Mapping[str, Any]], type[Config]],
    keys: Keys,
) -> Config:
    """As :func:`resight.load_config`.

    Args:
        tree_of: the type of the tree for its values.
        keys: every key there is, to name the one that was meant.
    """
    tree: dict[str, Any] = {}
    where, text = str(path or ""), ""
    if path is not None:
        try:
            text = read_text(path, TEXT)
            tree = parse_toml(text, where)
        except ResightError as error:
            fix = meant(path, "config") or error.fix or ("" if text else instead_of_a_file(where))
            raise ResightError(error.message, where=error.where, fix=fix) from error
    if wrong := [key for key in overrides or () if key in Config.model_fields]:
        raise ResightError(_is_section(wrong[0], keys), where="--set")
    if wrong := [key for key in overrides or () if "." not in key or key.split(".")[0] not in Config.model_fields]:
        raise ResightError(
            "; ".join(f"unknown key '{key}'. {_known(key, keys)}".rstrip() for key in wrong), where="--set"
        )
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            if isinstance(branch, dict):
                branch = branch.setdefault(section, {})
        if isinstance(branch, dict):
            branch[name] = value
    check_tree(tree, where or "--set")
    try:
        config = tree_of(tree).model_validate(tree)
    except ValidationError as error:
        raise _refused(error, where, text, overrides or {}, keys) from error
    # A text of digits is a number too, of any length.
    huge = [key for key, value in flat(config.model_dump()).items() if isinstance(value, int) and abs(value) >> 1000]
    if huge:
        raise ResightError(f"{listed(huge)}: has hundreds of digits", where=where or "options")
    return config


def _refused(
    error: ValidationError, where: str, text: str, overrides: Mapping[str, Any], keys_known: Keys
) -> ResightError:
    """All that is wrong, each with its line of the file; what an option or ``--set`` gave has none."""
    found = []
    for item in error.errors()[:100]:  # to find the line and the nearest name of each takes a while
        keys = [str(part) for part in item["loc"]]
        given = any(".".join(keys).startswith(key) for key in overrides)
        found.append((0 if given or not keys else line_of(text, keys), explain(item, keys_known)))
    place = ", ".join(filter(None, (where, "options" if overrides else ""))) or "configuration"
    if len(found) == 1:
        ((line, message),) = found
        return ResightError(message, where=f"{where}:{line}" if line else place)
    lines = [f"line {line}: {message}" if line else message for line, message in sorted(found)]
    if more := (total := error.error_count()) - len(found):
        lines.append(f"and {more:,} more")
    return ResightError("\n  ".join([f"{total:,} problems", *lines]), where=place)


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """``["train.steps=100", "model.name=resnet18"]`` -> overrides; values are TOML, bare words are strings."""
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ResightError(f"'{text}' is not of the form key=value", where="--set")
        try:
            overrides[key.strip()] = parse_toml(f"x = {value}")["x"]
        except ResightError:
            overrides[key.strip()] = value.strip()
    return overrides


def keys_of(tree: type[BaseModel], section: str = "") -> list[str]:
    """Every key of a tree, such as ``train.steps``."""
    keys = []
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += keys_of(kind, f"{section}{name}.")
        else:
            keys.append(f"{section}{name}")
    return keys


def _known(key: str, keys: Keys) -> str:
    known = list(keys())
    if key in known:
        return "Other models have it, this one does not: leave it out."
    if same_name := [one for one in known if one.split(".")[-1] == key.split(".")[-1]]:
        return f"Did you mean '{same_name[0]}'?"
    return key_here(key) or nearest(key, known)


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a table of names and values",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "too_long": "a list of {max_length}",
}


def _is_section(key: str, keys: Keys) -> str:
    own = [known.removeprefix(f"{key}.") for known in keys() if known.startswith(f"{key}.")]
    return f"{key} is a section of the configuration; its keys are {listed(own, 5)}"


def explain(item: Any, keys: Keys = tuple) -> str:
    """What pydantic found, in the words of the configuration whose keys ``keys`` tells."""
    key, kind, context = ".".join(str(part) for part in item["loc"]), item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key '{key}'. {_known(key, keys)}".rstrip()
    if kind == "value_error":  # of a validator, whose words are ours
        return (f"{key}: {context['error']}" if key else str(context["error"])).rstrip()
    if kind == "missing":
        return f"{key} is missing"
    value = shown(item["input"])
    if kind == "model_type":
        return f"{key} = {value}: {_is_section(key, keys)}"
    wanted = _WANTED.get(kind) or _WANTED.get(kind.split("_")[0])
    return f"{key} = {value}: must be {wanted.format(**context)}" if wanted else f"{key} = {value}: {item['msg']}"


def first_faults(error: ValidationError) -> str:
    """The first three of what pydantic found, as :func:`explain` puts it; what concerns no key as pydantic does."""
    return "; ".join(explain(item) if item["loc"] else item["msg"] for item in error.errors()[:3])
