"""The application of a real server whose model does what the request says."""

import asyncio
import http.client
import json
import socket

import pytest

from fixtures.stub_model import CODE
from resight.serving.app import App, Rules
from resight.serving.metrics import Metrics
from resight.serving.request import Signature
from resight.serving.versions import Versions
from resight.serving.worker import Loaded, Task
from resight.serving.workers import Plan, Pool


def test_what_is_asked_of_the_model_reaches_a_worker(server):
    told = server.predict(b"a picture", **{"Content-Type": "image/png", "X-Other": "1"})
    assert told["kind"] == "images" and told["headers"] == {"content-type": "image/png"}
    status, headers, _ = server.ask(path="/v1/models/signs:predict", body=b"{}")
    assert (status, headers["Content-Type"]) == (200, "application/json")


def test_health_and_openapi(server):
    assert server.ask("GET", "/healthz")[0] == server.ask("GET", "/readyz")[0] == 200
    assert server.ask("HEAD", "/readyz")[::2] == (200, b"")
    document = json.loads(server.ask("GET", "/openapi.json")[2])
    assert "/v1/models/signs:predict" in document["paths"]


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_another_method_is_refused(server, path):
    status, headers, body = server.ask("POST", path, b"x")
    assert (status, headers["Allow"]) == (405, "GET, HEAD") and "error" in json.loads(body)


@pytest.mark.parametrize(
    "path",
    ["/../app.py", "/page/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/app.py", "/page/", "/.git"],
)
def test_no_file_of_the_machine_is_reachable(server, path):
    assert server.ask("GET", path)[0] == 404


def test_no_other_site_may_read_answers(server):
    _, headers, _ = server.ask(body=b"x", headers={"Origin": "http://elsewhere.example"})
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_request_of_too_many_bytes_is_refused_by_its_length_or_its_bytes(server):
    large = bytes((1 << 20) + 1)
    status, _, body = server.ask(body=large)
    assert status == 413 and "at most 1,048,576" in json.loads(body)["error"]
    assert server.ask(body=(large[:65536] for _ in range(17)))[0] == 413  # chunked
    assert server.predict(large[:-1])["digest"]


def test_a_client_that_asks_before_it_sends_need_not_send_what_is_too_large(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
        client.sendall(head.encode())
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")


def test_more_than_may_wait_are_told_when_to_come_again(server, meeting):
    first, second = meeting("first"), meeting("second")
    running = server.begin(first.body)
    first.begun()
    waiting = server.begin(second.body)
    while server.metric("resight_queue_length") < 1:
        pass
    status, headers, body = server.ask(body=b"one too many", path="/v1/models/signs:predict")
    assert status == 429 and int(headers["Retry-After"]) >= 1 and set(json.loads(body)) == {"error"}
    first.end()
    second.begun()
    second.end()
    assert running.end()[0] == waiting.end()[0] == 200


def test_a_client_that_leaves_takes_its_request_out_of_the_queue(server, meeting):
    held = meeting()
    running = server.begin(held.body)
    held.begun()
    client = http.client.HTTPConnection("127.0.0.1", server.port)
    client.request("POST", "/predict", b"die")  # never reaches a worker
    while server.metric("resight_queue_length") < 1:
        pass
    client.close()
    while server.metric("resight_queue_length") > 0:
        pass
    held.end()
    assert running.end()[0] == 200 and server.metric("resight_worker_restarts_total") == 0


def test_a_worker_that_dies_costs_no_answer(server, tmp_path):
    before = server.predict()["pid"]
    assert server.predict(f"once {tmp_path / 'died'}".encode())["pid"] != before
    status, headers, body = server.ask(body=b"die")
    assert status == 503 and headers["Retry-After"] and "error" in json.loads(body)
    assert server.predict()["version"] == 1
    assert server.metric("resight_worker_restarts_total") == 3


def test_metrics_and_access_log_tell_of_each_request(server):
    before = server.metric("resight_requests_total")
    assert server.ask("GET", "/no/such?x=%00")[0] == 404
    assert server.metric("resight_requests_total") == before + 2  # and the metrics themselves
    line = server.told("/no/such")
    assert (line["method"], line["status"], line["route"]) == ("GET", 404, "other")
    server.predict()
    assert server.metric('resight_requests_total{route="images",status="200"}') >= 1
    assert server.metric('resight_model_seconds_count{route="images"}') >= 1
    assert not [line for line in server.lines if line.get("path") in ("/metrics", "/healthz")]


def test_a_token_is_asked_for_everywhere_but_by_health_and_the_page(start_server, stub):
    server = start_server(stub, "--workers", "1", environment={"RESIGHT_SERVE_TOKEN": "open-sesame"})
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/", "/page.js"):
        assert server.ask("GET", path)[0] != 401
    for given in ({}, {"Authorization": "Bearer open"}, {"Authorization": "Basic open-sesame"}):
        for method, path in [("POST", "/predict"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing")]:
            assert server.ask(method, path, headers=given)[0] == 401
    status, headers, body = server.ask(path="/v1/models/signs:predict", body=b"{}")
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer") and "error" in json.loads(body)
    assert "RESIGHT_SERVE_TOKEN" not in server.predict(Authorization="Bearer open-sesame")["environment"]


def test_a_request_that_takes_too_long_is_answered(start_server, stub, meeting):
    server = start_server(stub, "--workers", "1", "--timeout", "0.3", settings=["app.BODY_SECONDS=0.3"])
    before = server.predict()["pid"]
    answers = [server.begin(b"hang"), server.begin(b"hang")]  # one is run, one waits
    assert [answer.end()[0] for answer in answers] == [504, 504]
    while (answer := server.ask(body=b"hello"))[0] == 504:  # until the new worker is there
        pass
    assert json.loads(answer[2])["pid"] != before
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 408


@pytest.fixture
def unstarted(stub):
    """``unstarted(method, path)``: status and body of an application whose workers have not been started."""
    plan = Plan(1, 1, 60.0)
    versions = Versions(str(stub), Pool(Task(str(stub), "signs", code=CODE), plan))
    app = App(versions, "signs", Rules(body=10), Metrics())

    def ask(method, path):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"hello"}

        async def send(message):
            sent.append(message)

        scope = {
            "method": method,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-length", b"5")],
        }
        asyncio.run(app(scope, receive, send))
        return sent[0]["status"], sent[1]["body"]

    ask.app = app
    return ask


def test_while_the_model_is_loaded_it_lives_and_is_not_ready(unstarted):
    assert unstarted("GET", "/healthz")[0] == 200
    assert unstarted("GET", "/readyz") == (503, b'{"status": "loading"}')
    assert unstarted("GET", "/v2/health/ready")[0] == 503
    status, body = unstarted("POST", "/predict")
    assert status == 503 and b"is being loaded" in body


def test_the_bytes_of_all_requests_together_are_limited(unstarted):
    unstarted.app.versions.current.loaded = Loaded(Signature((), ()), False)
    for held in (161, 156):  # and those that others send meanwhile
        unstarted.app._held = held
        assert unstarted("POST", "/predict")[0] == 429
        assert unstarted.app._held == held
