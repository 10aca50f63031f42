"""What the image leaves out of an installation, and what it compiles."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

SLIM = Path(__file__).parents[2] / "image" / "slim.py"


def test_modules_stay_and_are_compiled_for_good(tmp_path):
    """A copy of the modules with other times, as an image's layer can be, uses what was compiled here."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("kept.py", "kept.pyi", "package/__init__.py", "package/tests/test_it.py", "package/testing/used.py",
                 "package/include/a.h", "grpc/__init__.py", "grpcio-1.0.dist-info/METADATA", "markdown_it/__init__.py",
                 "werkzeug/tests/a.py", "onnx/backend/test/data.pb", "onnx/backend/base.py"):  # fmt: skip
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("value = 1\n")
    runpy.run_path(str(SLIM))["slim"](tmp_path)
    left = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert left == {
        "kept.py", "package/__init__.py", "package/testing/used.py", "markdown_it/__init__.py", "onnx/backend/base.py"
    }  # fmt: skip
    compiled = Path(importlib.util.cache_from_source(str(site / "kept.py")))
    os.utime(site / "kept.py", (1, 1))
    before = compiled.read_bytes()
    assert before[4:8] == b"\1\0\0\0"  # by hash, and the source is not looked at (PEP 552)
    done = subprocess.run([sys.executable, "-c", "import kept"], cwd=site, capture_output=True, timeout=60)
    assert (done.returncode, compiled.read_bytes()) == (0, before)
