"""What pyproject.toml asks for, a line each: ``python requirements.py pyproject.toml s3,onnx > requirements.txt``.

The image installs these before the wheel, in a layer of their own that a change of the source leaves as it is.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The dependencies of the project and of ``extras``; an extra that names others brings theirs."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    found = list(project["dependencies"])
    waiting = list(extras)
    while waiting:
        extra = waiting.pop()
        if extra not in optional:
            raise SystemExit(f"error: there is no extra '{extra}'; there are {', '.join(sorted(optional))}")
        for line in optional[extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
            if own:
                waiting += re.split(r"\s*,\s*", own[1])
            else:
                found.append(line)
    return sorted(set(found))


if __name__ == "__main__":
    wanted = [name for name in re.split(r"[,\s]+", sys.argv[2]) if name]
    print("\n".join(requirements(Path(sys.argv[1]), wanted)))
