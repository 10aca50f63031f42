"""Files that are no ONNX model of ours. What one of ours finds is in the tests of the exports."""

from pathlib import Path

import onnx
import pytest

from resight.errors import ResightError
from resight.inference.detector import load


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 40])
def test_files_that_are_no_onnx_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ResightError, match=r"bad\.onnx"):
        load(path)


def test_another_programs_onnx_is_refused_by_name(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> other (float[1] x) => (float[1] y) { y = Identity (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "other.onnx")
    with pytest.raises(ResightError, match="none that Resight exported"):
        load(tmp_path / "other.onnx")
