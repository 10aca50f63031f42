"""The wheel holds the package and nothing else, and works without the checkout."""

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

import resight

ROOT = Path(__file__).parents[1]
# The demo as it is, with less of everything: scenes, pixels, steps, and the smallest model.
SMALL_DEMO = """
if __name__ == "__main__":
    import sys
    import resight
    from resight.commands import demo
    from resight.__main__ import main

    config, scenes = demo.demo_config, demo.make_scenes
    demo.make_scenes = lambda out, seed: scenes(out, seed=seed, videos=8, frames=1)
    demo.demo_config = lambda records, seed: resight.load_config(None, {
        "data.path": records, "data.workers": 0, "model.name": "test_efficientnet", "model.start": "none",
        "model.min_size": 64, "model.max_size": 96, "train.steps": 2, "train.batch_size": 2, "train.seed": seed})
    sys.modules["onnx"] = None  # the export has its own tests, and takes seconds
    print(resight.__file__)
    sys.argv = ["resight", "demo", "--out", "demo", "--seed", "0"]
    main()
"""


def build(source, out):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = Path(out).glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(once):
    return next(once("wheel", lambda folder: build(ROOT, folder)).glob("*.whl"))


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        assert file.testzip() is None
        names = [name for name in file.namelist() if not name.endswith("/")]
        assert len(names) == len(set(names))
        return {name: file.read(name) for name in names}


def info(contents, name):
    return contents[f"resight-{resight.__version__}.dist-info/{name}"]


def test_every_file_of_the_package_is_in_it_and_no_other(contents):
    package = ROOT / "src" / "resight"
    files = {
        f"resight/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    page = {f"resight/serving/page/{name}" for name in ("index.html", "page.css", "page.js")}
    assert {"resight/py.typed", "resight/cli/app.py", *page} <= files.keys()
    beside = f"resight-{resight.__version__}.dist-info/"
    assert {name: data for name, data in contents.items() if not name.startswith(beside)} == files


def test_a_file_of_data_would_be_in_it(tmp_path):
    """Whatever lies in the package is a part of it, whatever its suffix."""
    copy(tmp_path / "checkout")
    (tmp_path / "checkout" / "src" / "resight" / "scenes" / "more.yaml").write_text("a: 1\n")
    with zipfile.ZipFile(build(tmp_path / "checkout", tmp_path / "out")) as file:
        assert file.read("resight/scenes/more.yaml") == b"a: 1\n"


def test_its_metadata_are_valid_and_those_of_the_project(contents):
    told = Metadata.from_email(info(contents, "METADATA"), validate=True)
    assert (told.name, str(told.version)) == ("resight", resight.__version__)
    assert told.license_expression == "Apache-2.0"
    assert told.description_content_type == "text/markdown"
    assert told.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert info(contents, "licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "3.11" in told.requires_python and "3.10" not in told.requires_python
    # Every dependency has a range that it may be in, and no other version than the one it names.
    assert {Requirement("torch>=2.9"), Requirement("torchvision>=0.24")} <= set(told.requires_dist)
    assert not [wanted for wanted in told.requires_dist if wanted.url or "==" in str(wanted.specifier)]
    assert {"onnx", "s3", "dev"} <= set(told.provides_extra)
    kind = BytesParser().parsebytes(info(contents, "WHEEL"))
    assert (kind["Root-Is-Purelib"], kind["Tag"]) == ("true", "py3-none-any")


def test_it_has_the_command_and_the_hash_of_each_file(contents):
    assert "[console_scripts]\nresight = resight.__main__:main" in info(contents, "entry_points.txt").decode()
    record = f"resight-{resight.__version__}.dist-info/RECORD"
    listed = {name: (digest, size) for name, digest, size in csv.reader(io.StringIO(contents[record].decode()))}
    assert listed.pop(record) == ("", "")
    assert listed == {name: (sha256(data), str(len(data))) for name, data in contents.items() if name != record}


def sha256(data):
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"


def copy(checkout):
    """What a wheel is built of, in another place, with other times and modes."""
    shutil.copytree(
        ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, checkout)
    for path in (checkout / "src").rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1e9, 1e9))


def test_the_same_source_makes_the_same_bytes(wheel, tmp_path):
    copy(tmp_path / "checkout")
    again = build(tmp_path / "checkout", tmp_path / "out")
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


@pytest.fixture(scope="module")
def installed(once, wheel):
    """An environment with the wheel: of the one that runs the tests it has the dependencies, not the checkout."""

    def make(folder):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
        (site,) = (folder / "lib").glob("python*/site-packages")
        # A path in a .pth is searched, but what .pth files there say, as an editable install's, is not followed.
        others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (site / "dependencies.pth").write_text("\n".join(others) + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-index"]
        done = subprocess.run(
            [*pip, "--no-deps", "--ignore-installed", str(wheel)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    return once("installed", make)


def in_it(installed, folder, *command):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    kept |= {"HOME": str(folder), "RESIGHT_CACHE": str(folder / "cache")}
    command = [str(installed / "bin" / command[0]), *command[1:]]
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=300)


def test_the_installed_command_works(installed, tmp_path):
    done = in_it(installed, tmp_path, "resight", "--version")
    assert done.returncode == 0, done.stderr
    assert resight.__version__ in done.stdout


def test_the_demo_runs_from_the_wheel_alone(installed, tmp_path):
    (tmp_path / "small_demo.py").write_text(SMALL_DEMO)
    done = in_it(installed, tmp_path, "python", "-P", "small_demo.py")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(installed)
    # But for a folder whose name only begins like that of the clone.
    assert not re.search(rf"{re.escape(str(ROOT))}(?![\w-])", done.stdout + done.stderr)
    assert {"lisa", "records", "run", "found"} <= {path.name for path in (tmp_path / "demo").iterdir()}
    assert (tmp_path / "demo" / "run" / "checkpoints" / "best.safetensors").is_file()
    assert (tmp_path / "demo" / "run" / "evaluation" / "metrics.json").is_file()
