"""The ONNX of a TFOD model has TFOD's outputs, and finds what the model finds at any image size."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from resight.exporting.compare import compare
from resight.exporting.export import export
from resight.exporting.pictures import probe_images
from resight.inference.detector import load
from resight.inference.onnx_runtime import load_onnx

OUTPUTS = {
    "detection_anchor_indices": (1, 30),
    "detection_boxes": (1, 30, 4),
    "detection_classes": (1, 30),
    "detection_multiclass_scores": (1, 30, 4),
    "detection_scores": (1, 30),
    "num_detections": (1,),
    "raw_detection_boxes": (1, 40, 4),
    "raw_detection_scores": (1, 40, 4),
}
IMAGES = [image for image in probe_images() if image.shape[0] < 400 and image.any()]
# The native crop is 0 where the last bit of a box puts its last sample beyond the map, and that bit is the machine's.
# It shows with boxes that end at the border of the input: not where that is padding.
VARIANTS = {
    "padded": {"pad_value": (90.0, 100.0, 110.0)},
    "unpadded, boxes shared, crops as for a TPU of one sample": {
        "pad": False, "share_boxes": True, "matmul_crop": True, "crop_size": 1, "pool_size": 1, "pool_stride": 1,
    },
    "one size, other crops and anchors": {
        "min_size": 80, "fixed_size": (128, 80), "crop_size": 9, "pool_size": 3, "pool_stride": 1,
        "anchor_ratios": (0.4, 1.0), "anchor_offset": (8.0, 4.0), "anchor_stride": (16, 12), "matmul_crop": True,
    },
}  # fmt: skip


@pytest.fixture
def exported(tfod_checkpoint, tfod_onnx):
    """``exported(pad=False, ...)``: a model with these options, and the file of its graph."""
    return lambda **options: (load(tfod_checkpoint(**options)), tfod_onnx(**options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_output_is_the_models_own(exported, variant):
    detector, path = exported(**VARIANTS[variant])
    parity = compare(detector, load_onnx(path, stages=True), probe_images())
    assert parity.ok and parity.detections >= 100 and parity.score <= 1e-4 and parity.box <= 0.001, parity.text()
    model = detector.model
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {output.name: tuple(output.shape) for output in session.get_outputs()} == OUTPUTS
    for image in IMAGES:
        found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": image[None]}), strict=True))
        with torch.inference_mode():
            own = model.outputs(torch.from_numpy(image).permute(2, 0, 1))
        assert found["num_detections"] == own.num_detections.numpy()
        # Any proposal may change its place with one of the same score, and with it the order of detections.
        for name in ("detection_scores", "raw_detection_scores", "detection_multiclass_scores"):
            ours, theirs = found[name].reshape(-1), getattr(own, name).numpy().reshape(-1)
            assert np.allclose(np.sort(ours), np.sort(theirs), atol=1e-4)
        for name, values in found.items():
            assert values.dtype == np.float32 and values.shape == OUTPUTS[name]
            behind = values[0, int(found["num_detections"][0]) :] if name.startswith("detection_") else np.zeros(1)
            assert (behind == (name == "detection_classes")).all()


def test_the_metadata_says_what_it_is(exported):
    own, path = exported(**VARIANTS["padded"])
    model = onnx.load(path)
    onnx.checker.check_model(model)
    (image,) = model.graph.input
    assert image.name == "image" and image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    meta = json.loads({prop.key: prop.value for prop in model.metadata_props}["resight"])
    assert meta["dialect"] == "tfod" and meta["classes"] == ["stop", "yield", "merge"] and meta["score"] == 0.25
    found = load(path).detect(IMAGES[0])
    assert found.labels.dtype == np.int64 and found.names == own.detect(IMAGES[0]).names


@pytest.mark.usefixtures("few_pictures")
def test_a_threshold_that_leaves_nothing(tfod_checkpoint, tmp_path):
    path = tfod_checkpoint(score=0.9999)
    report = export(path, "onnx", tmp_path / "model.onnx")
    assert report.ok and report.parity.detections == 0 and report.parity.proposals >= 50, report.text()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(VARIANTS["padded"], marks=pytest.mark.soak, id="padded"),
        pytest.param({"pad": False}, id="unpadded"),
    ],
)
def test_the_comparison_notices_an_error_in_each_head_and_no_rounding(exported, parities, options):
    detector, path = exported(**options)
    found = parities(detector, load_onnx(path, stages=True), [IMAGES[-1], np.zeros((120, 160, 3), np.uint8)])
    assert [name for name, parity in found.items() if parity.ok] == ["rounding"], found


def test_the_comparison_notices_another_rule_and_not_an_order_that_the_last_digit_decides(exported, tmp_path):
    (detector, path), image = exported(pad=False), IMAGES[-1]
    changed, objectness = onnx.load(path), detector.model.rpn.objectness.weight
    (own,) = (one for one in changed.graph.initializer if list(one.dims) == list(objectness.shape))
    values = onnx.numpy_helper.to_array(own)
    assert np.array_equal(values, objectness.detach().numpy())
    own.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1e-7), own.name))
    onnx.save(changed, tmp_path / "undecided.onnx")
    with torch.no_grad():
        objectness.mul_(-1e-7)  # the opposite order
    undecided = load_onnx(tmp_path / "undecided.onnx", stages=True)
    assert compare(detector, undecided, [image, np.zeros_like(image)]).ok
    found, wanted = undecided.detect_whole(image), detector.detect_whole(image)
    assert len(found) != len(wanted) or np.abs(found.boxes - wanted.boxes).max() > 1
    limits = detector.model.tfod
    for change in ({"nms_iou": 0.5}, {"rpn_nms_iou": 0.6}, {"detections": 29}, {"proposals": 39}, {"score": 0.5}):
        detector.model.tfod = limits.model_copy(update=change)
        assert compare(detector, undecided, [image]).wrong, change
