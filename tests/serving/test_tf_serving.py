"""Clients of TensorFlow Serving notice no difference."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fixtures.serving import CASES, INPUT_TYPES, PIXELS, assert_answered, encoded, picture, request_of
from resight.serving.answer import answer, describe
from resight.serving.request import Request, Response, Route, Version
from resight.serving.routes import route
from resight.serving.servable import Servable

ROOT = Path(__file__).parents[2]


def ask(servable, body, headers=(), path="/v1/models/signs:predict"):
    return answer(servable, Request(route("POST", path), body, dict(headers)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_the_answer_is_that_of_tensorflow_serving(servable, case):
    model = servable(INPUT_TYPES[case.get("model", "image")])
    method, target, headers, body = request_of(case)
    found = route(method, target)
    if isinstance(found, Route):
        if found.to_model:
            found = answer(model, Request(found, body, headers))
        else:
            found = describe(found, "signs", [Version(1, signature=model.signature)])
    assert_answered(case, found.status, found.body, model.signature)
    assert found.media_type == ("text/html" if found.status == 404 and "text" in case else "application/json")


def test_it_is_that_over_http_and_what_the_page_shows_works(servable, start_server, tfod_onnx, tmp_path, monkeypatch):
    server = start_server(tfod_onnx(pad=False), "--name", "signs", "--workers", "1", real=True)
    signature = servable().signature
    once = ("instances pixels", "inputs named pixels", "gzip body")  # of what is found
    others = ("outside v1", "b64 for pixel model")  # a page is there; encoded images are taken, too
    for case in CASES:
        own = case.get("model", "image") == "image" and case["case"] not in others
        if own and (case.get("status") != 200 or "model" not in case or case["case"] in once):
            method, target, headers, body = request_of(case)
            status, told, answered = server.ask(method, target, body, headers)
            assert_answered(case, status, answered, signature)
            assert told["Content-Type"] == "application/json"
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(picture(40, 60)))
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL)
    rows, tensors = (run_example(text.replace("127.0.0.1:8501", f"127.0.0.1:{server.port}")) for text in examples)
    boxes = {output["name"]: output["data"] for output in tensors["outputs"]}["detection_boxes"]
    assert rows["num_detections"] > 5 and np.ravel(rows["detection_boxes"]).tolist() == boxes


def run_example(text):
    names = {}
    exec(text, names)
    return names["found"]


def test_the_numbers_are_those_of_the_model(servable):
    image = picture(40, 60)
    model = servable()
    wanted = model.detector.outputs(image)
    found = ask(model, json.dumps({"inputs": [image.tolist()]}).encode())
    rows = ask(model, json.dumps({"instances": [{"input_tensor": image.tolist()}]}).encode())
    png = base64.b64encode(encoded(image, "png")).decode()
    also = ask(model, json.dumps({"inputs": [{"b64": png}]}).encode())
    assert found.status == rows.status == also.status == 200 and found.model_seconds > 0
    assert also.body == found.body
    (row,) = json.loads(rows.body)["predictions"]
    for name, value in json.loads(found.body)["outputs"].items():
        np.testing.assert_array_equal(np.array(value, np.float32), wanted[name])
        np.testing.assert_array_equal(np.array(row[name], np.float32), wanted[name][0])
    assert wanted["num_detections"][0] > 5


def test_a_client_that_sends_either_is_served_by_default(servable):
    jpegs = [{"b64": base64.b64encode(encoded(picture(16, 16, seed))).decode()} for seed in (0, 1)]
    model = servable()
    both = ask(model, json.dumps({"instances": jpegs}).encode())
    named = ask(model, json.dumps({"instances": [{"input_tensor": jpegs[1]}]}).encode())
    assert json.loads(both.body)["predictions"][1] == json.loads(named.body)["predictions"][0]
    assert ask(model, json.dumps({"instances": [PIXELS]}).encode()).status == 200
    assert ask(model, json.dumps({"inputs": {"note": 1, "input_tensor": jpegs}}).encode()).status == 200
    damaged = ask(model, json.dumps({"instances": [{"b64": jpegs[0]["b64"][:-40]}]}).encode())
    assert damaged.status == 400 and b"image: the image is truncated or damaged" in damaged.body


def test_a_model_that_is_not_tfods_is_served_under_its_signature(untrained):
    from resight.inference.detector import load

    detector = load(untrained, "cpu")
    model = Servable(detector, "signs", 3)
    image = picture(50, 70)
    found = ask(model, json.dumps({"instances": [image.tolist()]}).encode(), path="/v1/models/signs/versions/3:predict")
    (row,) = json.loads(found.body)["predictions"]
    wanted = detector(image, score=0)
    assert row["num_detections"] == len(wanted) > 5 and len(row["detection_scores"]) == 100
    count = len(wanted)
    np.testing.assert_array_equal(np.float32(row["detection_scores"][:count]), wanted.scores)
    boxes = np.array(row["detection_boxes"])[:count, [1, 0, 3, 2]] * [70, 50, 70, 50]
    np.testing.assert_allclose(boxes, wanted.boxes, atol=1e-4)
    assert row["detection_classes"] == [*(wanted.labels + 1.0), *[1.0] * (100 - count)]
    assert not any(map(any, row["detection_boxes"][count:]))


def test_a_saved_model_takes_what_it_was_exported_for(tfod_export):
    from resight.inference.detector import load

    model = Servable(load(tfod_export / "saved_model"), "signs")
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.signature.inputs] == [
        ("input_tensor", "uint8", (1, -1, -1, 3))
    ]
    found = ask(model, json.dumps({"inputs": [PIXELS]}).encode())
    wanted = model.detector.outputs(np.array(PIXELS, np.uint8))
    for name, value in json.loads(found.body)["outputs"].items():
        np.testing.assert_array_equal(np.array(value, np.float32), wanted[name])
    told = describe(route("GET", "/v1/models/signs/metadata"), "signs", [Version(1, signature=model.signature)])
    assert json.loads(told.body)["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]


def test_a_body_unpacks_to_as_many_bytes_as_a_request_may_have(servable):
    model, packed = servable(max_bytes=1000), [("content-encoding", "gzip")]
    exact, large = (gzip.compress(b'{"instances": []}' + b" " * count) for count in (983, 984))
    assert b"No values" in ask(model, exact, packed).body
    assert b"document is empty" in ask(model, exact[:-9], packed).body
    refused = ask(model, large, packed)
    assert refused.status == 413 and b"more than the 1,000 bytes" in refused.body


def test_status_tells_of_all_versions_and_metadata_of_the_last(servable):
    signature = servable().signature
    versions = [Version(1, "UNLOADING"), Version(2, signature=signature), Version(3, "LOADING")]
    told = json.loads(describe(Route("status", "signs"), "signs", versions).body)["model_version_status"]
    assert [(each["version"], each["state"]) for each in told] == [
        ("1", "UNLOADING"),
        ("2", "AVAILABLE"),
        ("3", "LOADING"),
    ]
    found = describe(Route("metadata", "signs"), "signs", versions)
    assert json.loads(found.body)["model_spec"]["version"] == "2"
    assert describe(Route("metadata", "signs", 3), "signs", versions).status == 404
    assert describe(Route("metadata", "signs", None, "x"), "signs", versions).status == 400
    failed = describe(Route("status", "signs"), "signs", [Version(1, "END", error="is damaged")])
    assert json.loads(failed.body)["model_version_status"][0]["status"] == {
        "error_code": "UNKNOWN",
        "error_message": "is damaged",
    }


def test_outputs_that_are_no_batch_are_told(servable, monkeypatch):
    model = servable()
    body = json.dumps({"instances": [PIXELS]}).encode()
    for outputs, message in [
        ({"a": np.zeros((1, 2)), "b": np.zeros((3, 2))}, "Tensor name: b has inconsistent batch size: 3 expecting: 1"),
        ({"a": np.zeros((1, 2)), "b": np.zeros(())}, "Tensor name: b has no shape information "),
    ]:
        monkeypatch.setattr(model, "run", lambda given, outputs=outputs: outputs)
        assert ask(model, body) == Response.error(400, message)
