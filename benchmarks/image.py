"""What takes space in the container image, and how much later a training in it begins.

    python benchmarks/image.py ENGINE IMAGE [PAIRS]

A training of one step of the smallest model is timed as a whole, in the container and as this Python's own command, in
turns; so this Python should have the image's packages. With Buildah, ``buildah run`` by root.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

import resight

# Inside of the image: the bytes of every file, by the first of these that its path begins with.
SIZES = """
import os, sys
parts, seen = {}, set()
site = "/opt/resight/lib/python3.11/site-packages/"
torch = ("torch", "torchgen", "functorch", "nvidia", "triton", "cuda")
required = ("torchvision", "sympy", "mpmath", "networkx", "jinja2", "markupsafe")
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev", "/workspace")]
    for name in files:
        path = os.path.join(folder, name)
        try:
            stat = os.lstat(path)
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        package = path.removeprefix(site).split("/")[0].split("-")[0].split(".")[0] if path.startswith(site) else ""
        part = ("PyTorch" if package in torch else "torchvision, and what PyTorch requires" if package in required
                else "Resight" if package == "resight" else "other packages" if path.startswith("/opt/")
                else "Debian and Python")
        parts[part] = parts.get(part, 0) + stat.st_size
for part, size in sorted(parts.items(), key=lambda item: -item[1]):
    print(f"{size / 1e6:8.1f} MB  {part}")
print(f"{sum(parts.values()) / 1e6:8.1f} MB  whole")
rest = sum(size for part, size in parts.items() if "PyTorch" not in part)
print(f"{rest / 1e6:8.1f} MB  without PyTorch and what it requires")
"""
STEP = ["--model", "test_efficientnet", "--start", "none", "--size", "64,96", "--batch", "2", "--steps", "1"]


@contextmanager
def runs(engine: str, image: str, folder: Path) -> Iterator[Callable[[str], list[str]]]:
    """The words before a command in the image, by root, with ``folder`` as the working folder."""
    volume = ["--volume", f"{folder}:/workspace", "--user", "0:0"]
    if Path(engine).name != "buildah":
        yield lambda entrypoint: [engine, "run", "--rm", *volume, "--entrypoint", entrypoint, image]
        return
    container = subprocess.run([engine, "from", "--pull-never", image], check=True, capture_output=True, text=True)
    name = container.stdout.strip()
    try:
        yield lambda entrypoint: [engine, "run", *volume, name, "--", entrypoint]
    finally:
        subprocess.run([engine, "rm", name], check=True, capture_output=True)


def make_records(folder: Path) -> None:
    annotations = []
    for number in range(8):
        file = folder / f"{number}.png"
        Image.effect_noise((96, 64), 40).convert("RGB").save(file)
        annotations.append(
            resight.Annotation(str(file), boxes=[resight.Box("sign", 10, 10, 40, 40)], group=str(number))
        )
    resight.write_records(annotations, str(folder / "records"), split="group", test_fraction=0.25, val_fraction=0)


def seconds(command: list[str], folder: Path) -> float:
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - began


def main(engine: str, image: str, pairs: str = "5") -> None:
    with tempfile.TemporaryDirectory() as name, runs(engine, image, Path(name)) as inside:
        folder = Path(name)
        print(subprocess.run([*inside("python"), "-c", SIZES], check=True, capture_output=True, text=True).stdout)
        make_records(folder)
        times: dict[str, list[float]] = {"container": [], "plain": []}
        for number in range(1 + int(pairs)):  # the first is not counted: it warms the page cache
            for kind, command in (("container", inside("resight")), ("plain", [sys.executable, "-m", "resight"])):
                took = seconds([*command, "train", "--data", "records", "--out", f"{kind}-{number}", *STEP], folder)
                times[kind] += [took] if number else []
    later = [one - other for one, other in zip(times["container"], times["plain"], strict=True)]
    for kind, taken in times.items():
        print(f"{kind:<10} {statistics.median(taken):6.2f} s  of {', '.join(f'{one:.2f}' for one in taken)}")
    print(f"difference {statistics.median(later):6.2f} s  from {min(later):.2f} to {max(later):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
