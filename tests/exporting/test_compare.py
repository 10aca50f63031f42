"""What is beyond the tolerance is not written. What is within is in the tests of the dialects."""

import numpy as np
import pytest

from resight.exporting import export as exporting
from resight.exporting.compare import compare
from resight.inference.detector import load
from resight.inference.exported import OPENVINO
from resight.inference.openvino_runtime import load_openvino, openvino, stages_of


@pytest.mark.usefixtures("few_pictures")
def test_what_differs_is_not_written(tfod_checkpoint, tmp_path, monkeypatch):
    real = exporting.write_onnx

    def wrong(detector, file):
        weights = {name: value.clone() for name, value in detector.model.state_dict().items()}
        detector.model.rpn.objectness.bias.data += 0.1 * detector.model.rpn.objectness.bias.data.new_tensor([0, 1] * 12)
        real(detector, file)
        detector.model.load_state_dict(weights)

    monkeypatch.setattr(exporting, "write_onnx", wrong)
    report = exporting.export(tfod_checkpoint(), "onnx", tmp_path / "model.onnx")
    assert not report.ok and "not written" in report.text() and "NOT equal" in report.text()
    assert set(report.engines) == {"ONNX Runtime", "OpenVINO"} and not list(tmp_path.iterdir())


def test_another_size_at_the_network_is_a_difference(openvino_export):
    folder, checkpoint = openvino_export
    stages = stages_of(openvino().Core().read_model(folder / OPENVINO))
    detector, exported = load(checkpoint), load_openvino(folder / OPENVINO, stages=stages)
    prepare = exported.prepare
    exported.prepare = lambda image: prepare(image[:40])
    assert not compare(detector, exported, [np.zeros((90, 70, 3), np.uint8)]).ok
