"""``resight doctor``: is the installation whole, and what can this machine do?"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from packaging.requirements import Requirement

from ..config import defaults
from ..errors import ResightError
from ..io.cores import core_count

GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "warning", "broken"]
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.state != "broken" for finding in self.findings)

    def text(self) -> str:
        """One line a finding, and the verdict."""
        width = max(len(finding.what) for finding in self.findings)
        lines = [f"{f.state:<8} {f.what:<{width}}  {f.detail}" for f in self.findings]
        return "\n".join([*lines, "", "Everything works." if self.ok else "Something is broken; see above."])

    def json(self) -> dict[str, Any]:
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def examine(device: str = "auto") -> Diagnosis:
    """Versions, devices, a forward and a backward step on ``device``, disk and shared memory."""
    python = Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    findings = [python, *_packages()]
    checks: dict[str, Callable[[], Finding]] = {
        "checksums": _checksums,
        "devices": _devices,
        "training step": lambda: _step(device),
        "disk, here": lambda: _disk("disk, here", "."),
        "disk, temporary": lambda: _disk("disk, temporary", tempfile.gettempdir()),
        "shared memory": _shared_memory,
    }
    for what, check in checks.items():
        try:
            findings.append(check())
        except ResightError as error:
            findings.append(Finding(what, "broken", str(error).replace("\n  ", ". ")))
        except Exception as error:  # a broken installation raises anything at all, and that is the finding
            findings.append(Finding(what, "broken", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    return Diagnosis(tuple(findings))


def _packages() -> list[Finding]:
    """Every package that the installation asks for: there, and in the range asked for?"""
    try:
        wanted = [Requirement(text) for text in metadata.requires("resight") or ()]
        extras = metadata.metadata("resight").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return [Finding("resight", "warning", "runs from its source folder and is not installed: pip install -e .")]
    core = [item for item in wanted if not item.marker or item.marker.evaluate({"extra": ""})]
    found = [_package(item) for item in core]
    for extra in (name for name in extras if name != "dev"):
        own = [item for item in wanted if item not in core and item.marker and item.marker.evaluate({"extra": extra})]
        if any(_version(item.name) is None for item in own):
            found.append(Finding(f"extra {extra}", "ok", f"not installed: pip install 'resight[{extra}]' adds it"))
        else:
            found += [_package(item) for item in own]
    return found


def _package(wanted: Requirement) -> Finding:
    if (version := _version(wanted.name)) is None:
        return Finding(wanted.name, "broken", f"not installed: pip install '{wanted.name}{wanted.specifier}'")
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding(wanted.name, "broken", f"{version}, but {wanted.specifier} is needed")
    return Finding(wanted.name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _checksums() -> Finding:
    import google_crc32c

    if google_crc32c.implementation == "c":
        return Finding("checksums", "ok", "CRC32C in C")
    return Finding("checksums", "warning", "CRC32C in Python only: reading records will be slow")


def _devices() -> Finding:
    import torch

    found = [f"cpu ({core_count()} cores, {torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} ({properties.name}, {properties.total_memory / GB:.0f} GB)")
    return Finding("devices", "ok", ", ".join(found))


def _step(device: str) -> Finding:
    """Detects and learns once with the default model, its packaged weights included."""
    import torch

    from ..dialect import model_config
    from ..fpn.pretrained import load_pretrained
    from ..input.target import Target
    from ..models.build import build_model, device_of

    target_device = device_of(device)
    model = build_model(model_config({"min_size": 64, "max_size": 64}), num_classes=1)
    source = load_pretrained(model, defaults.MODEL)
    model.to(target_device)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    truth = Target(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([0]), torch.tensor([False]))
    start = time.monotonic()
    with torch.inference_mode():
        model.eval()([image.to(target_device)])
    losses = model.train()([image.to(target_device)], [truth])
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    if not all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients):
        return Finding("training step", "broken", f"gradients on {target_device} are missing or not finite")
    seconds = time.monotonic() - start
    return Finding("training step", "ok", f"forward and backward on {target_device}, {source}, {seconds:.1f} s")


def _disk(what: str, folder: str) -> Finding:
    where = os.path.abspath(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"resight")
    except OSError as error:
        return Finding(what, "broken", f"cannot write to {where}: {error.strerror}")
    free = shutil.disk_usage(folder).free
    return Finding(what, "warning" if free < 2 * GB else "ok", f"{free / GB:.1f} GB free in {where}")


def _shared_memory() -> Finding:
    import torch

    torch.zeros(2_000_000).share_memory_()  # 8 MB, as a loader worker hands over
    if not os.path.isdir("/dev/shm"):
        return Finding("shared memory", "ok", "works")
    free = shutil.disk_usage("/dev/shm").free
    if free < 0.2 * GB:
        hint = "give a container more (--shm-size=2g) or train with --set data.workers=0"
        return Finding("shared memory", "warning", f"only {free / 1e6:.0f} MB free: {hint}")
    return Finding("shared memory", "ok", f"{free / GB:.1f} GB free")
