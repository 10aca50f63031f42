"""An exported model finds what the model finds, at any image size; also when that is nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from resight.config.most_detections import MostDetections
from resight.detection.onnx_graph import Builder
from resight.detection.parity import BOX_TOLERANCE, SCORE_TOLERANCE, Parity
from resight.errors import ResightError
from resight.exporting.compare import compare
from resight.exporting.export import export, write_onnx
from resight.exporting.pictures import probe_images
from resight.fpn.config import FpnModelConfig
from resight.fpn.onnx_export import _network_size
from resight.fpn.pretrained import load_pretrained
from resight.inference.detector import Detector, load
from resight.inference.onnx_runtime import load_onnx
from resight.inference.openvino_runtime import compiled, openvino
from resight.label_map import LabelMap
from resight.models.build import build_model
from resight.models.checkpoints import Checkpoint, ModelMetadata, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(once) -> Path:
    return once("onnx", make) / "some.safetensors"


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return checkpoint.with_name("some.onnx")


def make(folder: Path) -> None:
    """A model that was not trained, but whose scores and boxes spread so that there is something to compare."""
    torch.manual_seed(3)
    config = FpnModelConfig(min_size=128, max_size=224)
    model = build_model(config, 3)
    load_pretrained(model, config.name)
    with torch.no_grad():
        model.rpn.head.cls_logits.weight.mul_(30)
        model.rpn.head.bbox_pred.weight.mul_(5)
        for _, head in model.box_heads:
            head["box_predictor"].cls_score.weight.mul_(10)
            head["box_predictor"].bbox_pred.weight.mul_(3)
    card = ModelMetadata.of(model, config, LabelMap.from_names(["stop", "yield", "merge"]), 0.25)
    path = folder / "some.safetensors"
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(card, tensors, {}))
    report = export(path, "onnx", folder / "some.onnx")
    assert report.ok, report.text()
    assert report.parity.detections >= 50 and report.parity.images >= 6 and len(report.engines) == 2


def test_the_graph_has_the_names_types_and_metadata_that_are_promised(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    weighted = {node.name.partition("/")[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    layers = {
        "backbone.body.conv_stem",
        "backbone.fpn.inner_blocks.0.0",
        "rpn.head.cls_logits",
        "roi_heads.box_head.fc6",
    }
    assert layers <= weighted  # named by their modules
    (image,) = model.graph.input
    shape = image.type.tensor_type.shape.dim
    assert image.name == "image" and image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert (shape[0].dim_value, shape[3].dim_value) == (1, 3) and shape[1].dim_param and shape[2].dim_param
    assert [output.name for output in model.graph.output] == ["boxes", "scores", "labels"]
    meta = json.loads({prop.key: prop.value for prop in model.metadata_props}["resight"])
    assert meta["classes"] == ["stop", "yield", "merge"] and meta["score"] == 0.25
    assert meta["dialect"] == "fpn" and len(meta["digest"]) == 64


@pytest.mark.parametrize("size", [(200, 300), (256, 256), (480, 704), (99, 333), (700, 301), (120, 61)])
def test_detections_at_sizes_it_was_not_traced_with(checkpoint: Path, exported: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
    parity = compare(load(checkpoint), load_onnx(exported, stages=True), [image])
    assert parity.ok and parity.score <= SCORE_TOLERANCE / 5 and parity.box <= BOX_TOLERANCE / 100, parity.text()
    assert parity.detections >= 50 and parity.proposals >= 50


def test_boxes_stay_inside_a_tiny_image(exported: Path) -> None:
    found = load(exported).detect(np.zeros((31, 17, 3), np.uint8))
    assert (found.boxes >= 0).all() and (found.boxes <= [17.001, 31.001, 17.001, 31.001]).all()


def test_an_image_where_nothing_is_found(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    detector, model = load(checkpoint), onnx.load(exported)
    with torch.no_grad():
        for bias in (head["box_predictor"].cls_score.bias for _, head in detector.model.box_heads):
            (own,) = [one for one in model.graph.initializer if np.array_equal(onnx.numpy_helper.to_array(one), bias)]
            bias[0] += 1e4  # everything is background
            own.CopyFrom(onnx.numpy_helper.from_array(bias.numpy(), own.name))
    onnx.save_model(model, tmp_path / "blind.onnx")
    blind = load_onnx(tmp_path / "blind.onnx")
    found = blind.detect(probe_images()[0])
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)
    assert len(detector.detect(probe_images()[0])) == 0


def test_the_comparison_notices_an_error_in_each_head_and_no_rounding(
    checkpoint: Path, exported: Path, parities: Callable[..., dict[str, Parity]]
) -> None:
    images = [probe_images()[0][:160, :200], np.zeros((120, 160, 3), np.uint8)]
    found = parities(load(checkpoint), load_onnx(exported, stages=True), images)
    assert [name for name, parity in found.items() if parity.ok] == ["rounding"], found


@pytest.mark.soak
def test_a_cascade_is_compared_head_by_head(tmp_path: Path, parities: Callable[..., dict[str, Parity]]) -> None:
    torch.manual_seed(3)
    config = FpnModelConfig(name="resnet10t", start="none", min_size=96, max_size=160, heads=3)
    model = build_model(config, 3).eval()
    with torch.no_grad():
        for _, head in model.box_heads:
            head["box_predictor"].cls_score.weight.mul_(10)
    detector = Detector.of(
        model, ModelMetadata.of(model, config, LabelMap.from_names(["stop", "yield", "merge"])), torch.device("cpu")
    )
    write_onnx(detector, tmp_path / "cascade.onnx")
    weighted = {node.name.partition("/")[0] for node in onnx.load(tmp_path / "cascade.onnx").graph.node}
    assert {f"{head}.box_head.fc6" for head in ("roi_heads", "roi_heads.cascade.0", "roi_heads.cascade.1")} <= weighted
    found = parities(detector, load_onnx(tmp_path / "cascade.onnx", stages=True), [probe_images()[0][:160, :200]])
    assert len(found) == 9 and [name for name, parity in found.items() if parity.ok] == ["rounding"], found


def test_the_comparison_notices_another_rule(checkpoint: Path, exported: Path) -> None:
    other, model = load(checkpoint), load_onnx(exported, stages=True)
    limits = other.model.config
    for change in (
        {"nms_iou": 0.4},
        {"rpn_nms_iou": 0.6},
        {"rpn_post_nms_top_n": (1, 299)},
        {"detections": 99},
    ):
        other.model.config = replace(limits, **change)
        assert not compare(other, model, probe_images()[:1]).ok, change


def test_an_order_that_the_last_digit_decides_is_no_difference(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    changed, other, image = onnx.load(exported), load(checkpoint), probe_images()[0][:160, :200]
    (weight,) = (each for each in changed.graph.initializer if each.name.endswith("cls_logits.weight"))
    values = onnx.numpy_helper.to_array(weight) * np.float32(1e-7)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(changed, tmp_path / "undecided.onnx")
    with torch.no_grad():
        other.model.rpn.head.cls_logits.weight.mul_(-1e-7)  # the opposite order
    undecided = load_onnx(tmp_path / "undecided.onnx", stages=True)
    assert compare(other, undecided, [image, np.zeros_like(image)]).ok
    found, wanted = undecided.detect_whole(image), other.detect_whole(image)
    assert len(found) != len(wanted) or np.abs(found.boxes - wanted.boxes).max() > 1


def test_an_export_is_a_model(exported: Path) -> None:
    detector = load(exported)
    assert detector.classes == ("stop", "yield", "merge") and detector.score == 0.25
    found = detector(probe_images()[1], score=0.0)
    assert (
        found.boxes.dtype == np.float32 and found.labels.dtype == np.int64 and (found.width, found.height) == (704, 480)
    )
    with pytest.raises(ResightError, match="NMS"):
        detector.set_nms(0.3)
    with pytest.raises(ResightError, match="already"):
        export(exported, "onnx", exported.with_name("twice.onnx"))


def test_an_existing_file_is_kept_unless_forced(checkpoint: Path, exported: Path) -> None:
    before = exported.read_bytes()
    with pytest.raises(ResightError, match="--force"):
        export(checkpoint, "onnx", exported)
    assert exported.read_bytes() == before


def test_the_most_detections_of_the_graph_are_not_exceeded(exported: Path) -> None:
    assert load(exported).most.image == 100 == len(load(exported).detect(probe_images()[1]))
    with pytest.raises(ResightError, match="--detections 300"):
        load(exported, detections=300)


@pytest.mark.soak
def test_more_detections_are_in_the_graph(checkpoint: Path, tmp_path: Path) -> None:
    detector = load(checkpoint, detections=300)
    write_onnx(detector, tmp_path / "many.onnx")
    many, image = load(tmp_path / "many.onnx"), probe_images()[1]
    assert many.most.image == 300 and 100 < len(many.detect(image)) == len(detector.detect(image))


def test_an_export_of_a_version_without_the_number_of_detections_has_100(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    card = json.loads(next(prop.value for prop in model.metadata_props if prop.key == "resight"))
    del card["detections"]
    onnx.helper.set_model_props(model, {"resight": json.dumps(card)})
    onnx.save_model(model, tmp_path / "earlier.onnx")
    assert load(tmp_path / "earlier.onnx").most == MostDetections(100, 100)


def test_every_engine_comes_to_the_size_that_python_comes_to() -> None:
    """Also where rounding falls below a whole number, which one in 60 sizes does."""
    builder = Builder()
    size = builder("Identity", _network_size(builder, "sides", 384, 640))
    sides, found = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [2]) for name in ("sides", size))
    graph = onnx.helper.make_graph(builder.nodes, "size", [sides], [found], builder.constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    request = compiled(openvino().Core().read_model(model.SerializeToString())).create_infer_request()
    draw = np.random.default_rng(0)
    rounded = [side for side in range(1, 2000) if int(side * (384 / side)) < 384]
    cases = [*draw.integers(1, 5000, (300, 2)), *(np.array([side, int(side * draw.uniform(1, 2))]) for side in rounded)]
    for case in cases:
        wanted = [int(case[i] * min(384 / case.min(), 640 / case.max())) for i in range(2)]
        assert session.run(None, {"sides": case})[0].tolist() == wanted
        assert request.infer({"sides": case})[0].tolist() == wanted
