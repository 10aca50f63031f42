"""A SavedModel is a model: its detections, its classes, and what it needs."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resight.errors import ResightError
from resight.exporting.export import export
from resight.exporting.pictures import probe_images
from resight.inference.detector import load
from resight.label_map import LabelMap, to_pbtxt

IMAGE = probe_images()[0]


def test_a_saved_model_is_a_model(tfod_export, tmp_path):
    detector = load(tfod_export / "saved_model")
    assert detector.classes == ("stop", "yield", "merge") and detector.score == 0.25
    found = detector(IMAGE, score=0.0)
    assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64
    for change in ({"iou": 0.3}, {"class_agnostic": True}):
        with pytest.raises(ResightError, match="NMS"):
            detector.set_nms(**change)
    with pytest.raises(ResightError, match="already"):
        export(tfod_export / "saved_model", "onnx", tmp_path / "twice.onnx")
    whole = load(tfod_export)  # the same, in PyTorch
    assert (whole.classes, whole.score, whole.most.image) == (detector.classes, 0.25, detector.most.image)


def test_prediction_imports_neither_pytorch_nor_tensorflows_python_and_has_the_threads_asked_for(tfod_export, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    code = """
import sys
sys.modules |= {"torch": None, "torchvision": None, "tensorflow.python": None}
import os
from resight.commands.predict import predict
from resight.inference.detector import load
before = len(os.listdir("/proc/self/task"))
detector = load(sys.argv[1], threads=9)
detector([sys.argv[2]])
assert len(os.listdir("/proc/self/task")) >= before + 9
assert predict(sys.argv[1], [sys.argv[2]], sys.argv[3]).result["images"][0]["detections"]
"""
    given = [tfod_export / "saved_model", tmp_path / "image.png", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", code, *given], check=True)


def test_the_names_of_classes_go_by_id(tfod_export, tmp_path):
    (tmp_path / "saved_model").symlink_to(tfod_export / "saved_model")  # alone, as TFOD leaves it
    assert load(tmp_path / "saved_model").classes == ("class 1", "class 2", "class 3")
    gaps = 'item { id: 3 name: "merge" } item { id: 1 name: "stop" }'
    (tmp_path / "map.pbtxt").write_text(gaps)
    assert load(tmp_path, labels=tmp_path / "map.pbtxt").classes == ("stop", "class 2", "merge")
    (tmp_path / "map.pbtxt").write_text(to_pbtxt(LabelMap.from_names("abcd")))
    with pytest.raises(ResightError, match="the id 4, the model 3 classes"):
        load(tmp_path, labels=tmp_path / "map.pbtxt")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 40])
def test_what_is_no_saved_model(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ResightError, match=str(tmp_path)):
        load(tmp_path)
