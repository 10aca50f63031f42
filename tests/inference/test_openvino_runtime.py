"""A folder that OpenVINO reads is a detector."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from resight.errors import ResightError
from resight.exporting.pictures import probe_images
from resight.inference.detector import load


def test_it_finds_what_the_model_finds_at_any_size(openvino_export, caplog):
    folder, checkpoint = openvino_export
    own, exported = load(checkpoint), load(folder, "cuda:1")
    assert "runs on the CPU alone" in caplog.text
    with pytest.raises(ResightError, match="there is no device 'gpu' here"):
        load(folder, "gpu")
    assert (exported.classes, exported.score) == (own.classes, own.score)
    assert exported.name == str(folder) and exported.most == own.most
    for image in probe_images()[-2:]:
        found, wanted = exported.detect(image), own.detect(image)
        best = slice(None, 5)  # of the others NMS may keep another
        assert np.allclose(found.scores[best], wanted.scores[best], atol=1e-4)
        assert np.allclose(found.boxes[best], wanted.boxes[best], atol=0.01)
        assert (found.width, found.height) == (image.shape[1], image.shape[0])
    kinds = ("detection_", "raw_detection_", "num_detections")
    assert [name for name in exported.outputs(image) if not name.startswith(kinds)] == []  # and none of OpenVINO's


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "model.bin is missing"),
        (lambda folder: (folder / "model.xml").write_text("<net>"), "cannot be loaded by OpenVINO"),
        (lambda folder: _replaced(folder, "<resight ", "<another "), "none that Resight exported"),
        (lambda folder: _replaced(folder, "min_size", "smallest"), "network's input"),
        (lambda folder: _replaced(folder, "classes", "kinds"), "damaged"),
    ],
)
def test_a_damaged_one_is_refused(openvino_export, tmp_path, change, words):
    folder = shutil.copytree(openvino_export[0], tmp_path / "copy")
    change(folder)
    with pytest.raises(ResightError, match=words):
        load(folder)


def _replaced(folder, some, other):
    file = folder / "model.xml"
    file.write_text(file.read_text().replace(some, other))


def test_it_imports_no_pytorch_and_nothing_that_reports(openvino_export):
    code = (
        f"import sys, numpy, resight; found = resight.load({str(openvino_export[0])!r})(numpy.zeros((40, 60, 3), 'u1'))"
        "; print([name for name, module in sys.modules.items()"
        " if module and name.startswith(('torch', 'openvino_telemetry', 'onnx'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_without_openvino_it_says_what_to_install(openvino_export, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ResightError, match=r"resight\[openvino\]"):
        load(openvino_export[0])
