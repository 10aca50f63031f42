"""Runs an image as Docker, Podman or Buildah do, behind one pair of calls.

``buildah run`` neither passes signals on nor mounts a root file system for reading, so with Buildah the container is
made here: its files mounted by ``buildah mount``, in mount and process namespaces of its own, the command process 1.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """How a container is run: ``mounts`` maps a folder of the container to one here, ":ro" at its end for reading."""

    user: str = "1000:1000"
    mounts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = True
    entrypoint: str = ""


def output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Docker:
    """Docker, and Podman, whose command line is the same."""

    def __init__(self, engine: str, image: str) -> None:
        self.engine, self.image = engine, image
        told = json.loads(output(engine, "image", "inspect", image))[0]["Config"]
        self.config: dict[str, Any] = {name: told.get(name) for name in ("User", "Entrypoint", "Env", "Labels")}
        self._names: dict[int, str] = {}

    def start(self, run: Run, *arguments: str) -> subprocess.Popen[str]:
        name = f"resight-check-{os.getpid()}-{time.monotonic_ns()}"
        options = ["--name", name, "--rm", "--user", run.user, "--network", "none", "--shm-size", "1g"]
        if run.read_only:
            # Podman would mount /tmp for writing.
            options += ["--read-only", *(["--read-only-tmpfs=false"] if Path(self.engine).name == "podman" else [])]
        options += ["--entrypoint", run.entrypoint] if run.entrypoint else []
        for there, here in run.mounts.items():
            options += ["--volume", f"{here.removesuffix(':ro')}:{there}{':ro' * here.endswith(':ro')}"]
        for key, value in run.environment.items():
            options += ["--env", f"{key}={value}"]
        process = subprocess.Popen(
            [self.engine, "run", *options, self.image, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._names[process.pid] = name
        return process

    def terminate(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM to process 1, as a stop of the container begins."""
        subprocess.run([self.engine, "kill", "--signal", "TERM", self._names[process.pid]], check=True)

    def close(self) -> None:
        pass


# Arguments: root, rw or ro, uid, gid, then "here there mode" of each mount, "--", and the command with its environment.
_CONTAINER = """
set -e
root=$1 mode=$2 user=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777,size=1g tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
done
shift
if [ "$mode" = ro ]; then mount -o remount,bind,ro "$root"; fi
exec chroot --userspec="$user" --groups="" "$root" /usr/bin/env -i -C "$@"
"""


class Buildah:
    """By root, where no engine runs."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.config: dict[str, Any] = json.loads(output("buildah", "inspect", "--type", "image", image))["Docker"][
            "config"
        ]
        self.container = output("buildah", "from", "--pull-never", image)
        self.root = output("buildah", "mount", self.container)

    def start(self, run: Run, *arguments: str) -> subprocess.Popen[str]:
        mounts = [
            word
            for there, here in run.mounts.items()
            for word in (here.removesuffix(":ro"), there, "ro" if here.endswith(":ro") else "rw")
        ]
        variables = [*self.config["Env"], *(f"{key}={value}" for key, value in run.environment.items())]
        verb = [run.entrypoint] if run.entrypoint else self.config["Entrypoint"]
        shell = ["sh", "-c", _CONTAINER, "sh", self.root, "ro" if run.read_only else "rw", run.user, *mounts, "--"]
        inside = [self.config["WorkingDir"], *variables, *verb, *arguments]
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", *shell, *inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminate(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM to process 1 of the container, which is the only child of ``unshare``."""
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)

    def close(self) -> None:
        subprocess.run(["buildah", "rm", self.container], check=True, stdout=subprocess.DEVNULL)


def engine(name: str, image: str) -> Docker | Buildah:
    return Buildah(image) if Path(name).name == "buildah" else Docker(name, image)
