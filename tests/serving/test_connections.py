import http.client
import socket

import pytest

from fixtures.served import Server


@pytest.fixture(scope="module")
def impatient(stub):
    server = Server(stub, "--workers", "1", settings=["connections.HEAD_SECONDS=0.3", "connections.MOST=4"])
    yield server
    server.close()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def status_of(client):
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def test_a_head_that_does_not_come_is_not_waited_for(impatient):
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    with connect(impatient) as silent, connect(impatient) as slow, connect(impatient) as second:
        slow.sendall(head)
        second.sendall(head + b"\r\n")
        assert status_of(second) == 200
        second.sendall(head)
        assert [status_of(client) for client in (silent, slow, second)] == [408, 408, 408]
        assert [client.recv(1) for client in (silent, slow, second)] == [b"", b"", b""]


def test_a_request_under_way_is_not_hurried(impatient, meeting):
    held = meeting()
    with connect(impatient) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(held.body))
        with connect(impatient) as silent:
            client.sendall(held.body)
            assert status_of(silent) == 408  # so much later
        held.begun()
        held.end()
        assert status_of(client) == 200


def test_connections_are_counted(impatient):
    clients = [connect(impatient) for _ in range(4)]
    try:
        with connect(impatient) as one_more:
            assert status_of(one_more) == 429
    finally:
        for client in clients:
            client.close()
    while True:
        with connect(impatient) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            if status_of(client) == 200:
                return


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(server, sent):
    with connect(server) as client:
        client.sendall(sent)
        assert status_of(client) == 400
    assert server.told("Invalid HTTP request")["level"] == "warning"
