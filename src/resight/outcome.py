"""How a command ends: its exit codes, and the words for errors that are not ours."""

from __future__ import annotations

import tempfile

from .errors import ResightError

DONE, BAD, USAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143

# What an extra of the package installs, by the name that is imported.
_EXTRAS = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}

# How torch and the system tell, in a RuntimeError or an OSError, that the machine has not enough of something.
_OF_THE_WORKERS = (
    "dataloader worker (pid",  # killed, a bus error for want of shared memory, or gone
    "unable to open shared memory",
    "unable to allocate shared memory",
    "unable to write to file </torch_",
    "too many open files",
)
_OF_MEMORY = ("defaultcpuallocator", "cuda error: out of memory", "cannot allocate memory")


def exit_code_of(error: BaseException) -> int:
    """The exit code of a verb that ends with ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else USAGE
    known = hasattr(error, "format_message") or explained(error) is not None
    return getattr(error, "exit_code", USAGE) if known else BUG


def explained(error: BaseException) -> str | None:
    """The message for an error that is not our bug, else None; the option parser says its own."""
    if isinstance(error, ResightError):
        return str(error)
    if type(error).__name__ == "Abort":
        return "stopped"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("resight"):
        package = error.name.split(".")[0]
        extra = f"[{_EXTRAS[package]}]" if package in _EXTRAS else ""
        return f"the package '{package}' is not installed\n  pip install 'resight{extra}'"
    if shortage := _shortage(error):
        return shortage
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return None


def _shortage(error: BaseException) -> str | None:
    """The message where the machine, or what the process may have of it, does not suffice; else None."""
    first = next(iter(str(error).splitlines()), "no more to be had")
    said = str(error).lower()
    # Before memory: "unable to open shared memory object ... Cannot allocate memory" is of the workers.
    if isinstance(error, RuntimeError | OSError) and any(words in said for words in _OF_THE_WORKERS):
        return (
            f"the data cannot be loaded any further: {first}\n"
            "  The processes that load it ran out of memory, shared memory or open files. Try --set data.workers=0,\n"
            "  a larger /dev/shm (--shm-size=2g for a container), a smaller --batch, a higher limit of open files."
        )
    if isinstance(error, OSError) and "af_unix path too long" in said:  # Linux takes 107 bytes
        return f"{first}: there are sockets in {tempfile.gettempdir()}\n  Set TMPDIR to a shorter one."
    of_memory = isinstance(error, RuntimeError | OSError) and any(words in said for words in _OF_MEMORY)
    if of_memory or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {first}\n  Try a smaller --batch or --size, or leave more memory to this process."
    return None
