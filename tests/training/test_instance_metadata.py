import threading
import time
from datetime import UTC, datetime

import pytest

from resight.training import instance_metadata
from resight.training.instance_metadata import InstanceMetadata, Notice, find_service

# A time that UTC has none for, and nesting that no parser follows.
ODD = ['{"action": "stop", "time": "0001-01-01T00:00:00+05:00"}', "[" * 60_000]


def test_the_type_of_the_instance_and_the_notice_are_asked_with_a_token(metadata, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # it is on this machine and not behind a proxy
    service, kind = find_service("runs/first")
    assert kind == "g5.xlarge" and service.notice() is None
    metadata.answers["spot/instance-action"] = '{"action": "terminate", "time": "2026-11-28T20:00:00Z"}'
    assert service.notice() == Notice("terminate", datetime(2026, 11, 28, 20, tzinfo=UTC))
    assert [path for method, path in metadata.asked if method == "PUT"] == ["/latest/api/token"]  # once


def test_a_token_that_has_ended_is_renewed(metadata):
    service, _ = find_service("runs/first")
    metadata.tokens.clear()
    metadata.answers["spot/instance-action"] = "{}"
    assert service.notice() is not None and len(metadata.tokens) == 1


def test_a_service_that_dies_gives_no_notice_until_it_is_back(metadata):
    service, _ = find_service("runs/first")
    metadata.announce(60)
    metadata.dead = True
    assert service.notice() is None
    metadata.dead = False
    assert service.notice() is not None


@pytest.mark.parametrize(
    "text", ["", "soon", "[]", '{"action": "stop"}', '{"action": 1, "time": "tomorrow"}', "null", *ODD]
)
def test_a_notice_in_other_words_is_one_without_a_time(text, metadata):
    metadata.answers["spot/instance-action"] = text
    service, _ = find_service("runs/first")
    assert service.notice() == Notice("interruption", None)


def test_it_is_looked_for_only_where_it_can_be(metadata, monkeypatch, caplog):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "True")
    assert find_service("s3://b/run") is None and not metadata.asked
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    monkeypatch.delenv("AWS_BATCH_JOB_ID", raising=False)
    made = []
    monkeypatch.setattr(instance_metadata, "InstanceMetadata", lambda endpoint: made.append(endpoint) or Nothing())
    assert find_service("runs/first") is None and not made  # a laptop waits for nothing
    assert find_service("s3://b/run") is None and made == ["http://169.254.169.254"] and not caplog.text
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "1")
    assert find_service("runs/first") is None and "noticed by its signal alone" in caplog.text


class Nothing:
    def read(self, path):
        raise OSError("No route to host")


@pytest.mark.parametrize("endpoint", ["nonsense", "http://[", "ftp://x", "http://127.0.0.1:1", "file:///etc/passwd"])
def test_an_endpoint_where_nothing_answers_is_told_and_no_more(endpoint, monkeypatch, caplog):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
    assert find_service("runs/first") is None and "no instance metadata service" in caplog.text


def test_what_refuses_is_no_service(metadata):
    service = InstanceMetadata(f"http://127.0.0.1:{metadata.server_port}")
    service.read("instance-type")
    metadata.tokens = _Never()
    assert service.notice() is None
    assert len(metadata.asked) < 10


class _Never(list):
    def __contains__(self, token):
        return False


def test_what_answers_everything_is_no_service(metadata):
    metadata.answers["instance-type"] = "<html>Log in to this network</html>"
    assert find_service("runs/first") is None


def test_no_redirection_is_followed(metadata):
    service, _ = find_service("runs/first")
    metadata.redirect = f"http://127.0.0.1:{metadata.server_port}/latest/meta-data/instance-type"
    assert service.notice() is None
    assert metadata.asked[-1] == ("GET", "/latest/meta-data/spot/instance-action")


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(metadata, monkeypatch):
    monkeypatch.setattr(instance_metadata, "_WHOLE", 0.2)
    service, _ = find_service("runs/first")
    metadata.answers["spot/instance-action"] = "x" * 1000
    metadata.drips = True
    assert service.notice() is None
    metadata.drips = False
    assert service.notice() is not None


def test_what_is_cut_off_is_no_answer_also_where_the_process_is_held_up(metadata, monkeypatch):
    start = threading.Timer.start

    def held_up(timer):
        start(timer)
        time.sleep(0.1)

    monkeypatch.setattr(instance_metadata, "_WHOLE", 0.3)
    monkeypatch.setattr(threading.Timer, "start", held_up)
    service, _ = find_service("runs/first")
    metadata.answers["spot/instance-action"] = "x" * 1000
    metadata.drips = True
    assert service.notice() is None


def test_a_password_in_the_endpoint_is_not_shown(monkeypatch, caplog):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    for endpoint in ("http://user:secret@127.0.0.1:1/", "http://user:secret@", "user:secret@127.0.0.1"):
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
        assert find_service("runs/first") is None
    assert "no instance metadata service" in caplog.text and "secret" not in caplog.text
