"""What a caller gives, looked at in one place: a wrong type is named, and an empty text means nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from .errors import ResightError

Kinds = tuple[type, ...]

PATH = (str, os.PathLike)
_MEANT: dict[object, Kinds] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.number),
    Sequence: (list, tuple, set, frozenset),  # a text is a sequence of texts too, and never meant as one
    Literal: (str,),
    Any: (object,),
}


@cache
def kinds_of(owner: Callable[..., object]) -> Mapping[str, Kinds]:
    """Of what kind each argument of a function, or field of a dataclass, can be, as its type hints say."""
    return {name: tuple(_kinds(hint)) for name, hint in get_type_hints(owner).items()}


def _kinds(hint: Any) -> Iterator[type]:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        for one in get_args(hint):
            yield from _kinds(one)
    else:
        yield from _MEANT.get(origin, (origin,))


def check_types(values: Mapping[str, object], kinds: Mapping[str, Kinds], where: str, *, empty: bool = False) -> None:
    """
    Args:
        values: arguments by name; one that ``kinds`` does not know is not looked at.
        where: the function or class they are given to.
        empty: texts may be empty.

    Raises:
        ResightError: a value is of none of its kinds, or an empty text.
    """
    for name, value in values.items():
        if (kind := kinds.get(name)) is None:
            continue
        if not isinstance(value, kind):
            known = " or ".join(one.__name__.removesuffix("Type") for one in kind)
            message = f"{name} is {value!r:.80}, of the type {type(value).__name__}"
            raise ResightError(message, where=where, fix=f"It must be {known}.")
        if not empty and isinstance(value, str) and not value:
            raise ResightError(f"{name} is empty", where=where)
