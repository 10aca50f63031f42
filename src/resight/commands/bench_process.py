"""A process in which ``resight bench`` times one model: nothing but that model takes memory in it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import ResightError
from ..inference.detector import load
from ..io.images import read_image


def main() -> None:
    """Reads one line, ``{"model", "device", "threads", "files"}``, and tells when the first image was looked at; then
    for each line that it is given, how long each image took. A line that it writes is one JSON object, and nothing
    else comes between: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        asked = json.loads(sys.stdin.readline())
        first = read_image(asked["files"][0])
        detector = load(asked["model"], asked["device"], threads=asked["threads"])
        detector.detect(first)
        tell({"engine": detector.engine})
        images = [first, *(read_image(file) for file in asked["files"][1:])]
        for _ in sys.stdin:
            seconds = []
            for image in images:
                start = time.perf_counter()
                detector.detect(image)
                seconds.append(time.perf_counter() - start)
            tell({"seconds": seconds, "memory_mb": _peak_memory()})
    except ResightError as error:
        tell({"error": {"message": error.message, "where": error.where, "fix": error.fix}})
    except KeyboardInterrupt:  # the one who asked was interrupted too
        pass


def _peak_memory() -> float:
    """Megabytes. Not getrusage's, which begins with what the parent had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
