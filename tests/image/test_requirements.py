"""What the image installs before the wheel is what the wheel asks for."""

import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = ROOT / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
requirements = runpy.run_path(str(ROOT / "image" / "requirements.py"))["requirements"]


def test_extras_are_added_to_the_dependencies():
    assert requirements(PYPROJECT, []) == sorted(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    expected = {*PROJECT["dependencies"], *extras["s3"], *extras["onnx"]}
    assert requirements(PYPROJECT, ["onnx", "s3"]) == sorted(expected)


def test_an_extra_of_extras_brings_theirs():
    told = requirements(PYPROJECT, ["dev"])
    assert {*PROJECT["optional-dependencies"]["s3"], *PROJECT["optional-dependencies"]["onnx"]} <= set(told)
    assert not [line for line in told if line.startswith("resight")]


def test_an_extra_that_is_not_there_is_an_error_that_lists_them():
    with pytest.raises(SystemExit, match=r"no extra 'cuda'.*onnx, openvino, s3"):
        requirements(PYPROJECT, ["cuda"])


def test_torch_can_be_installed_first():
    """The Dockerfile takes these two lines from an index of their own."""
    first = [line for line in requirements(PYPROJECT, []) if line.startswith(("torch>", "torchvision>"))]
    assert len(first) == 2
