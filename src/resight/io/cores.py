"""How many cores there are to share."""

import os
from contextlib import suppress
from pathlib import Path


def core_count(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: a container has all of the machine's, but perhaps not all of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (int(word) for word in limit.read_text().split())  # "max 100000" where there is none
        cores = min(cores, max(1, round(quota / period)))
    return cores
