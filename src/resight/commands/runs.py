"""``resight runs``: what was trained, side by side, from what the run folders hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..arguments import check_types
from ..config.toml_text import flat
from ..errors import ResightError, counted, listed, reading
from ..io.files import LARGE, SMALL, check_regular, parse_json, parse_toml, read_text
from ..io.object_store import is_remote
from ..io.terminal import WIDTH, wrapped

T = TypeVar("T")
WATCHED = ("mAP", "AP50")
MAX_VALUE = 30  # characters, of a value of a configuration
_MARKS = ("config.toml", "metrics.jsonl", "checkpoints")


def read_runs(folder: str | os.PathLike[str] = "runs") -> list[dict[str, Any]]:
    """The runs in ``folder``, or the one run it is, ordered by name.

    Returns:
        For each: ``path, model, size, data, batch_size, seed, device, steps, minutes, memory_gb, usd, checkpoint``
        ("best", "last" or ""), ``watched`` (best numbers during training), ``measured`` (of ``resight evaluate`` on
        "test"), ``config`` (all values by their keys) and ``problems`` (files that could not be read). What a half-made
        run does not have is None or empty.

    Raises:
        ResightError: the folder does not exist, or holds no run.
    """
    check_types(locals(), read_runs)
    if is_remote(folder):
        raise ResightError("is in a store, and only local folders of runs are compared", where=folder)
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise ResightError("expected a folder of runs, found a file", where=root)
    if not root.is_dir():
        raise ResightError("there is no such folder", where=root, fix="resight train --data RECORDS makes a run.")
    with reading(root):
        children = sorted(child for child in root.iterdir() if child.is_dir())
    found = [root] if _is_run(root) else [child for child in children if _is_run(child)]
    if not found:
        raise ResightError("holds no run", where=root, fix="resight train --data RECORDS -o RUN makes one.")
    return [_read_run(path) for path in found]


def runs_table(runs: Sequence[dict[str, Any]], width: int = WIDTH) -> str:
    """One line a run, "-" where a run does not say, of ``width`` characters: the first columns that there is room for;
    then what all runs have in common, and what differs in their configurations."""
    rows = [
        {
            "run": _name(run),
            "steps": _cell(run["steps"]),
            "minutes": _cell(run["minutes"], 1),
            **{key: _cell(run["watched"].get(key)) for key in WATCHED},
            **{f"test {key}": _cell(run["measured"].get(key)) for key in WATCHED},
            "saved": run["checkpoint"] or "none",
            "GB": _cell(run["memory_gb"], 1),
            **({"USD": _cell(run["usd"], 2)} if any(one["usd"] for one in runs) else {}),
        }
        for run in runs
    ]
    columns = list(rows[0])
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    widths["run"] = min(widths["run"], max(width // 3, 10))
    shown: list[str] = []
    for column in columns:
        if sum(widths[name] + 2 for name in shown) + widths[column] <= width:
            shown.append(column)
    heads = [{column: column for column in columns}, *rows]
    lines = ["  ".join(_cut(row[name], widths[name]).ljust(widths[name]) for name in shown).rstrip() for row in heads]
    notes = ["mAP, AP50: best in validation; test: by resight evaluate on the test split"]
    for fact in ("model", "size", "data"):
        if len(values := {_cell(run[fact]) for run in runs}) == 1 and values != {"-"}:
            notes.append(f"{fact}: {values.pop()}")
    if left_out := [column for column in columns if column not in shown]:
        notes.append(f"not shown: {listed(left_out)} (--json has everything)")
    problems = [f"{run['path']}: {problem}" for run in runs for problem in run["problems"]]
    return "\n".join([*lines, "", wrapped("\n".join([*notes, *_differences(runs)]), width), *problems])


def _name(run: dict[str, Any]) -> str:
    return os.path.basename(run["path"]) or run["path"]


def _cut(text: str, width: int) -> str:
    """The end of a text tells more than its beginning."""
    return text if len(text) <= width else "…" + text[1 - width :]


def _differences(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each key that is not the same in all runs, with the runs that have each of its values."""
    told = [run for run in runs if run["config"]]
    lines = []
    for key in dict.fromkeys(key for run in told for key in run["config"]):
        of_value: dict[str, list[str]] = {}
        for run in told:
            value = run["config"].get(key)
            said = "default" if value is None else _cut(str(value), MAX_VALUE)
            of_value.setdefault(said, []).append(_cut(_name(run), 24))
        if len(of_value) > 1:
            lines.append(f"  {key}: " + "; ".join(f"{v} in {listed(names, 5)}" for v, names in of_value.items()))
    return ["", "What differs in their configurations:", *lines] if lines else []


def best_run(runs: Sequence[dict[str, Any]]) -> str:
    """Path of the run with the best watched mAP among those that have a checkpoint, or ""."""
    usable = [run for run in runs if run["checkpoint"]]
    return max(usable, key=lambda run: run["watched"].get("mAP") or 0.0)["path"] if usable else ""


def _is_run(path: Path) -> bool:
    return any((path / mark).exists() for mark in _MARKS)


def _read_run(path: Path) -> dict[str, Any]:
    problems: list[str] = []
    config = _parsed(path / "config.toml", parse_toml, dict, problems)
    environment = _parsed(path / "environment.json", parse_json, dict, problems)
    record = _parsed(path / "run.json", parse_json, dict, problems)
    measured = _parsed(path / "evaluation" / "metrics.json", parse_json, dict, problems)
    if measured.get("split") != "test":  # the latest evaluation may be of another split
        measured = {}
    lines = _lines(path / "metrics.jsonl", problems)
    lines += [_state(path / "checkpoints" / f"{name}.safetensors", problems) for name in ("best", "last")]
    model, training, data = (
        table if isinstance(table := config.get(key), dict) else {} for key in ("model", "train", "data")
    )
    checkpoints = [name for name in ("best", "last") if (path / "checkpoints" / f"{name}.safetensors").is_file()]
    return {
        "path": str(path),
        "model": model.get("name"),
        "size": f"{model.get('min_size')},{model.get('max_size')}" if "min_size" in model else None,
        "data": data.get("path") or None,
        "batch_size": training.get("batch_size"),
        "seed": training.get("seed"),
        "device": environment.get("device"),
        "steps": _most(lines, "step"),
        "minutes": None if (seconds := _most(lines, "seconds")) is None else round(seconds / 60, 1),
        "memory_gb": _most(lines, "memory_gb"),
        "usd": _most([record], "usd"),
        "checkpoint": checkpoints[0] if checkpoints else "",
        "watched": {key: value for key in WATCHED if (value := _most(lines, key)) is not None},
        "measured": {key: measured.get(key) for key in WATCHED if _is_number(measured.get(key))},
        "config": flat(config),
        "problems": problems,
    }


def _state(path: Path, problems: list[str]) -> dict[str, Any]:
    """What a checkpoint notes of its training, step and seconds among it: metrics.jsonl has not a line for each."""
    if not os.path.lexists(path):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="numpy") as file:
            state = parse_json((file.metadata() or {}).get("resight", "null"))["state"]
        return {key: state.get(key) for key in ("step", "seconds")}
    except (ResightError, SafetensorError, OSError, LookupError, TypeError, AttributeError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}


def _parsed(path: Path, parse: Callable[[str], Any], kind: type[T], problems: list[str], most: int = SMALL) -> T:
    """What a file holds if it is of that kind; else, and where there is no such file, an empty one."""
    value = None
    try:
        value = parse(read_text(path, most)) if os.path.lexists(path) else None
    except ResightError as error:
        problems.append(f"{path.name}: {error.message}")
    return value if isinstance(value, kind) else kind()


def _lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    lines, damaged = [], 0
    for text in _parsed(path, str.splitlines, list, problems, LARGE):
        try:
            lines.append(parse_json(text))
        except ResightError:
            damaged += 1
    if damaged:
        problems.append(f"{path.name}: {counted(damaged, 'line')} cannot be read")
    return [line for line in lines if isinstance(line, dict)]


def _most(lines: Sequence[dict[str, Any]], key: str) -> float | None:
    return max((line[key] for line in lines if _is_number(line.get(key))), default=None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _cell(value: object, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
