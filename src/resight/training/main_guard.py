"""A script that trains is imported by the processes that load its data, and must not train a second time then."""

from __future__ import annotations

import ast
import inspect
import sys
import traceback
from types import FrameType

from ..errors import ResightError


def check_main_guard(starts_processes: object) -> None:
    """Raises ResightError: a script calls this while it is imported by a process of its own, or will when the processes
    are started that ``starts_processes`` tells of, as no ``if`` of the script keeps it from that."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    for frame, _ in traceback.walk_stack(inspect.currentframe()):
        if frame.f_code.co_name != "<module>":
            continue
        imported = frame.f_globals.get("__name__") == "__mp_main__"
        # What runs as a package's __main__ is not imported by its processes.
        runs = frame.f_globals is vars(main) and (spec is None or spec.name.split(".")[-1] != "__main__")
        if imported or (starts_processes and runs and not _is_guarded(frame)):
            message = "worker processes re-import this script, and each would start the training again"
            fix = 'Put the call under `if __name__ == "__main__":`, or set data.workers = 0.'
            raise ResightError(message, where=f"{frame.f_code.co_filename}:{frame.f_lineno}", fix=fix)


def _is_guarded(frame: FrameType) -> bool:
    """Whether some ``if`` stands at or before the running line; true where there is no source, as in a notebook."""
    try:
        tree = ast.parse(inspect.getsource(frame))
    except (OSError, SyntaxError):
        return True
    return any(isinstance(statement, ast.If) and statement.lineno <= frame.f_lineno for statement in tree.body)
