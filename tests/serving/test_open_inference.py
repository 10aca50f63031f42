"""Clients of Triton, KServe and OpenVINO Model Server."""

import base64
import json
import struct

import numpy as np
import pytest

from fixtures.serving import encoded, picture
from resight.serving.answer import answer, describe
from resight.serving.request import Request, Route, Version
from resight.serving.routes import route

IMAGE = picture(20, 30)


def ask(servable, document, rest=None, path="/v2/models/signs/infer"):
    body, headers = json.dumps(document).encode(), {}
    if rest is not None:
        headers["inference-header-content-length"] = str(len(body))
    return answer(servable, Request(route("POST", path), body + (rest or b""), headers))


def pixels(**changes):
    shape = [1, *IMAGE.shape]
    return {"name": "input_tensor", "shape": shape, "datatype": "UINT8", "data": IMAGE.ravel().tolist(), **changes}


def test_tensors_as_json(servable):
    model = servable()
    wanted = model.detector.outputs(IMAGE)
    png = base64.b64encode(encoded(IMAGE, "png")).decode()
    for given in (
        pixels(),
        pixels(data=[IMAGE.tolist()]),
        pixels(datatype="FP32", data=IMAGE.ravel().astype(float).tolist()),
        {"name": "input_tensor", "shape": [1], "datatype": "BYTES", "data": [png]},
    ):
        found = ask(model, {"id": "7", "inputs": [given]})
        assert found.status == 200 and found.media_type == "application/json" and found.model_seconds > 0, found.body
        told = json.loads(found.body)
        assert {name: told[name] for name in told if name != "outputs"} == {
            "model_name": "signs",
            "model_version": "1",
            "id": "7",
        }
        for output in told["outputs"]:
            assert output["datatype"] == "FP32" and output["shape"] == list(wanted[output["name"]].shape)
            np.testing.assert_array_equal(np.float32(output["data"]), wanted[output["name"]].ravel())
        assert {output["name"] for output in told["outputs"]} == set(wanted)


def test_tensors_as_bytes(servable):
    model = servable()
    wanted = model.detector.outputs(IMAGE)
    jpegs = [encoded(picture(16, 16, seed)) for seed in (0, 1)]
    several = b"".join(struct.pack("<I", len(jpeg)) + jpeg for jpeg in jpegs)
    one = {"parameters": {"binary_data_size": IMAGE.nbytes}}
    asked = [{"name": "detection_boxes", "parameters": {"binary_data": True}}, {"name": "detection_scores"}]
    found = ask(model, {"inputs": [pixels(**one)], "outputs": asked}, IMAGE.tobytes())
    length = int(found.headers["Inference-Header-Content-Length"])
    boxes, scores = json.loads(found.body[:length])["outputs"]
    assert found.media_type == "application/octet-stream"
    assert boxes["parameters"] == {"binary_data_size": len(found.body) - length} and "data" not in boxes
    assert found.body[length:] == wanted["detection_boxes"].tobytes()
    np.testing.assert_array_equal(np.float32(scores["data"]), wanted["detection_scores"][0])
    given = {"name": "input_tensor", "shape": [2], "datatype": "BYTES"}
    given["parameters"] = {"binary_data_size": len(several)}
    found = ask(model, {"inputs": [given], "parameters": {"binary_data_output": True}}, several)
    told = json.loads(found.body[: int(found.headers["Inference-Header-Content-Length"])])
    assert len(told["outputs"]) == 8 and all(output["shape"][0] == 2 for output in told["outputs"])


@pytest.mark.parametrize(
    ("document", "rest", "message"),
    [
        ([], None, "the body is an object with 'inputs'"),
        ({}, None, "'inputs' is a list of objects, each with name, shape, datatype and data"),
        ({"inputs": [pixels(name="image")]}, None, "'inputs' holds the input 'input_tensor' and no other"),
        ({"inputs": [pixels(shape=[1, -1])]}, None, "'shape' of 'input_tensor' is a list of sizes"),
        ({"inputs": [pixels(shape=[1] * 99)]}, None, "'shape' of 'input_tensor' is a list of sizes"),
        ({"inputs": [pixels(datatype="INT8")]}, None, 'is UINT8 or FP32 or BYTES, not "INT8"'),
        ({"inputs": [pixels(data=[1, 2])]}, None, "has 2 values, its shape is [1, 20, 30, 3]"),
        ({"inputs": [pixels(data="x")]}, None, "is a list of values"),
        ({"inputs": [pixels(data=[0.5] * 1800)]}, None, "is a list of integers"),
        ({"inputs": [pixels(data=[True] * 1800)]}, None, "is a list of integers"),
        ({"inputs": [pixels(data=[256] * 1800)]}, None, "has values that are not from 0 to 255"),
        ({"inputs": [pixels(datatype="FP32", data=[0.5] * 1800)]}, None, "other values than whole numbers"),
        ({"inputs": [pixels(datatype="BYTES", data=[5], shape=[1])]}, None, "is a list of strings"),
        ({"inputs": [pixels(datatype="BYTES", data=["é"], shape=[1])]}, None, "Unable to base64 decode"),
        ({"inputs": [pixels(datatype="BYTES", data=["AAAA"], shape=[1])]}, None, "is not an image of a known format"),
        ({"inputs": [pixels(datatype="BYTES", data=[], shape=[0])]}, None, "takes uint8 [1, -1, -1, 3] or string [-1]"),
        ({"inputs": [pixels(datatype="BYTES", data=[""] * 10_001, shape=[1])]}, None, "more than 10,000 images"),
        (
            {"inputs": [pixels(datatype="BYTES", shape=[1], parameters={"binary_data_size": 40_004})]},
            bytes(40_004),
            "more than 10,000 images",
        ),
        ({"inputs": [pixels(shape=[1800])]}, None, "takes uint8 [1, -1, -1, 3] or string [-1], not uint8 [1800]"),
        ({"inputs": [pixels()], "outputs": [{"name": "x"}]}, None, 'there is no output "x"; there are detection_'),
        ({"inputs": [pixels()], "outputs": [5]}, None, "'outputs' is a list of objects"),
        ({"inputs": [pixels(parameters={"binary_data_size": 9})]}, b"x" * 8, "is 9, 8 bytes follow the JSON"),
        ({"inputs": [pixels(parameters={"binary_data_size": 8})]}, b"x" * 8, "has 8 values, its shape"),
        (
            {"inputs": [pixels(datatype="FP32", parameters={"binary_data_size": 9})]},
            b"x" * 9,
            "9 bytes of FP32 follow the JSON",
        ),
        (
            {"inputs": [pixels(datatype="BYTES", shape=[1], parameters={"binary_data_size": 3})]},
            b"\xff" * 3,
            "the strings that follow the JSON are longer than the body",
        ),
    ],
)
def test_what_is_wrong_is_told(servable, document, rest, message):
    found = ask(servable(), document, rest)
    assert found.status == 400 and message in json.loads(found.body)["error"]


def test_other_models_and_headers_are_told(servable):
    for path, message in [
        ("/v2/models/other/infer", "there is no model 'other'"),
        ("/v2/models/signs/versions/2/infer", "there is no version 2 of model 'signs'"),
    ]:
        found = ask(servable(), {}, path=path)
        assert (found.status, json.loads(found.body)) == (404, {"error": message})
    for length in ("x", "-1", "99", "9" * 5000, "²"):
        request = Request(route("POST", "/v2/models/signs/infer"), b"{}", {"inference-header-content-length": length})
        found = answer(servable(), request)
        assert found.status == 400 and "Inference-Header-Content-Length is" in json.loads(found.body)["error"]


def test_health_and_metadata(servable):
    signature = servable().signature
    versions = [Version(1, "UNLOADING", signature), Version(2, signature=signature), Version(3, "LOADING")]

    def told(kind, model="", version=None, of=versions):
        found = describe(Route(kind, model, version), "signs", of)
        return found.status, json.loads(found.body)

    assert told("live") == told("live", of=[]) == (200, {"live": True})
    assert told("ready") == (200, {"ready": True}) and told("ready", of=versions[2:]) == (503, {"ready": False})
    assert told("server")[1]["extensions"] == ["binary_tensor_data"]
    assert told("model_ready", "signs") == (200, {"name": "signs", "ready": True})
    assert told("model_ready", "signs", 3) == (503, {"name": "signs", "ready": False})
    assert told("model_ready", "other") == (404, {"error": "there is no model 'other'"})
    assert told("model", "signs", 3)[0] == 404
    status, model = told("model", "signs")
    assert status == 200 and model["name"] == "signs" and model["versions"] == ["2"]
    assert model["inputs"] == [{"name": "input_tensor", "datatype": "UINT8", "shape": [1, -1, -1, 3]}]
    assert {"name": "detection_boxes", "datatype": "FP32", "shape": [1, 30, 4]} in model["outputs"]
