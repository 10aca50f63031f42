"""Scripts that train, with and without the `if` that keeps their import from training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resight
from resight.dialect import load_config
from resight.errors import ResightError
from resight.training.train import train

IMPORT = "from resight.training.main_guard import check_main_guard"
CALL = "check_main_guard(1); print('goes on')"
TOLD = "import this script"


def run(folder: Path, script: str, *words: str) -> str:
    """What ``script`` says; the check is the first thing that `train` does."""
    (folder / "script.py").write_text(f"{IMPORT}\n{script}")
    environment = os.environ | {"PYTHONPATH": str(Path(resight.__file__).parents[1])}
    command = [sys.executable, *(words or ["script.py"])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "script", [CALL, f"def work():\n    {CALL}\n\nwork()\n", f"try:\n    {CALL}\nfinally:\n    pass\n"], ids=str
)
def test_a_script_without_a_main_guard_is_told_so_before_the_work(tmp_path, script):
    said = run(tmp_path, script)
    assert TOLD in said and 'under `if __name__ == "__main__":`' in said and "script.py:" in said
    assert "goes on" not in said.splitlines()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"if __name__ == '__main__':\n    {CALL}\n", ()),
        (f"def work():\n    {CALL}\n\nif __name__ == '__main__':\n    work()\n", ()),
        (f"import sys\nif __name__ != '__main__':\n    sys.exit()\n{CALL}\n", ()),
        (CALL.replace("1", "0"), ()),  # no process is started
        ("", ("-c", f"{IMPORT}; {CALL}")),
    ],
    ids=str,
)
def test_any_other_script_goes_on(tmp_path, script, words):
    assert run(tmp_path, script, *words) == "goes on\n"


def test_the_main_of_a_package_needs_no_guard(tmp_path):
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__main__.py").write_text(f"{IMPORT}\n{CALL}\n")
    assert run(tmp_path, "", "-m", "tool") == "goes on\n"


def test_a_process_that_imports_the_script_does_not_train(tmp_path):
    script = (
        "import multiprocessing, os\n"
        "if __name__ != '__main__':\n"
        f"    {CALL}\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=os.getpid)\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    said = run(tmp_path, script)
    assert TOLD in said and "goes on" not in said.splitlines()


def test_train_looks_for_the_guard_before_anything_else(monkeypatch):
    def refuse(starts_processes):
        raise ResightError(f"starts {starts_processes}")

    monkeypatch.setattr("resight.training.train.check_main_guard", refuse)
    with pytest.raises(ResightError, match="starts 1"):
        train(load_config())
