import json
from importlib import metadata

import pytest

from resight.commands import doctor


@pytest.fixture(scope="module")
def healthy():
    return doctor.examine("cpu")


def state(diagnosis, what):
    return {finding.what: finding.state for finding in diagnosis.findings}[what]


def test_a_healthy_machine_makes_a_training_step(healthy):
    (step,) = [finding for finding in healthy.findings if finding.what == "training step"]
    assert (step.state, healthy.ok) == ("ok", True)
    assert "cpu" in step.detail and "ImageNet" in step.detail
    assert healthy.text().endswith("Everything works.")
    assert json.loads(json.dumps(healthy.json()))["ok"] is True


def test_a_device_that_is_not_there_is_broken_and_the_rest_is_still_told():
    diagnosis = doctor.examine("cuda:77")
    assert (state(diagnosis, "training step"), diagnosis.ok) == ("broken", False)
    assert state(diagnosis, "shared memory") == "ok"
    assert "Something is broken" in diagnosis.text()


@pytest.mark.parametrize(("version", "expected"), [("99.0", "ok"), ("1.0", "broken"), (None, "broken")])
def test_packages_are_there_and_in_range(monkeypatch, version, expected):
    def installed(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.9", 'onnx>=1.17; extra == "onnx"'])
    monkeypatch.setattr(metadata, "metadata", lambda name: MetadataStandIn())
    found = {finding.what: finding for finding in doctor._packages()}
    assert found["torch"].state == expected
    if version is None:  # an extra that nobody asked for is not broken
        assert found["extra onnx"].state == "ok" and "resight[onnx]" in found["extra onnx"].detail


class MetadataStandIn:
    def get_all(self, key):
        return ["onnx", "dev"]


def test_a_folder_that_cannot_be_written_is_broken(tmp_path):
    assert doctor._disk("disk", str(tmp_path)).state in ("ok", "warning")
    assert doctor._disk("disk", str(tmp_path / "none")).state == "broken"
