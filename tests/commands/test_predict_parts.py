"""Predictions in parts: a kill, a repetition, and what one run writes."""

import functools
import json
import os
import shutil
import signal
import zlib

import numpy as np
import pytest
from PIL import Image

from fixtures.videos import write_video
from resight.commands import predict as module
from resight.commands import predictions
from resight.commands.predict import predict
from resight.errors import ResightError
from resight.inference.detector import load
from resight.io import object_store as storage
from resight.types import Detections

COUNT = 24


@pytest.fixture(autouse=True)
def quick_detector(monkeypatch):
    """The model is read once, and finds at once what the pixels say."""
    monkeypatch.setattr(module, "load", _load)


@functools.cache
def _load(model, device, *, labels, detections):
    detector = load(model, device, labels=labels, detections=detections)

    def detect(image):
        draw = np.random.default_rng(zlib.crc32(image.tobytes()))
        corners = draw.random((7, 2, 2), np.float32).cumsum(1) * 10
        scores = np.sort(draw.random(7, np.float32))[::-1]
        size = image.shape[1::-1]
        return Detections(corners.reshape(7, 4), scores, draw.integers(0, 2, 7), detector.classes, *size)

    detector.detect = detect
    return detector


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures in two folders, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path)
    (folder / "b" / "15.png").write_bytes(b"no picture")
    return folder


def killed(monkeypatch, after, *arguments, **options):
    """Predicts in a process of its own, which is killed with SIGKILL while it writes a line."""
    if not (child := os.fork()):
        try:
            add, lines = predictions.Lines.add, []

            def dies(self, row):
                add(self, row)
                self._file.flush()
                lines.append(row)
                if len(lines) == after:
                    os.kill(os.getpid(), signal.SIGKILL)

            monkeypatch.setattr(predictions.Lines, "add", dies)
            predict(*arguments, **options)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_parts_of_which_two_were_killed_make_what_one_run_writes(untrained, photos, tmp_path, monkeypatch):
    one = predict(untrained, photos, tmp_path / "one", no_pictures=True)
    lines = predict(untrained, photos, tmp_path / "lines", no_pictures=True, jsonl=True)
    parts = tmp_path / "parts"
    for number, after in ((2, 1), (5, 3)):
        killed(monkeypatch, after, untrained, photos, parts, part=f"{number}/7")
    assert len([name for name in os.listdir(parts) if not name.startswith(".")]) == 0
    for number in (3, 1, 7, 2, 6, 4):
        predict(untrained, photos, parts, part=f"{number}/7")
    with pytest.raises(ResightError, match="1 of the 7 parts are not done: part-00005-of-00007") as caught:
        predict(merge=parts, out=tmp_path / "merged")
    assert "--part 5/7" in caught.value.fix
    predict(untrained, photos, parts, part="5/7")
    assert len(os.listdir(parts)) == 14  # nothing is left of what was killed
    merged = predict(merge=parts, out=tmp_path / "merged")
    assert (tmp_path / "merged" / "detections.json").read_bytes() == (tmp_path / "one" / "detections.json").read_bytes()
    predict(merge=str(parts), out=tmp_path / "merged", jsonl=True, force=True)
    name = "detections.jsonl"
    assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "lines" / name).read_bytes()
    assert os.listdir(tmp_path / "merged") == [name]
    assert merged.tally == one.tally == lines.tally and merged.unread == (str(photos / "b" / "15.png"),)
    assert merged.text() == f"{one.text()}\nMerged 7 parts."


def test_a_part_that_was_done_is_not_done_again_unless_something_differs(untrained, photos, tmp_path, monkeypatch):
    photos = shutil.copytree(photos / "a", tmp_path / "photos")
    first = predict(untrained, photos, tmp_path / "parts", part="2/2")
    kept = (tmp_path / "parts" / "part-00002-of-00002.jsonl").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(module, "load", lambda *_, **__: pytest.fail("was done"))
        again = predict(untrained, photos, tmp_path / "parts", part="2/2")
        assert again.tally == first.tally and again.path == first.path and "done already" in again.text()
        for options, words in (({"score": 0.5}, "score"), ({"detections": 3}, "detections")):
            with pytest.raises(
                ResightError, match=f"part-00002-of-00002 of another job already: it differs in {words}"
            ):
                predict(untrained, photos, tmp_path / "parts", part="2/2", **options)
        shutil.copy(photos / "0.png", photos / "1.png")
        with pytest.raises(ResightError, match="it differs in files, names"):
            predict(untrained, photos, tmp_path / "parts", part="2/2")
        other = tmp_path / "model.safetensors"
        other.write_bytes(untrained.read_bytes()[:-4] + b"\0\0\0\0")
        with pytest.raises(ResightError, match="it differs in files, names, model"):
            predict(other, photos, tmp_path / "parts", part="2/2")
    assert (tmp_path / "parts" / "part-00002-of-00002.jsonl").stat().st_mtime_ns == kept
    predict(untrained, photos, tmp_path / "parts", part="2/2", force=True)
    predict(untrained, photos, tmp_path / "parts", part="1/2")
    os.truncate(tmp_path / "parts" / "part-00001-of-00002.jsonl", 10)
    with pytest.raises(ResightError, match="is damaged"):
        predict(merge=tmp_path / "parts", out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    predict(untrained, photos, tmp_path / "parts", part="1/2")
    assert predict(merge=tmp_path / "parts", out=tmp_path / "merged").tally.images == 13


def test_parts_in_a_store(untrained, photos, tmp_path, s3, monkeypatch):
    video = write_video(tmp_path / "a.mp4", 4)
    address, place = s3.put(photos / "a", "photos"), f"s3://{s3.bucket}/parts"
    inputs = [f"{address}/0.png", f"{address}/8.png", str(video)]
    one = predict(untrained, inputs, tmp_path / "one")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "5")  # more than there are images
    for index in range(5):
        monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", str(index))
        report = predict(untrained, inputs, place, part="auto")
        assert report.path == f"{place}/part-{index + 1:05}-of-00005.jsonl"
    assert "done already" in predict(untrained, inputs, place, part="4/5").text()
    merged = predict(merge=place, out=tmp_path / "merged")
    for name in ("merged", "one"):
        assert "detections.jsonl" in os.listdir(tmp_path / name)
    whole = (tmp_path / "one" / "detections.jsonl").read_bytes()
    assert (tmp_path / "merged" / "detections.jsonl").read_bytes() == whole and merged.tally == one.tally
    assert predict(merge=place, out=f"s3://{s3.bucket}/merged").path == f"s3://{s3.bucket}/merged/detections.jsonl"
    assert storage.read(f"s3://{s3.bucket}/merged/detections.jsonl") == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": "0/7"}, "--part: there is no part 0 of 7"),
        ({"part": "8/7"}, "--part: there is no part 8 of 7"),
        ({"part": "1-7"}, "--part: '1-7' is no part"),
        ({"part": "auto"}, "--part auto: nothing in the environment"),
        ({"part": "1/2", "save": "coco"}, "--save: is not for parts"),
        ({"part": "1/2", "crops": True}, "--crops: is not for parts"),
        ({"merge": "x"}, "--merge: takes the parts as they are, and no MODEL, INPUT"),
        (
            {"model": None, "inputs": [], "merge": "x", "score": 0.5},
            "--merge: takes the parts as they are, and no --score",
        ),
        ({"model": None}, "MODEL: there is none"),
    ],
)
def test_wrong_parts_are_told(untrained, photos, tmp_path, options, words, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "AWS_BATCH", "RANK", "WORLD_SIZE"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ResightError) as caught:
        predict(**{"model": untrained, "inputs": photos, "out": tmp_path / "parts", **options})
    assert str(caught.value).startswith(words)
    assert not (tmp_path / "parts").exists()


def test_parts_of_which_no_image_could_be_read_are_what_one_run_is(untrained, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    for number in (1, 2):
        assert not predict(untrained, tmp_path, tmp_path / "parts", part=f"{number}/2").ok
    told = []
    for options in ({"model": untrained, "inputs": tmp_path}, {"merge": tmp_path / "parts"}):
        with pytest.raises(ResightError, match=r"could not be read, and there is no other image") as caught:
            predict(**options, out=tmp_path / "out")
        told.append(str(caught.value))
    assert told[0] == told[1] and not (tmp_path / "out").exists()


def test_images_that_come_meanwhile_make_a_part_void(untrained, photos, tmp_path, monkeypatch):
    photos = shutil.copytree(photos / "a", tmp_path / "photos")
    look = predictions.look

    def and_one_more(*arguments):
        shutil.copy(photos / "0.png", photos / "z.png")
        return look(*arguments)

    monkeypatch.setattr("resight.commands.predict_parts.look", and_one_more)
    with pytest.raises(ResightError, match="came or went"):
        predict(untrained, photos, tmp_path / "parts", part="1/2")
    assert os.listdir(tmp_path / "parts") == []


def test_the_head_of_a_part_is_documented(untrained, photos, tmp_path):
    predict(untrained, photos / "a", tmp_path / "parts", part="1/1")
    head = json.loads((tmp_path / "parts" / "part-00001-of-00001.json").read_text())
    assert list(head) == ["part", "settings", "bytes", "sha256", "head", "lines", "tally"]
    del head["tally"]["full"], head["head"]["most"]
    (tmp_path / "parts" / "part-00001-of-00001.json").write_text(json.dumps(head))
    with pytest.raises(ResightError, match=r"part-00001-of-00001\.json: does not say"):
        predict(merge=tmp_path / "parts", out=tmp_path / "merged")
