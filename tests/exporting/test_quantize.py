"""A network in 8 bits: what is quantised and what is not, which layers stay in float, and what is not written."""

import numpy as np
import pytest

from fixtures.records import annotations
from resight.detection.parity import Parity
from resight.errors import ResightError
from resight.exporting import quantize as module
from resight.exporting.export import export
from resight.exporting.quantize import BETWEEN, WEIGHTED, Quantized, groups, quantize
from resight.exporting.trial import Trial
from resight.inference.exported import OPENVINO
from resight.inference.openvino_runtime import compiled, load_openvino, openvino
from resight.label_map import LabelMap
from resight.records.writer import write_records_folder


def chain(weights, more=0):
    """A network of two layers, ``backbone.conv1`` and ``rpn.conv``, with ``weights`` of 1x1 convolutions, behind which
    it goes on for ``more`` steps."""
    opset = openvino().opset13
    given = value = opset.parameter([1, 4, 8, 8], np.float32, name="batch")
    for name, weight in zip(("backbone.conv1/0", "rpn.conv/0"), weights, strict=True):
        kernel = opset.constant(np.asarray(weight, np.float32)[:, :, None, None])
        value = opset.convolution(value, kernel, [1, 1], [0, 0], [0, 0], [1, 1], name=name)
    for _ in range(more):
        value = opset.sqrt(value)
    return openvino().Model([opset.result(value)], [given], "chain")


def test_the_layer_that_breaks_stays_in_float():
    """The first layer makes one channel much larger than the others, and the second looks at those alone."""
    body = chain([np.diag([90.0, 1, 1, 1]), np.ones((4, 4)) - np.eye(4)[0]])
    draw = np.random.default_rng(0)
    feeds = [{"batch": draw.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(4)]
    answers = [compiled(body)(feed)[0] for feed in feeds]

    def right(model):
        run = compiled(model)
        apart = [np.abs(run(feed)[0] - answer).mean() for feed, answer in zip(feeds, answers, strict=True)]
        return float(1 - np.mean(apart) / np.abs(answers).mean())

    found = quantize(body, feeds, right, 0.9)
    assert found.in_float == ("rpn",) and found.ap >= 0.9
    assert quantize(body, feeds, right, 0.0).in_float == ()
    assert quantize(body, feeds, lambda model: min(right(model), 0.5), 0.6).ap <= 0.5  # the best there is


def test_only_layers_with_weights_and_what_is_between_are_quantised(openvino_export):
    folder, _ = openvino_export
    exported = load_openvino(folder / OPENVINO)
    body = module._folded(openvino().Core().read_model(folder / OPENVINO))
    feeds = [exported.prepare(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))]
    quantised = module._quantized(body, feeds, ("backbone.conv4", "predictor"), compressed=False)
    weights, followers = {}, set()
    for node in quantised.get_ops():
        if node.get_type_name() == "FakeQuantize":
            takers = [place.get_node() for place in node.output(0).get_target_inputs()]
            followers |= {taker.get_type_name() for taker in takers}
            if node.input_value(0).get_node().get_type_name() == "Constant":
                weights |= {taker.get_friendly_name(): tuple(node.input_value(1).get_shape()) for taker in takers}
    allowed = {*WEIGHTED, *BETWEEN, "ShapeOf"}  # no decoding of boxes, suppression, pooling or softmax
    assert followers <= allowed, followers
    layers = groups(body)
    assert set(layers) == {*(f"backbone.conv{i}" for i in range(1, 5)), "rpn", "head", "predictor"}
    assert set(weights) == {name for group in layers for name in layers[group]} - {
        *layers["backbone.conv4"],
        *layers["predictor"],
    }
    assert all(max(shape) > 1 for shape in weights.values())  # a scale a channel


def test_what_a_constant_is_asked_for_stays_in_float():
    """Anchors, which are constants, at places that the network works out: coordinates have more than 8 bits."""
    opset = openvino().opset13
    body = chain([np.eye(4)] * 2)
    (given,), (result,) = body.get_parameters(), body.get_results()
    layer = result.input_value(0)
    places = opset.convert(opset.reshape(layer, [-1], special_zero=False), np.int64)
    anchors = opset.gather(np.arange(400, dtype=np.float32), places, np.int64(0), name="anchors")
    body = openvino().Model([opset.result(anchors)], [given], "anchors")
    assert "anchors" in module._left_alone(body, ())


def test_networks_may_be_deep():
    body = chain([np.eye(4)] * 2, more=1_500)
    assert groups(module._folded(body)) == {"backbone.conv1": ["backbone.conv1/0"], "rpn": ["rpn.conv/0"]}


def test_names_of_both_dialects_make_groups():
    layers = {
        "backbone.body.blocks.1.0.conv_pw/node": "backbone.blocks.1",
        "backbone.body.layer3.2.conv1/node": "backbone.layer3",
        "backbone.conv4.11.conv2": "backbone.conv4",
        "backbone.fpn.inner_blocks.0.0/node": "backbone.fpn",
        "roi_heads.box_head.fc6/node/WithoutBiases": "box_head",
        "roi_heads.cascade.0.box_head.fc6/node": "cascade.0.box_head",
        "head.conv5.0.conv1": "head",
        "predictor.box": "predictor",
    }
    assert [module._group_of(layer) for layer in layers] == list(layers.values())


@pytest.fixture
def records(tmp_path):
    labels = LabelMap.from_names(["yield", "stop", "go"])
    write_records_folder({"train": annotations(3), "val": annotations(3, 3)}, tmp_path / "records", labels)
    return tmp_path / "records"


@pytest.fixture
def measured(monkeypatch):
    """Nothing is compiled, compared or quantised, and mAP falls from .5 to .49 by it."""
    monkeypatch.setattr(Trial, "ap", lambda *_: 0.5)
    monkeypatch.setattr(Trial, "milliseconds", lambda *_: [20.0, 10.0])
    monkeypatch.setattr(module, "quantize", lambda body, *_: Quantized(body, 0.49, ("rpn",)))
    monkeypatch.setattr("resight.exporting.export.compare", lambda *_: Parity(1))
    monkeypatch.setattr("resight.inference.openvino_runtime.OpenVinoDetector.use", lambda *_: None)


@pytest.mark.usefixtures("measured", "few_pictures")
def test_beyond_the_loss_nothing_is_written(tfod_checkpoint, records, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ResightError, match=r"0\.4950 and has less: .*0\.4900 in int8; 20 ms.*rpn") as caught:
        export(tfod_checkpoint(), "openvino", out, precision="int8", data=records)
    assert caught.value.exit_code == 1 and not out.exists()


@pytest.mark.usefixtures("measured")
def test_fewer_proposals_and_int8_have_one_budget(openvino_export, records):
    folder, checkpoint = openvino_export
    exported, trial = load_openvino(folder / OPENVINO), Trial(checkpoint, records, 0.012)
    body = openvino().Core().read_model(folder / OPENVINO)
    found, text = module.int8(body, exported, trial, None)
    assert found.ap == 0.49 and "20 ms an image and 10 ms" in text and "rpn" in text
    with pytest.raises(ResightError, match=r"0\.4930"):
        module.int8(body, exported, trial, 0.505)  # what the model had with all of its proposals


def test_int8_is_for_openvino_and_needs_records(tfod_checkpoint, tmp_path):
    with pytest.raises(ResightError, match="OpenVINO alone"):
        export(tfod_checkpoint(), "onnx", tmp_path / "m.onnx", precision="int8")
    with pytest.raises(ResightError, match="--data RECORDS"):
        export(tfod_checkpoint(), "openvino", tmp_path / "m", precision="int8")
