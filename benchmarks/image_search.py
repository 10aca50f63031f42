"""How fast the images that annotations name are found: 100,000 files, names of 200 characters, nothing decoded.

    python benchmarks/image_search.py

Prints the seconds in which a table of one row an image is read, whose names are exact, differ from the files' in one
way, or are none of theirs; then those of a few rows whose names are 100,000 characters long.
"""

from __future__ import annotations

import os
import tempfile
import time
import unicodedata
from collections.abc import Callable

from resight.datasets.formats import read_source

FILES, LENGTH = 100_000, 200
HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def file_name(at: int) -> str:
    folder = f"images/{at % 100:02}/"
    return f"{folder}{f'{at:06}_é_'.ljust(LENGTH - len(folder) - 4, 'x')}.jpg"


WAYS: dict[str, Callable[[str], str]] = {
    "exact": str,
    "without suffix": lambda name: name[:-4],
    "another suffix": lambda name: f"{name[:-4]}.png",
    "another case": str.upper,
    "another Unicode form": lambda name: unicodedata.normalize("NFD", name),
    "percent-encoded": lambda name: name.replace("é", "%C3%A9"),
    "another machine's path": lambda name: "C:\\Users\\somebody\\set\\" + name.replace("/", "\\"),
    "without folders": os.path.basename,
    "missing": lambda name: name.replace("_", "-"),
}


def seconds(root: str, names: list[str]) -> str:
    with open(f"{root}/labels.csv", "w", encoding="utf-8") as file:
        file.write(HEADER + "".join(f"{name},,,stop,1,2,30,40\n" for name in names))
    start, cpu = time.perf_counter(), time.process_time()
    source = read_source(root)
    spent = f"{time.perf_counter() - start:5.2f} s, {time.process_time() - cpu:5.2f} s of one core"
    found = sum(os.path.isfile(str(annotation.image)) for annotation in source.annotations)
    return f"{spent}, {found:,} of {len(names):,} found"


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        names = [file_name(at) for at in range(FILES)]
        for at, name in enumerate(names):
            os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True) if at < 100 else None
            open(f"{root}/{name}", "w").close()
        for way, change in WAYS.items():
            print(f"{way:<24}{seconds(root, [change(name) for name in names])}", flush=True)
        deep = "/a" * (FILES // 2)
        print(f"{'100,000 characters':<24}{seconds(root, [f'{deep}/{at}.jpg' for at in range(10)])}")


if __name__ == "__main__":
    main()
