import gzip
import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.tfod import zoo
from resight.tfod.checkpoint.folder import find_tfod
from resight.tfod.checkpoint.variables import checkpoint_keys

NAME = "faster_rcnn_resnet50_v1_640x640_coco17_tpu-8"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zoo"


@pytest.fixture
def model(tmp_path, write_checkpoint):
    """A folder as TFOD exports it."""
    folder = tmp_path / "made" / NAME
    write_checkpoint(folder / "checkpoint" / "ckpt-0", {"x": np.arange(50_000, dtype=np.float32)})
    (folder / "checkpoint" / "checkpoint").write_text('model_checkpoint_path: "ckpt-0"')
    (folder / "pipeline.config").write_text("model {}")
    return folder


@pytest.fixture
def archive(model):
    return archived(model)


def archived(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return out.getvalue()


class Server:
    """Serves ``content`` under every path; ``stop_after`` bytes it hangs up, and forgets that it did."""

    def __init__(self) -> None:
        self.content, self.stop_after, self.ranges, self.asked = b"", 0, True, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                server.asked.append((self.path, wanted))
                begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
                size = len(server.content)
                if self.path.endswith("404.tar.gz"):
                    return self.send_error(404)
                if begin and begin >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206 if begin else 200)
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
                self.send_header("Content-Length", str(size - begin))
                self.end_headers()
                until = begin + server.stop_after if server.stop_after else size
                server.stop_after = 0
                self.wfile.write(server.content[begin:until])

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(monkeypatch, archive):
    running = Server()
    running.content = archive
    monkeypatch.setattr(zoo, "URL", f"http://127.0.0.1:{running.http.server_port}/zoo")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield running
    running.http.shutdown()
    running.http.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_nine():
    names = {
        f"faster_rcnn_resnet{depth}_v1_{size}"
        for depth in (50, 101, 152)
        for size in ("640x640_coco17_tpu-8", "1024x1024_coco17_tpu-8", "800x1333_coco17_gpu-8")
    }
    rows = zoo.zoo_rows()
    assert {row["name"] for row in rows} == names and len(rows) == 9
    assert {row["licence"] for row in rows} == {"Apache-2.0"}
    by_name = {row["name"]: row for row in rows}
    r101 = by_name["faster_rcnn_resnet101_v1_800x1333_coco17_gpu-8"]
    # 193.14 MB with the object graph, as TFOD saves it.
    assert (r101["coco_map"], r101["weights_mb"], r101["cached"]) == (36.6, 193.1, False)
    for name, row in by_name.items():
        variables = checkpoint_keys(int(re.findall(r"\d+", name)[0]), 90, share_boxes="tpu" in name)
        assert row["weights_mb"] == round(sum(prod(v.shape) for v in variables) * 4 / 1e6, 1)
        assert any(line.startswith(name) for line in zoo.zoo_table().splitlines())
    assert r101["url"] == (
        "http://download.tensorflow.org/models/object_detection/tf2/20200711/"
        "faster_rcnn_resnet101_v1_800x1333_coco17_gpu-8.tar.gz"
    )


def test_fetched_once_and_remembered(server, cache, model, archive):
    folder = zoo.fetch(NAME)
    assert contents(folder) == contents(model)
    assert server.asked == [(f"/zoo/{NAME}.tar.gz", None)]
    digest = hashlib.sha256(archive).hexdigest()
    assert (cache / f"{NAME}.tar.gz.sha256").read_text() == f"{digest}  {NAME}.tar.gz\n"
    assert (cache / f"{NAME}.tar.gz").read_bytes() == archive
    assert not list(cache.rglob("*partial*"))
    assert next(row for row in zoo.zoo_rows() if row["name"] == NAME)["cached"]
    assert zoo.fetch(NAME) == folder == zoo.fetch(f"{NAME}.tar.gz")
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_continued(server, cache, model, ranges):
    server.stop_after, server.ranges = 1000, ranges
    with pytest.raises(ResightError, match=r"closed before the end .*which are kept") as error:
        zoo.fetch(NAME)
    assert error.value.where == f"{zoo.URL}/{NAME}.tar.gz"
    assert not (cache / NAME).exists() and not (cache / f"{NAME}.tar.gz.sha256").exists()
    assert (cache / f"{NAME}.tar.gz.partial").stat().st_size == 1000
    assert contents(zoo.fetch(NAME)) == contents(model)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-"]


@pytest.mark.parametrize("kept", ["whole", "too long"])
def test_a_download_that_was_not_yet_unpacked(server, cache, model, archive, kept):
    cache.mkdir(parents=True)
    (cache / f"{NAME}.tar.gz.partial").write_bytes(archive + b"x" * (kept == "too long"))
    assert contents(zoo.fetch(NAME)) == contents(model)
    assert len(server.asked) == (1 if kept == "whole" else 2)


def test_another_file_than_the_first_is_refused(server, cache, model):
    folder = zoo.fetch(NAME)
    (cache / f"{NAME}.tar.gz").unlink()
    (cache / NAME).rename(cache / "away")
    (model / "pipeline.config").write_text("model { other {} }")
    server.content = archived(model)
    with pytest.raises(ResightError, match="is not what was downloaded first: SHA-256") as error:
        zoo.fetch(NAME)
    assert f"{NAME}.tar.gz.sha256" in error.value.fix
    assert not folder.exists()
    (cache / f"{NAME}.tar.gz.sha256").unlink()
    assert (zoo.fetch(NAME) / "pipeline.config").read_text() == "model { other {} }"


def test_the_kept_archive_is_verified(server, cache):
    folder = zoo.fetch(NAME)
    kept = cache / f"{NAME}.tar.gz"
    kept.write_bytes(kept.read_bytes() + b"\0")
    (cache / NAME).rename(cache / "away")
    with pytest.raises(ResightError, match="is not what was downloaded first") as error:
        zoo.fetch(NAME)
    assert error.value.where == str(kept) and not folder.exists()
    kept.unlink()
    assert zoo.fetch(NAME) == folder


def test_a_damaged_download_is_not_kept(server, cache, archive, model):
    middle = len(archive) // 2
    server.content = archive[:middle] + bytes([archive[middle] ^ 255]) + archive[middle + 1 :]
    with pytest.raises(ResightError, match="cannot be unpacked"):
        zoo.fetch(NAME)
    assert [path.name for path in cache.iterdir()] in ([f"{NAME}.lock"], [])
    server.content = archive
    assert contents(zoo.fetch(NAME)) == contents(model)


def test_what_cannot_be_fetched(server, cache, monkeypatch):
    with pytest.raises(ResightError, match="no such model in the zoo") as error:
        zoo.fetch("faster_rcnn_resnet50_v1_640x640")
    assert f"Did you mean '{NAME}'?" in error.value.fix
    monkeypatch.setattr(zoo, "ZOO", (zoo.ZooModel("faster_rcnn_resnet50_404", 0.0, 0.0),))
    with pytest.raises(ResightError, match="cannot download: 404"):
        zoo.fetch("faster_rcnn_resnet50_404")
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ResightError, match=r"cannot download: .*refused"):
        zoo.fetch("faster_rcnn_resnet50_404")


def test_what_is_there_already_is_taken_as_it_is(cache, tmp_path, model, archive):
    assert zoo.fetch(model) == model
    assert zoo.fetch(model.parent) == model
    file = tmp_path / "mine.tar.gz"
    file.write_bytes(archive)
    folder = zoo.fetch(str(file))
    assert contents(folder) == contents(model) and folder.is_relative_to(cache)
    assert zoo.fetch(file) == folder
    assert file.read_bytes() == archive
    (model / "pipeline.config").write_text("another")
    file.write_bytes(archived(model))
    assert (zoo.fetch(file) / "pipeline.config").read_text() == "another"
    (model / "pipeline.config").unlink()
    with pytest.raises(ResightError, match=r"holds no model of TFOD") as error:
        zoo.fetch(model)
    assert "pipeline.config" in error.value.fix


def test_a_model_without_all_of_its_data_is_refused_and_not_kept(cache, tmp_path, model):
    (missing := model / "checkpoint" / "ckpt-0.data-00000-of-00001").unlink()
    with pytest.raises(ResightError, match="1 data files cannot be read") as error:
        zoo.fetch(model)
    assert error.value.where == str(missing)
    file = tmp_path / "mine.tar.gz"
    file.write_bytes(archived(model))
    with pytest.raises(ResightError, match="1 data files cannot be read") as error:
        zoo.fetch(file)
    assert error.value.where == f"{file}/{missing.relative_to(model.parent)}"
    (model / "pipeline.config").unlink()
    file.write_bytes(archived(model))
    with pytest.raises(ResightError, match="holds no model of TFOD") as error:
        zoo.fetch(file)
    assert error.value.where == str(file)
    assert not list(cache.iterdir())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"data"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    return info, data


@pytest.mark.parametrize(
    "bad",
    [
        member("../escaped"),
        member("model/../../escaped"),
        member("/tmp/resight-escaped"),
        member("model/link", tarfile.SYMTYPE, "/etc"),
        member("model/link", tarfile.SYMTYPE, "pipeline.config"),
        member("model/hard", tarfile.LNKTYPE, "../../escaped"),
        member("model/pipe", tarfile.FIFOTYPE),
        member("model/device", tarfile.CHRTYPE),
    ],
    ids=lambda bad: f"{bad[0].name}-{bad[0].type.decode()}",
)
def test_nothing_leaves_the_archive(tmp_path, cache, bad):
    file = tmp_path / "bad.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for info, data in (member("model/pipeline.config"), bad, member("model/link/inside"), bad):
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents}
    with pytest.raises(ResightError, match="contains entries that are not allowed") as error:
        zoo.unpack(file, cache / "model")
    assert str(error.value).count(bad[0].name) == 2
    assert list(cache.iterdir()) == []
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents} == before | {cache.parent, cache}
    assert not Path("/tmp/resight-escaped").exists()


def pax(size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((pax(12) + b"11 path=abc\n".ljust(512, b"\0")) * 600, "cannot be unpacked"),
        (pax(300 << 20) + bytes(300 << 20), "a header of 314,572,800 bytes"),
    ],
    ids=["headers in headers", "a header of many bytes"],
)
def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, cache, content, says):
    file = tmp_path / "bomb.tar.gz"
    file.write_bytes(gzip.compress(content + bytes(1024), 1))
    with pytest.raises(ResightError, match=says) as error:
        zoo.unpack(file, cache / "model")
    assert error.value.where.startswith(str(file)) and list(cache.iterdir()) == []


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, cache):
    info = tarfile.TarInfo("model/big")
    info.size = 100 << 20
    file = tmp_path / "bomb.tar.gz"
    file.write_bytes(gzip.compress(info.tobuf() + bytes(info.size + 1024), 1))
    with pytest.raises(ResightError, match="bytes hold more than 20 times as many"):
        zoo.unpack(file, cache / "model")
    assert list(cache.iterdir()) == []


@given(data=st.data())
def test_a_damaged_archive_is_refused_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("model/pipeline.config", "model/checkpoint/ckpt-0.index"):
            info, content = member(name)
            tar.addfile(info, io.BytesIO(content))
    tarred = out.getvalue()[:3072]
    if data.draw(st.booleans(), "inside"):  # what the checksum of gzip does not show
        position = data.draw(st.integers(0, len(tarred) - 1))
        damaged = gzip.compress(tarred[:position] + data.draw(st.binary(max_size=20)) + tarred[position + 5 :], 1)
    else:
        packed = gzip.compress(tarred, 1)
        position = data.draw(st.integers(10, len(packed) - 1))
        damaged = packed[:position] + data.draw(st.sampled_from([b"", b"\x55" + packed[position + 1 :]]))
        if damaged == packed:
            return
    (folder / "a.tar.gz").write_bytes(damaged)
    try:
        zoo.unpack(folder / "a.tar.gz", folder / "out")
    except ResightError as error:
        assert str(error)
        assert [path.name for path in folder.iterdir()] == ["a.tar.gz"]
    else:
        assert {path.name for path in folder.iterdir()} == {"a.tar.gz", "out"}


def test_what_tfod_left(tmp_path, model, write_checkpoint):
    found = find_tfod(model)
    assert (found.folder, found.prefix) == (model, model / "checkpoint" / "ckpt-0")
    assert found.pipeline == model / "pipeline.config"
    for path in (model / "checkpoint", model / "checkpoint" / "ckpt-0", model / "checkpoint" / "ckpt-0.index"):
        assert find_tfod(path) == found
    training = tmp_path / "training"
    for number in (4, 12):
        write_checkpoint(training / f"ckpt-{number}", {"x": np.zeros(1, np.float32)})
    assert find_tfod(training).prefix == training / "ckpt-12" and find_tfod(training).pipeline is None
    (training / "pipeline.config").touch()
    (training / "checkpoint").write_text('model_checkpoint_path: "ckpt-4"')
    assert find_tfod(training).prefix == training / "ckpt-4"
    assert find_tfod(training).pipeline == training / "pipeline.config"
    assert find_tfod(training / "ckpt-12").prefix == training / "ckpt-12"
    assert find_tfod(training / "ckpt-12").pipeline == training / "pipeline.config"
    for path in (tmp_path / "nothing", training / "ckpt-5", tmp_path, training / "pipeline.config"):
        assert find_tfod(path) is None


def test_a_proxy_that_is_none_is_an_error_without_its_password(cache, monkeypatch):
    for proxy in ("http:/user:hunter2@host", "http://user:hunter2@localhost:1"):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setattr("urllib.request._opener", None)
        with pytest.raises(ResightError, match="cannot download") as caught:
            zoo.fetch(NAME)
        assert "hunter2" not in str(caught.value)
