"""Label maps: the class names of a data set, their order and their ids."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from .errors import Problem, ResightError, listed
from .io import textproto

MAX_CLASSES = 100_000


@dataclass(frozen=True)
class LabelItem:
    """One class. ``id`` is the number in the records (from 1; 0 where the map states none)."""

    id: int
    name: str
    display_name: str = ""


@dataclass(frozen=True)
class LabelMap:
    """The classes of a data set; class index ``i`` is ``names[i]``, whatever the ids are.

    ``problems`` holds what is odd in the file it was read from.
    """

    items: tuple[LabelItem, ...]
    problems: tuple[Problem, ...] = ()

    @staticmethod
    def from_names(names: Iterable[str]) -> LabelMap:
        """A map of ``names`` in their order, ids from 1."""
        return LabelMap(tuple(LabelItem(id, name) for id, name in enumerate(names, start=1)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names by class index."""
        return tuple(item.name for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def index_of(self, name: str) -> int | None:
        """Class index of a class text: a ``name``, else a ``display_name``; case and blanks matter."""
        return self._by_name.get(name)

    def index_of_id(self, id: int) -> int | None:
        """Class index of the number used in records."""
        return self._by_id.get(id)

    def by_id(self, count: int = 0) -> LabelMap:
        """The same classes at the place of their id less one, as TFOD has them; "class 3" where no item has the id 3.

        Args:
            count: the number of classes; by default the highest id.

        Raises:
            ResightError: an id is higher than that.
        """
        known = {item.id: item for item in reversed(self.items) if item.id > 0}
        highest = max(known, default=0)
        if highest > MAX_CLASSES:
            raise ResightError(f"the label map has the id {highest}; the maximum is {MAX_CLASSES:,}")
        if 0 < count < highest:
            raise ResightError(f"the label map has the id {highest}, the model {count} classes")
        items = (known.get(id) or LabelItem(id, f"class {id}") for id in range(1, (count or highest) + 1))
        return LabelMap(tuple(items), self.problems)

    @cached_property
    def _by_name(self) -> dict[str, int]:
        # Of a repeated name the last item counts, of a repeated id the first, as in TFOD.
        display = {item.display_name: index for index, item in enumerate(self.items) if item.display_name}
        return display | {item.name: index for index, item in enumerate(self.items)}

    @cached_property
    def _by_id(self) -> dict[int, int]:
        return {item.id: index for index, item in reversed(list(enumerate(self.items)))}


def read_label_map(path: str | os.PathLike[str]) -> LabelMap:
    """Reads a ``.pbtxt`` label map (UTF-8, or UTF-16 with its mark).

    Raises:
        ResightError: it cannot be read, is not text protobuf (line and column are named), has a value of a wrong type,
            or holds no class.
    """
    return parse_label_map(textproto.read(path), os.fspath(path))


def parse_label_map(text: str, where: str = "") -> LabelMap:
    """The label map written in ``text``; what is odd but readable is in ``.problems``. An item ``background`` with id 0
    is no class and left out, as TFOD does. A missing id counts as 0. Raises ResightError as ``read_label_map``."""
    items: list[LabelItem] = []
    problems: list[Problem] = []
    stated: list[int] = []
    for field in textproto.parse(text, where):
        place = f"{where}, line {field.line}" if where else f"line {field.line}"
        if field.name != "item" or not isinstance(field.value, list):
            problems.append(Problem("warning", "label_map_field", place, f"'{field.name}' is not an item; ignored"))
            continue
        item, has_id = _item(field.value, place, problems)
        if item.id == 0 and item.name == "background":
            problems.append(Problem("warning", "label_map_background", place, "id 0, 'background', is not a class"))
        else:
            items.append(item)
            stated += [item.id] * has_id
    if not items:
        fix = "It needs items like item { id: 1 name: 'stop' }."
        raise ResightError("the label map holds no class", where=where, fix=fix)
    return LabelMap(tuple(items), (*problems, *_oddities(items, stated, where)))


def to_pbtxt(label_map: LabelMap) -> str:
    """The label map as text protobuf, which TFOD reads too."""
    text = ""
    for item in label_map.items:
        shown = f"  display_name: {textproto.quote(item.display_name)}\n" if item.display_name else ""
        text += f"item {{\n  id: {item.id}\n  name: {textproto.quote(item.name)}\n{shown}}}\n"
    return text


def _item(fields: list[textproto.Field], place: str, problems: list[Problem]) -> tuple[LabelItem, bool]:
    stated = {"name": "", "display_name": ""}
    id: int | None = None
    for field in fields:
        if field.name == "id":
            if not isinstance(field.value, int) or not -(2**31) <= field.value < 2**31:
                value = "{...}" if isinstance(field.value, list) else repr(field.value)
                raise ResightError(f"id {value} is not a 32-bit number", where=f"{place}, column {field.column}")
            id = field.value
        elif field.name in stated:
            if isinstance(field.value, list):
                raise ResightError(f"{field.name} is not a text", where=f"{place}, column {field.column}")
            stated[field.name] = str(field.value)
    name, display_name = stated.values()
    if id is None:
        problems.append(Problem("warning", "label_map_no_id", place, f"item {name!r} has no id"))
    if not (name or display_name):
        problems.append(Problem("error", "label_map_no_name", place, f"the item with id {id} has no name"))
    return LabelItem(id or 0, name or display_name or f"unnamed-{id}", display_name), id is not None


def _oddities(items: list[LabelItem], stated: list[int], where: str) -> Iterator[Problem]:
    if repeated := [id for id, count in Counter(stated).items() if count > 1]:
        yield Problem("error", "label_map_repeated_id", where, f"ids used twice: {listed(repeated)}")
    if names := [name for name, count in Counter(item.name for item in items).items() if count > 1]:
        yield Problem("error", "label_map_repeated_name", where, f"names used twice: {listed(names)}")
    if low := [id for id in stated if id < 1]:
        yield Problem("warning", "label_map_id_0", where, f"ids below 1: {listed(low)}; TFOD counts from 1")
    if (gaps := max(stated, default=0) - len({id for id in stated if id >= 1})) > 0:
        yield Problem("warning", "label_map_gap", where, f"{gaps} ids below {max(stated)} have no class")
