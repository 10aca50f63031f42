"""What a caller gives, looked at in one place: a wrong type or choice is named, and an empty text means nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from .errors import ResightError, nearest

PATH = (str, os.PathLike)
_MEANT: dict[object, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.number),
    Sequence: (list, tuple, set, frozenset),  # a text is a sequence of texts too, and never meant as one
    Literal: (str,),
    tuple: (object,),  # its members are looked at by who takes it
    Any: (object,),
}


def _kinds(hint: Any) -> tuple[type, ...]:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return tuple(kind for one in get_args(hint) for kind in _kinds(one))
    return _MEANT.get(origin, (origin,))


@cache
def _rules(owner: Callable[..., object]) -> tuple[dict[str, tuple[type, ...]], dict[str, tuple[str, ...]]]:
    """The kinds of each argument of a function, or field of a dataclass, and the choices where there are some."""
    hints = get_type_hints(owner)
    choices = {
        name: get_args(one)
        for name, hint in hints.items()
        for one in (get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint])
        if get_origin(one) is Literal
    }
    return {name: _kinds(hint) for name, hint in hints.items()}, choices


def check_types(
    values: Mapping[str, object], owner: Callable[..., object], *, empty: bool = False, where: str = ""
) -> None:
    """
    Args:
        values: arguments of a function, or fields of a dataclass, by name; what has no type hint is not looked at.
        owner: the function or dataclass.
        empty: texts may be empty.
        where: the function that was called, if that is not ``owner``.

    Raises:
        ResightError: a value is none that its type hint allows, or an empty text.
    """
    kinds, choices = _rules(owner)
    for name, value in values.items():
        if name in kinds and not (isinstance(value, kinds[name]) and (empty or not isinstance(value, str) or value)):
            check_type(name, value, kinds[name], where or owner.__name__)
    for name, known in choices.items():
        if values.get(name) is not None and values[name] not in known:
            fix = f"It is {' or '.join(known)}. {nearest(str(values[name]), known)}".rstrip()
            raise ResightError(f"unknown value '{values[name]}'", where=f"--{name.replace('_', '-')}", fix=fix)


def check_type(name: str, value: object, kinds: tuple[type, ...], where: str) -> None:
    """The same for one value, which may not be empty."""
    if not isinstance(value, kinds):
        known = " or ".join(kind.__name__.removesuffix("Type") for kind in kinds)
        message = f"{name} is {value!r:.80}, of the type {type(value).__name__}"
        raise ResightError(message, where=where, fix=f"It must be {known}.")
    if isinstance(value, str) and not value:
        raise ResightError(f"{name} is empty", where=where)
