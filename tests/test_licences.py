import sys
from importlib import metadata

import pytest

from licences import is_copyleft, main, package, requirements


@pytest.mark.parametrize(
    ("licence", "copyleft"),
    [
        ("MIT", False),
        ("GPL-2.0-or-later", True),
        ("AGPL-3.0", True),
        ("gpl-3.0", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("GNU Affero General Public License v3", True),
        ("MIT AND GPL-3.0-only", True),
        ("LGPL-3.0-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Public Domain OR BSD License OR GNU General Public License (GPL)", False),
        ("LGPL-3.0-or-later OR GPL-2.0-or-later", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", False),
    ],
)
def test_the_gpl_is_told_from_what_is_like_it(licence, copyleft):
    assert is_copyleft(licence) is copyleft


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install("name", "licence", "file", ...)``: a distribution that can be imported from."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def make(name, licence, *files, requires=()):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", "Version: 1.0", f"License-Expression: {licence}"]
        lines += [f"Requires-Dist: {one}" for one in requires]
        (folder / "METADATA").write_text("Metadata-Version: 2.4\n" + "\n".join(lines) + "\n")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))

    return make


def test_a_wheel_is_judged_by_what_it_holds_too(install):
    install("mild", "MIT", "mild.libs/libx265-0a1b2c.so.209", "mild.libs/libgfortran-1f.so.5", "mild/core.abi3.so")
    found = package(metadata.distribution("mild"))
    assert (found.licence, list(found.bundled)) == ("MIT", ["gfortran", "x265"])
    assert found.copyleft == ["x265 (GPL-2.0-or-later)"]


def test_only_an_extra_that_says_so_may_bring_it(install, tmp_path, capsys):
    install("indirect", "MIT", requires=["strong; extra == 'more'", "absent; extra == 'other'"])
    install("strong", "GPL-3.0-only")
    project = tmp_path / "pyproject.toml"

    def judged(core, **extras):
        lines = [f"{name} = {asked}" for name, asked in extras.items()]
        project.write_text(f"[project]\ndependencies = {core}\n[project.optional-dependencies]\n" + "\n".join(lines))
        return main(project), capsys.readouterr().out

    assert judged(["indirect"])[0] == judged(["indirect"], video=["strong"])[0] == 0
    assert judged([], video=["strong"], zoo=["strong"])[0] == 1  # whichever is looked at first
    code, told = judged([], onnx=["indirect[more]"], video=["resight[onnx]"])
    assert code == 1 and "'onnx' brings strong (GPL-3.0-only) with strong" in told
    assert judged(["indirect"], onnx=["indirect[more]"])[0] == 1  # though it was looked at without the extra
    assert judged(["strong"])[0] == 1


def test_every_extra_is_looked_at():
    assert {"", "onnx", "s3", "tensorflow", "dev"} <= requirements().keys()
