import random
import socket
import threading

import pytest

from resight.errors import ResightError
from resight.io import object_store as storage
from resight.io.object_store import Conflict, StorageError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSE", 0.01)


def test_whether_one_may_write_is_asked_without_writing(s3):
    folder = f"s3://{s3.bucket}/found"
    storage.check_writable(folder)
    assert storage.find(folder) == []
    s3.keys = set()
    with pytest.raises(StorageError):
        storage.check_writable(folder)


@pytest.mark.parametrize("page", [2, 3, 1000])
def test_folders_of_a_console_are_no_objects_and_names_may_hold_anything(s3, monkeypatch, page):
    """An empty object whose name ends in a slash stands for a folder; the client takes its slash away."""
    import boto3

    monkeypatch.setattr(storage, "_PAGE", page)
    names = ["a b.jpg", "a%20b.jpg", "a[1].jpg", "a#1.jpg", "a~.jpg", "e-1/x.jpg", "e/x.jpg", "e/y/z.jpg", "é.jpg"]
    client = boto3.client("s3", region_name="us-east-1")
    for name in ("", "e-1/", "e/", "e/y/", *names):
        client.put_object(Bucket=s3.bucket, Key=f"photos/{name}", Body=b"x" if name in names else b"")
    folder = f"s3://{s3.bucket}/photos"
    listed = list(storage.stream(folder))
    assert [one.address for one in listed if one.size] == [f"{folder}/{name}" for name in sorted(names, key=str.encode)]
    assert folder not in [one.address for one in [*listed, *storage.find(folder)]]
    assert all(storage.read(one.address) == b"x" for one in listed if one.size)
    client.put_object(Bucket=s3.bucket, Key="photos/x//y.jpg", Body=b"x")
    with pytest.raises(StorageError, match=r"the name of this object cannot be used: photos/x//y\.jpg"):
        list(storage.stream(folder))


def test_objects_are_written_found_read_and_removed(s3):
    folder = f"s3://{s3.bucket}/a"
    etag = storage.write(f"{folder}/b c.txt", b"0123456789")
    storage.write(f"{folder}/d/e", b"")
    storage.write(f"s3://{s3.bucket}/ab", b"another")
    first = storage.Object(f"{folder}/b c.txt", 10, etag)
    assert [found.address for found in storage.find(folder)] == [first.address, f"{folder}/d/e"]
    assert storage.find(first.address) == [first] == [storage.stat(first.address)]
    assert storage.read(first.address) == b"0123456789"
    assert storage.read_range(first, 3, 4) == b"3456"
    assert storage.read_range(first, 8, 100) == b"89"
    assert storage.read_range(first, 10, 1) == b""
    storage.delete(first.address)
    storage.delete(first.address)
    assert storage.stat(first.address) is None
    assert storage.find(f"s3://{s3.bucket}/none") == []


def test_a_large_file_goes_there_and_back(s3, tmp_path):
    (tmp_path / "large").write_bytes(random.Random(0).randbytes(2 * storage.BLOCK + 1))
    storage.write(f"s3://{s3.bucket}/large", tmp_path / "large")
    storage.download(storage.stat(f"s3://{s3.bucket}/large"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


def test_an_upload_whose_last_answer_is_lost_is_made_again(s3, tmp_path):
    (tmp_path / "large").write_bytes(bytes(storage.BLOCK))
    s3.lost_answer = r"POST .*uploadId"
    storage.write(f"s3://{s3.bucket}/large", tmp_path / "large")
    assert not s3.lost_answer
    assert storage.stat(f"s3://{s3.bucket}/large").size == storage.BLOCK


def test_a_conditional_write_wants_what_it_names(s3):
    address = f"s3://{s3.bucket}/lock"
    first = storage.write(address, b"1", replacing="")
    with pytest.raises(Conflict):
        storage.write(address, b"2", replacing="")
    second = storage.write(address, b"22", replacing=first)
    with pytest.raises(Conflict):
        storage.write(address, b"3", replacing=first)
    assert storage.read(address) == b"22"
    with pytest.raises(Conflict, match="changed"):
        storage.read_range(storage.Object(address, 2, first), 0, 2)
    assert storage.read_range(storage.Object(address, 2, second), 0, 2) == b"22"


@pytest.mark.parametrize("kind", ["busy", "reset", "truncated", "slow"])
def test_what_may_go_well_the_next_time_is_tried_again(s3, kind):
    address = f"s3://{s3.bucket}/some"
    storage.write(address, bytes(range(256)) * 100)
    s3.only, s3.faults = kind, 0.3
    wanted = storage.stat(address)
    assert all(storage.read_range(wanted, 256 * n, 256) == bytes(range(256)) for n in range(8))
    assert len(s3.injected) > 1


@pytest.mark.parametrize("kind", ["busy", "reset", "truncated"])
def test_what_never_goes_well_is_reported(s3, kind, monkeypatch):
    address = f"s3://{s3.bucket}/some"
    storage.write(address, b"x" * 1000)
    monkeypatch.setitem(storage._RETRY, "max_retries", 1)
    storage._store.cache_clear()
    s3.only, s3.faults = kind, 1.0
    with pytest.raises(StorageError, match=r"unexpected response|sent \d+ of") as caught:
        storage.read(address)
    assert caught.value.where == address


def test_a_response_that_stalls_is_given_up(s3, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=silent.accept, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setitem(storage._RETRY, "max_retries", 0)
        monkeypatch.setitem(storage._CLIENT, "read_timeout", "100ms")
        with pytest.raises(StorageError, match="unexpected response") as caught:
            storage.read(f"s3://{s3.bucket}/some")
        assert "AWS_ENDPOINT_URL" in caught.value.fix


def test_a_bucket_that_is_not_there_is_named(s3):
    for use in (storage.find, storage.read, lambda address: storage.write(address, b"")):
        with pytest.raises(StorageError, match="no bucket 'nowhere'"):
            use("s3://nowhere/some")


def test_wrong_credentials_are_told_at_once(s3):
    s3.keys = {"second"}
    for use in (storage.find, storage.read):
        with pytest.raises(StorageError, match=r"credentials are refused .*InvalidAccessKeyId"):
            use(f"s3://{s3.bucket}/some")
    assert len(s3.requests) <= 5  # one to make the bucket, and each once more with credentials anew


def test_no_credentials_and_no_such_profile_are_told(s3, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match=r"nobody"):
        storage.find(f"s3://{s3.bucket}/some")
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(StorageError, match="no credentials") as caught:
        storage.find(f"s3://{s3.bucket}/some")
    assert "AWS_PROFILE" in caught.value.fix


def test_credentials_that_expire_are_taken_anew_from_the_profile(s3):
    address = f"s3://{s3.bucket}/some"
    storage.write(address, b"x")
    s3.expired.add("first")
    with pytest.raises(StorageError, match="ExpiredToken"):
        storage.read(address)
    s3.use_key("second")
    assert storage.read(address) == b"x"
    s3.expired.add("second")
    s3.use_key("third")
    assert storage.read(address) == b"x"


def test_https_is_not_left_for_http_unless_the_endpoint_says_so(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{s3.server_port}")
    monkeypatch.setitem(storage._RETRY, "max_retries", 0)
    seen = len(s3.requests)
    with pytest.raises(ResightError, match="unexpected response"):
        storage.read(f"s3://{s3.bucket}/some")
    assert len(s3.requests) == seen


@pytest.mark.parametrize(
    "endpoint",
    [
        "notaurl",
        "http://",
        "https://:80",
        "http://host:99999",
        "http://host:x",
        "ftp://host",
        "http://[::1",
        "http://a b",
    ],
)
def test_a_malformed_endpoint_is_an_error_with_its_remedy(endpoint, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match="not the address of a store") as caught:
        storage.stat(f"s3://{s3.bucket}/a")
    assert "http://HOST:PORT" in caught.value.fix


def test_the_password_in_an_endpoint_is_never_told(s3, monkeypatch, caplog):
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)
    monkeypatch.setitem(storage._RETRY, "max_retries", 0)
    for endpoint in ("http://user:hunter2@localhost:1", "http://user:hunter2@localhost:99999", "http://u:/hunter2@a"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StorageError) as caught:
            storage.stat(f"s3://{s3.bucket}/a")
        assert "hunter2" not in str(caught.value) + caplog.text


def test_a_bucket_alone_is_no_object(s3):
    for bucket in (f"s3://{s3.bucket}", f"s3://{s3.bucket}/"):
        assert storage.stat(bucket) is None and storage.read_if_there(bucket) is None
        with pytest.raises(StorageError, match="names a bucket and no object"):
            storage.read(bucket)
