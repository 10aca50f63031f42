"""Files that are no ONNX model of ours, and devices. What one of ours finds is in the tests of the exports."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from resight.errors import ResightError
from resight.inference.detector import load
from resight.inference.onnx_runtime import CPU, CUDA


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


class PretendedRuntime:
    """ONNX Runtime with its provider for CUDA, which works or not."""

    SessionOptions = SimpleNamespace

    def __init__(self, works, available=(CUDA, CPU)):
        self.works, self.available, self.asked, self.seen = works, available, [], []

    def get_available_providers(self):
        return list(self.available)

    def preload_dlls(self):
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, model, options, providers, enable_fallback):
        names = [one if isinstance(one, str) else one[0] for one in providers]
        self.asked = providers
        noted = SimpleNamespace(custom_metadata_map={"resight": json.dumps({"classes": ["stop"], "score": None})})
        outputs = [SimpleNamespace(name=name) for name in ("boxes", "scores", "labels")]
        return SimpleNamespace(
            get_providers=lambda: names if self.works else [CPU],
            get_modelmeta=lambda: noted,
            get_outputs=lambda: outputs,
            run=lambda names, given: (
                self.seen.append(given["image"].shape)
                or (np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
            ),
        )


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """``runtime(works)``: what is imported as ONNX Runtime."""
    (tmp_path / "model.onnx").touch()

    def make(*given):
        made = PretendedRuntime(*given)
        monkeypatch.setitem(sys.modules, "onnxruntime", made)
        return made

    return make


@pytest.mark.parametrize(("device", "number"), [("auto", "0"), ("cuda", "0"), ("cuda:1", "1")])
def test_a_gpu_runs_the_model_where_onnx_runtime_has_cuda(runtime, tmp_path, capsys, device, number):
    made = runtime(True)
    detector = load(tmp_path / "model.onnx", device)
    (name, options), fallback = made.asked
    assert (name, options["device_id"], fallback) == (CUDA, number, CPU) and detector.on_gpu
    found = detector([np.zeros((side, 8, 3), np.uint8) for side in (8, 9, 8)])  # it takes one image at a time
    assert [(len(one), one.height) for one in found] == [(1, 8), (1, 9), (1, 8)]
    assert made.seen == [(1, 8, 8, 3), (1, 9, 8, 3), (1, 8, 8, 3)] and capsys.readouterr().out == ""


def test_its_use_is_not_reported_unless_the_user_says_so(runtime, tmp_path, monkeypatch):
    runtime(True)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    load(tmp_path / "model.onnx")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    load(tmp_path / "model.onnx")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_the_cpu_runs_it_where_it_is_asked_for_or_alone_there(runtime, tmp_path):
    for made, device in ((runtime(True), "cpu"), (runtime(True, (CPU,)), "auto")):
        sys.modules["onnxruntime"] = made
        assert not load(tmp_path / "model.onnx", device).on_gpu and made.asked == [CPU]


def test_a_gpu_that_cannot_be_used_is_told(runtime, tmp_path, caplog):
    runtime(False)
    assert not load(tmp_path / "model.onnx").on_gpu
    assert "cannot use a GPU here" in caplog.text and "the CPU is used" in caplog.text
    with pytest.raises(ResightError, match=r"^cuda:0: .*cannot use a GPU here") as caught:
        load(tmp_path / "model.onnx", "cuda:0")
    assert "onnxruntime-gpu" in caught.value.fix
    runtime(True, (CPU,))
    with pytest.raises(ResightError, match=r"^cuda: .*without CUDA") as caught:
        load(tmp_path / "model.onnx", "cuda")
    assert "onnxruntime-gpu" in caught.value.fix
    with pytest.raises(ResightError, match="there is no device 'gpu' here"):
        load(tmp_path / "model.onnx", "gpu")


def test_an_exported_model_keeps_its_arithmetic(runtime, tmp_path):
    runtime(True, (CPU,))
    detector = load(tmp_path / "model.onnx")
    detector.set_precision("float32")
    with pytest.raises(ResightError, match="computes in float32") as caught:
        detector.set_precision("bfloat16")
    assert caught.value.fix
