"""Whatever is sent to a worker has an answer."""

import base64
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.serving import Blank, encoded, picture
from resight.errors import ResightError
from resight.serving.answer import answer, describe
from resight.serving.request import HEADERS, Request, Response, Route, Version
from resight.serving.routes import route
from resight.serving.servable import Servable

MODEL = Servable(Blank(), "m", max_pixels=10_000)
JPEG = encoded(picture(16, 16))
_B64 = base64.b64encode(JPEG).decode()
_INPUT = {"name": "input_tensor", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
BODIES = {
    "predict": [
        json.dumps({"instances": [{"b64": _B64}]}).encode(),
        json.dumps({"signature_name": "", "inputs": {"input_tensor": [[[[1, 2, 3]]]]}}).encode(),
        gzip.compress(b'{"instances": [[[[0, 1, 2]]]]}'),
    ],
    "infer": [
        json.dumps({"id": "1", "inputs": [_INPUT], "outputs": [{"name": "num_detections"}]}).encode(),
        json.dumps({"inputs": [{**_INPUT, "shape": [1], "datatype": "BYTES", "data": [_B64]}]}).encode(),
    ],
    "images": [b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + JPEG + b"\r\n--x--\r\n"],
}
PIECES = st.sampled_from([*b'[]{}",:.-0123456789eE\\', 0, 255, 0xC3, 10, 13]).map(lambda byte: bytes([byte]))


@st.composite
def requests(draw):
    """Requests that are damaged in a few places, or nothing at all."""
    kind = draw(st.sampled_from(sorted(BODIES)))
    body = draw(st.sampled_from(BODIES[kind]) | st.binary(max_size=40))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(body)))
        body = body[:start] + draw(PIECES | st.just(b"")) + body[start + draw(st.integers(0, 3)) :]
    headers = {"content-type": "multipart/form-data; boundary=x"} | draw(
        st.dictionaries(
            st.sampled_from(HEADERS), st.sampled_from(["gzip", "20", "x", "multipart/form-data"]) | st.text()
        )
    )
    names = {"model": st.sampled_from(["m", "m", "m", "other"]), "version": st.sampled_from([None, 1, 2])}
    where = {name: draw(value) for name, value in names.items()}
    return Request(Route(kind, **where, query=draw(st.sampled_from(["", "score=.5"]) | st.text())), body, headers)


@settings(max_examples=150, deadline=None)
@given(requests())
def test_every_request_has_an_answer(request):
    found = answer(MODEL, request)
    assert found.status in (200, 400, 404, 415), found.body
    if found.status == 200:
        assert found.body
    else:
        (message,) = json.loads(found.body.decode(errors="replace")).values()
        assert message and "Traceback" not in message


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "X"]), st.text("/v12modelspredict:%?.é€ \n", max_size=40))
def test_every_path_has_an_answer(method, path):
    for target in (path, f"/v1/models/{path}", f"/v2/models/{path}"):
        found = route(method, target)
        if isinstance(found, Route) and not found.to_model:
            found = describe(found, "m", [Version(1, signature=MODEL.signature)])
        assert isinstance(found, Route) or 200 <= found.status < 405 or found.status in (405, 503)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MemoryError(), 503, "out of memory; send smaller images, or fewer at a time"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 503, "out of memory;"),
        (ResightError("failed: shapes differ", where="/srv/models/m"), 400, "failed: shapes differ"),
        (KeyError("secret"), 500, "this is an error of the server; its log says more"),
        (RecursionError(), 400, "lists and objects are nested too deeply"),
    ],
)
def test_what_the_network_raises_is_an_answer(monkeypatch, caplog, error, status, message):
    def fail(image):
        raise error

    monkeypatch.setattr(MODEL.detector, "detect", fail)
    found = answer(MODEL, Request(Route("predict", "m"), BODIES["predict"][1]))
    assert found.status == status and json.loads(found.body)["error"].startswith(message)
    assert bool(caplog.records) == (status == 500)


def test_lists_in_lists_are_no_trouble():
    for depth in (10, 900, 10**6):
        body = b'{"instances": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        found = answer(MODEL, Request(Route("predict", "m"), body))
        assert found.status == 400, depth
    body = b'{"instances": [[1, ' + b"[" * 900 + b"1" + b"]" * 900 + b"]]}"
    assert answer(MODEL, Request(Route("predict", "m"), body)).status == 400


def test_an_error_is_one_key():
    assert Response.error(400, 'a "\udcff"') == Response(400, b'{\n    "error": "a \\"\xff\\""\n}')
