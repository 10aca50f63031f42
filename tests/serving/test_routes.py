"""Which request is what. The whole conversations are in the tests of the protocols."""

import json

import pytest

from resight.serving.request import Response, Route
from resight.serving.routes import route


@pytest.mark.parametrize(
    ("method", "target", "wanted"),
    [
        ("POST", "/v1/models/signs:predict", Route("predict", "signs")),
        ("POST", "/V1/MODELS/signs/Versions/007:predict", Route("predict", "signs", 7)),
        ("POST", "/v1/models/a%2Fb/labels/st%C3%A4ble:predict", Route("predict", "a/b", None, "stäble")),
        ("GET", "/v1/models/Signs", Route("status", "Signs")),
        ("GET", "/v1/models/signs?x", Route("status", "signs?x")),
        ("GET", "/v1/models/signs/versions/9223372036854775807/metadata", Route("metadata", "signs", 2**63 - 1)),
        ("GET", "/v1/models/signs/METADATA", Route("status", "signs")),
        ("POST", "/predict?score=.5", Route("images", query="score=.5")),
        ("GET", "/v2", Route("server")),
        ("GET", "/v2/health/live", Route("live")),
        ("HEAD", "/v2/health/ready", Route("ready")),
        ("GET", "/v2/models/signs/versions/2", Route("model", "signs", 2)),
        ("GET", "/v2/models/signs/ready", Route("model_ready", "signs")),
        ("POST", "/v2/models/signs/versions/2/infer", Route("infer", "signs", 2)),
    ],
)
def test_what_is_asked_for(method, target, wanted):
    assert route(method, target) == wanted


@pytest.mark.parametrize(
    ("method", "target", "status", "says"),
    [
        ("GET", "/v1/models/signs:predict", 400, "Malformed request: GET /v1/models/signs:predict"),
        ("POST", "/v1/models/signs:predict?x=1", 400, "Malformed request: POST /v1/models/signs:predict?x=1"),
        ("POST", "/v1/models/signs:Predict", 400, "Malformed request: POST /v1/models/signs:Predict"),
        ("POST", "/v1/models/a/b:predict", 400, "Malformed request: POST /v1/models/a/b:predict"),
        ("PATCH", "/v1/anything", 400, "Malformed request: PATCH /v1/anything"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        (
            "POST",
            "/v1/models/signs:classify",
            400,
            "this model is asked with :predict, not :classify",
        ),
        ("GET", "/predict", 405, "/predict takes POST, not GET"),
        ("POST", "/v2/health/live", 405, "/v2/health/live takes GET, not POST"),
        ("GET", "/v2/models/signs/infer", 405, "/v2/models/signs/infer takes POST, not GET"),
        ("GET", "/v2/models/signs/versions/one", 404, "there is no version 'one' of the model 'signs'"),
        ("GET", "/v2/repository/index", 404, "there is nothing at /v2/repository/index"),
    ],
)
def test_what_is_nothing(method, target, status, says):
    found = route(method, target)
    assert (found.status, json.loads(found.body)) == (status, {"error": says})
    assert ("Allow" in found.headers) == (status == 405)


def test_answers_without_words():
    assert route("POST", f"/v1/models/signs/versions/{2**63}:predict") == Response(400, b"")
    assert route("GET", f"/v1/models/signs/versions/{'9' * 5000}") == Response(400, b"")
    assert route("HEAD", "/v1/models/signs") == Response(400, b"")
    assert route("OPTIONS", "/v1/models/signs", "https://example.com") == Response(200, b"")
    assert route("OPTIONS", "/v1/models/signs", "null") == Response(400, b"")
    found = route("GET", "/elsewhere")
    assert (found.status, found.media_type) == (404, "text/html")
    assert route("HEAD", "/elsewhere") == Response(404, b"", "text/html")
