import sys

from resight.commands.demo import _export


def test_an_onnx_runtime_that_does_not_work_here_is_none(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnxruntime.so: wrong architecture')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert _export("run", tmp_path / "model.onnx") is None
