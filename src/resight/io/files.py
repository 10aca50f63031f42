"""The user's files: opened only where they are regular files, read only as far as their kind can be long, and parsed
within bounds.

A path can come from an annotation, a configuration or somebody else's folder. It may name a device that never ends, a
FIFO that nobody writes to, or terabytes of nothing.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import tempfile
import tomllib
from io import BufferedReader
from typing import TYPE_CHECKING, Any

from ..errors import ResightError, reading

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from yaml import Node

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    *(".avif", ".heic", ".heif"),  # where they cannot be read, that is said of each
)
IS_RECORD = re.compile(r"\.(tf)?records?(-\d+-of-\d+)?$", re.IGNORECASE)  # the name of a shard

# The most bytes of a file, by what it is.
SMALL = 64 << 20  # what Resight and TFOD note, the labels of one image
LARGE = 8 << 30  # the annotations of a whole data set, a log, an image's bytes
TEXT = 1 << 20  # a configuration that people write, in TOML or YAML
_MAX_NODES, _MAX_DEPTH = 200_000, 50  # of YAML and TOML, with all that aliases repeat
_PIECE = 1 << 16
_KEY_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![\w.-])(?:{_KEY_PART}){{{_MAX_DEPTH}}}")

_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a file to read its bytes. Raises ResightError: it is not there, may not be read, or is a folder, device,
    pipe or socket."""
    with reading(path):
        return open(path, "rb", opener=_open_regular)


def check_regular(path: str | os.PathLike[str]) -> None:
    """For a file that a library opens by its name. Raises ResightError as :func:`open_file`."""
    open_file(path).close()


def odd_kind(path: str | os.PathLike[str]) -> str:
    """ "device", "named pipe" or "socket" where ``path`` is one, "link that leads nowhere", else ""."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return "link that leads nowhere" if os.path.islink(path) else ""
    return next((kind for is_one, kind in _KINDS[1:] if is_one(mode)), "")


def _open_regular(path: str, flags: int) -> int:
    _refuse_odd(os.stat(path), path)  # before it is opened: opening is enough to wind a tape, or to wait for a writer
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        _refuse_odd(found, path)  # it can have been exchanged
        if not found.st_size:  # one of the kernel's may wait, or not be readable: that is told here
            os.pread(descriptor, 1, 0)
    except (ResightError, OSError):
        os.close(descriptor)
        raise
    return descriptor


def _refuse_odd(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for is_one, kind in _KINDS if is_one(found.st_mode)), "special file")
        raise ResightError(f"cannot be read: Is a {kind}, not a regular file", where=path)


def read_file(path: str | os.PathLike[str], most: int = SMALL) -> bytes:
    """All bytes of a file of at most ``most``. Raises ResightError: as :func:`open_file`; or the file is larger."""
    with open_file(path) as file, reading(path):
        return _read(file, most, path)


def _read(file: BufferedReader, most: int, where: object, text: bool = False) -> bytes:
    size = os.fstat(file.fileno()).st_size
    if size <= most:
        start = file.peek()
        if text and b"\0" in start and encoding_of(start) != "utf-16":  # before all of it is in memory
            raise ResightError("is not text: it has bytes of value 0", where=f"{where}, byte {start.index(0)}")
        pieces = [file.read(size + 1)]
        size = len(pieces[0])
        while size <= most and (more := file.read(_PIECE)):  # it grows, or is one of the kernel's, of no size
            pieces.append(more)
            size += len(more)
    if size > most:
        raise ResightError(f"is too large: more than {_bytes(most)}", where=where)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_text(path: str | os.PathLike[str], most: int = LARGE) -> str:
    """A whole text file, in UTF-8 or UTF-16, without its byte order mark. Raises ResightError: as :func:`read_file`; or
    it is no text; names the byte."""
    with open_file(path) as file, reading(path):
        data = _read(file, most, path, text=True)
    return decode_text(data, path)


def decode_text(data: bytes, where: str | os.PathLike[str]) -> str:
    """The text of a file that is read from ``where``. Raises ResightError as ``read_text``."""
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        fix = "Save it as UTF-8 and try again."
        raise ResightError("is not UTF-8 text", where=f"{where}, byte {error.start}", fix=fix) from error


def encoding_of(start: bytes) -> str:
    """The encoding of a text that starts like this."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def parse_json(text: str | bytes, where: object = "") -> Any:
    """Raises ResightError: it is no JSON, with line and column; or is nested too deeply."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}:{error.colno}" if where else f"line {error.lineno}, column {error.colno}"
        raise ResightError(f"is not valid JSON: {error.msg}", where=place) from error
    except RecursionError as error:
        raise ResightError("is not valid JSON: it is nested too deeply", where=where) from error
    except ValueError as error:  # no UTF-8, a number of thousands of digits
        raise ResightError(f"is not valid JSON: {error}", where=where) from error


def read_json(path: str | os.PathLike[str], most: int = SMALL) -> Any:
    """Raises ResightError as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, most), path)


def parse_toml(text: str, where: object = "") -> dict[str, Any]:
    """Raises ResightError: it is no TOML, or nested too deeply for any configuration."""
    if _LONG_KEY.search(text):  # the parser keeps every beginning of a dotted key
        raise ResightError(f"is nested more than {_MAX_DEPTH} deep", where=where)
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise ResightError("is not valid TOML: it is nested too deeply", where=where) from error
    except ValueError as error:  # of TOML, and absurd numbers
        raise ResightError(f"is not valid TOML: {error}", where=where) from error
    check_tree(tree, where)
    return tree


def check_tree(tree: Any, where: object = "") -> None:
    """Raises ResightError: mappings and lists in ``tree`` are nested more deeply than a configuration can be, or it
    holds an integer of hundreds of digits."""
    level = [tree]
    for _ in range(_MAX_DEPTH):
        if any(isinstance(one, int) and abs(one) >> 1000 for one in level):
            raise ResightError("holds an integer of hundreds of digits", where=where)
        branches = [one for one in level if isinstance(one, dict | list)]
        level = [inner for one in branches for inner in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return
    raise ResightError(f"is nested more than {_MAX_DEPTH} deep", where=where)


def read_xml(path: str | os.PathLike[str], most: int = SMALL) -> Element:
    """The root element of an XML. Raises ResightError as :func:`read_file`, or where it is no XML, with the line."""
    from xml.etree import ElementTree

    data = read_file(path, most)
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise ResightError(f"is not valid XML: {error}", where=f"{path}:{line}:{column}") from error
    except (ValueError, LookupError) as error:  # of an encoding that is none
        raise ResightError(f"is not valid XML: {error}", where=path) from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Raises ResightError: as :func:`read_text`; it is no YAML (with the line), is nested too deeply, or its aliases
    and merge keys stand for too much."""
    import yaml

    text = read_text(path, TEXT)
    try:
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, path)
        return loader.construct_document(node)
    except ResightError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ResightError(f"is not valid YAML: {getattr(error, 'problem', None) or error}", where=where) from error
    except RecursionError as error:
        raise ResightError("is not valid YAML: it is nested too deeply", where=path) from error
    except Exception as error:  # dates that do not exist, tags on what they do not fit: its constructors raise anything
        raise ResightError(f"is not valid YAML: {type(error).__name__}: {error}", where=path) from error


def _check_nodes(root: Node, where: object) -> None:
    """Refuses a tree whose nodes, with all that aliases repeat, are too many or too deep: values would be copied as
    often by merge keys, and printed as often."""
    expanded: dict[int, tuple[int, int]] = {}  # of a node: how many nodes it stands for, and their depth

    def measure(node: Node, depth: int) -> tuple[int, int]:
        if id(node) in expanded:
            return expanded[id(node)]
        expanded[id(node)] = (_MAX_NODES, 0)  # for one that holds itself
        count, deepest = 1 + len(node.value) // 16, 0  # a long text counts for more
        if isinstance(node.value, list) and depth <= _MAX_DEPTH:
            for entry in node.value:
                for inner in entry if isinstance(entry, tuple) else (entry,):
                    more, below = measure(inner, depth + 1)
                    count, deepest = count + more, max(deepest, below)
        expanded[id(node)] = found = (count, deepest + 1)
        return found

    count, deepest = measure(root, 0)
    if deepest > _MAX_DEPTH:
        raise ResightError(f"is nested more than {_MAX_DEPTH} deep", where=where)
    if count > _MAX_NODES:
        fix = "Write out what its aliases (*name) and merge keys (<<) stand for, as far as it is needed."
        raise ResightError(f"stands for more than {_MAX_NODES:,} values", where=where, fix=fix)


def _bytes(count: int) -> str:
    return f"{count >> 30} GB" if count >= 1 << 30 else f"{count >> 20} MB"


def cache_folder() -> str:
    """Where what can be made again is kept: `RESIGHT_CACHE`, else the user's cache folder; with the temporary files for
    a user that has no home, as a number without a name in a container."""
    home = os.path.expanduser("~")  # left as it is where there is none
    home = home if os.path.isabs(home) else tempfile.gettempdir()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.environ.get("RESIGHT_CACHE") or os.path.join(base, "resight")
