"""What OpenVINO computes is what the model computes, at any size, and also where that is nothing."""

import pytest

from resight.errors import ResightError
from resight.exporting.compare import compare
from resight.exporting.export import export
from resight.exporting.openvino import openvino_body, write_openvino
from resight.exporting.pictures import probe_images
from resight.inference.detector import load
from resight.inference.openvino_runtime import load_openvino, stages_of

VARIANTS = [
    {"pad": False, "share_boxes": True, "matmul_crop": True},
    {"min_size": 80, "fixed_size": (128, 80), "crop_size": 9, "pool_size": 3, "pool_stride": 1},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_the_folder_computes_what_the_model_computes(tfod_checkpoint, tmp_path, options):
    detector = load(tfod_checkpoint(**options))
    body = openvino_body(detector)
    write_openvino(body, detector, tmp_path)
    exported = load_openvino(tmp_path / "model.xml", stages=stages_of(body))
    parity = compare(detector, exported, probe_images()[3:])
    assert parity.ok and parity.detections >= 60, parity.text()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.bin").symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not write its files, with"):
        write_openvino(body, detector, tmp_path / "full")


@pytest.mark.usefixtures("few_pictures")
def test_a_threshold_that_leaves_nothing(tfod_checkpoint, tmp_path):
    report = export(tfod_checkpoint(score=0.9999), "openvino", tmp_path / "out")
    assert report.ok and report.parity.detections == 0 and report.parity.proposals >= 50, report.text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.bin", "model.xml"]


def test_only_an_earlier_export_is_replaced(openvino_export, tmp_path):
    folder, checkpoint = openvino_export
    with pytest.raises(ResightError, match="--force"):
        export(checkpoint, "openvino", folder)
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(ResightError, match="did not write"):
        export(checkpoint, "openvino", tmp_path, force=True)
