"""Servers in processes of their own, from start to end."""

import signal
import socket
import threading
from pathlib import Path

import pytest

from resight.errors import ResightError
from resight.serving.serve import _listening, _name_of, _shared, _token, serve


def test_on_sigterm_it_answers_what_it_took_on(start_server, stub, meeting):
    server = start_server(stub, "--workers", "1")
    held = meeting()
    running = server.begin(held.body)
    held.begun()
    waiting = server.begin(b"hello")
    while server.metric("resight_queue_length") < 1:
        pass
    server.process.send_signal(signal.SIGTERM)
    server.told("Stopping")
    status, headers, body = server.ask(body=b"late")
    assert status == 503 and headers["Retry-After"] and b"error" in body
    assert server.ask("GET", "/readyz")[0] == 503 and server.ask("GET", "/healthz")[0] == 200
    held.end()
    assert running.end()[0] == waiting.end()[0] == 200
    assert server.process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(start_server, stub, meeting):
    server = start_server(stub, "--workers", "1")
    held = meeting()
    server.begin(held.body)
    held.begun()
    server.process.send_signal(signal.SIGTERM)
    server.told("Stopping")
    assert server.stop(signal.SIGINT) == 130


def test_a_request_that_does_not_end_holds_it_up_no_longer_than_its_deadline(start_server, stub, meeting):
    server = start_server(stub, "--workers", "1", "--timeout", "0.5")
    held = meeting()
    running = server.begin(held.body)
    held.begun()
    assert server.stop(signal.SIGINT) == 0
    assert running.end()[0] in (503, 504)


def test_a_new_version_costs_no_request(start_server, tmp_path):
    """While clients ask without a pause, versions come, one of which cannot be loaded."""
    folder = tmp_path / "signs"
    add_version(folder, 1)
    settings = ["versions.SECONDS_BETWEEN_LOOKS=0.02"]
    server = start_server(folder, "--workers", "1", settings=settings)
    stop, seen, failed = threading.Event(), set(), []

    def ask():
        while not stop.is_set():
            try:
                seen.add(server.predict()["version"])
            except Exception as error:
                failed.append(error)
                return

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for number in (2, 3):
            add_version(folder, number)
            server.told(f"version {number} of signs is served")
        add_version(folder, 4, "bad")
        server.told("version 4 cannot be loaded, 3 is served on")
        server.process.send_signal(signal.SIGHUP)
        while not failed and len([line for line in server.lines if "version 4 cannot" in line["message"]]) < 2:
            pass
        assert server.predict()["version"] == 3
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert failed == [] and seen == {1, 2, 3}
    assert server.stop() == 0


def add_version(folder, number, word="good"):
    (folder / str(number)).mkdir(parents=True)
    (folder / str(number) / "model.onnx").write_text(word)


def test_a_model_that_cannot_be_loaded_ends_it(start_server, tmp_path):
    (tmp_path / "signs.onnx").write_text("bad")
    with pytest.raises(AssertionError, match="is damaged"):
        start_server(tmp_path / "signs.onnx")


def test_what_makes_no_sense_is_refused(stub, tmp_path, monkeypatch):
    def refused(message, model=stub, **options):
        with pytest.raises(ResightError, match=message):
            serve(model, **options)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused("in use\n", port=taken.getsockname()[1])
    refused("cannot be listened at", host="no.such.host.invalid")
    refused("cannot be listened at", host="no..host")
    refused("queue: must be more than 0", queue=0)
    refused("65535", port=70000)
    refused("workers: must be at least 1", workers=0)
    refused("timeout: must be more than 0", timeout=0)
    refused("cannot be in an address", name="a/b")
    empty = tmp_path / "token"
    empty.write_text("open-sesame\n")
    assert _token(empty) == "open-sesame" and _token(None) == ""
    empty.write_text("\n")
    refused("token: is empty", token_file=empty)
    refused("Is a folder", token_file=tmp_path)
    monkeypatch.setenv("RESIGHT_SERVE_TOKEN", "two words")
    refused("RESIGHT_SERVE_TOKEN: is no token")


def test_no_half_of_an_answer_waits_for_an_acknowledgement():
    with _listening("localhost", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_workers_and_threads_share_the_cores(monkeypatch):
    monkeypatch.setattr("resight.serving.serve.core_count", lambda: 8)
    assert [_shared(*given) for given in [(None, None), (2, None), (None, 3), (3, 5), (16, None)]] == [
        (8, 1), (2, 4), (2, 3), (3, 5), (16, 1),
    ]  # fmt: skip
    names = [
        "runs/first",
        "signs.onnx",
        "signs.v2/",
        "signs/model.xml",
        "signs/saved_model/",
        "s3://bucket/models/signs.onnx",
        "s3://bucket/runs/first/",
    ]
    assert [_name_of(one) for one in names] == ["first", "signs", "signs.v2", "signs", "signs", "signs", "first"]
    assert _name_of(".") == Path.cwd().name
