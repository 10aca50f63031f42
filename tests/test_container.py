"""What docs/container.md promises and needs no container to be seen: a training where only one place can be written."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from resight.io.files import cache_folder

# What Python sees of a uid that the image has no name for.
NAMELESS = """
import pwd
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
"""
SMALL = ["--model", "test_efficientnet", "--start", "none", "--size", "64,96", "--batch", "2", "--steps", "2"]


@pytest.fixture
def contained(tmp_path):
    """``contained(*arguments, **environment)``: resight in a process with the container's environment: the working
    folder is HOME, the user has no name, and no variable of this machine's is there but the place of the package."""
    (tmp_path / "nameless").mkdir()
    (tmp_path / "nameless" / "sitecustomize.py").write_text(NAMELESS)
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def run(*arguments, **environment):
        path = os.pathsep.join([str(tmp_path / "nameless"), str(Path(__file__).parents[1] / "src")])
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(workspace)}
        command = [sys.executable, "-m", "resight", *map(str, arguments)]
        return subprocess.run(
            command, cwd=workspace, env=given | environment, capture_output=True, text=True, timeout=120
        )

    run.workspace = workspace
    return run


def written(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_training_writes_into_its_output_and_the_cache_alone(contained, shapes, tmp_path):
    """HOME cannot be written, nor can what lies beside the records; a loader worker has its sockets in TMPDIR."""
    records = tmp_path / "records"
    records.symlink_to(shapes(train=4, val=2))
    before = written(records)
    workers = ["--set", "data.workers=1"]
    with TemporaryDirectory() as short:  # a socket's path has a hundred characters at most
        places = {"HOME": "/dev/null", "TMPDIR": short, "RESIGHT_CACHE": str(tmp_path / "cache")}
        done = contained("train", "--data", records, "--out", tmp_path / "run", "--resume", *SMALL, *workers, **places)
        assert done.returncode == 0, done.stderr
        assert written(contained.workspace) == written(short) == set()
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").is_file()
    assert written(records) - before <= {"records.index"}
    assert all(path.startswith("index/") for path in written(tmp_path / "cache"))


def test_a_user_without_name_and_home_keeps_the_cache_with_the_temporary_files(contained, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "RESIGHT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/elsewhere")
    assert cache_folder() == os.path.join("/elsewhere", ".cache", "resight")
