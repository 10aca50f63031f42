"""The list, in both of its forms, and drawn videos."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fixtures.videos import write_sound, write_video
from resight.cli.app import app
from resight.commands import predict as module
from resight.commands.predict import predict
from resight.config.most_detections import MostDetections
from resight.drawing import draw
from resight.errors import ResightError
from resight.inference.detector import load
from resight.inference.video import Video


@pytest.fixture(autouse=True)
def loaded_once(load_once):
    """The model is the same in all tests here."""
    load_once(module)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A picture and two videos, the second cut short."""
    folder = tmp_path_factory.mktemp("media")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "1.png")
    write_video(folder / "a.mp4", 5)
    path = write_video(folder / "b.mp4", 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_for_each_image_says_what_the_document_says(untrained, media, tmp_path):
    name = media / os.fsdecode(b"caf\xe9.png")
    shutil.copy(media / "1.png", name)
    try:
        plain = predict(untrained, [media], tmp_path / "plain", no_pictures=True)
        report = predict(untrained, [media], tmp_path / "out", jsonl=True)
    finally:
        name.unlink()
    document = plain.result
    text = json.dumps(document, indent=1, ensure_ascii=False).encode(errors="backslashreplace")
    assert (tmp_path / "plain" / "detections.json").read_bytes() == text  # though it was written image by image
    assert sorted(os.listdir(tmp_path / "out")) == sorted(["1.jpg", os.fsdecode(b"caf\xe9.jpg"), "detections.jsonl"])
    assert lines(tmp_path / "out" / "detections.jsonl") == document["images"]
    assert report.result == document and report.text() == plain.text()
    assert report.json()["found"] == plain.tally.found and report.json()["images"] == 2
    predict(untrained, [media / "1.png"], tmp_path / "out", force=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["1.jpg", "detections.json"]


def test_images_and_videos_are_listed_in_the_order_they_were_named(untrained, media, tmp_path, caplog):
    videos = [media / "a.mp4", media / "b.mp4"]
    report = predict(untrained, [videos[0], media / "1.png", videos[1]], tmp_path / "out", frame_stride=2, crops=True)
    rows = lines(tmp_path / "out" / "detections.jsonl")
    whole, cut = ([frame for frame in Video(path, 2)] for path in videos)
    assert len(whole) == 3 and 1 < len(cut) < 4
    wanted = [(str(videos[0]), frame.number, frame.seconds) for frame in whole]
    wanted += [(str(media / "1.png"), None, None)]
    wanted += [(str(videos[1]), frame.number, frame.seconds) for frame in cut]
    assert [(row["file"], row.get("frame"), row.get("time")) for row in rows] == wanted
    assert list(rows[0]) == ["file", "frame", "time", "width", "height", "detections"]
    detector = load(untrained)
    for row, frame in zip(rows[4:], cut, strict=True):
        found = detector(frame.image, score=0.05)
        assert (row["width"], row["height"]) == (96, 64)
        assert [one["label"] for one in row["detections"]] == found.names
    assert report.damaged == (str(videos[1]),) and not report.ok and not report.unread
    assert "1 image and" in report.text() and "1 video not whole" in report.text() and "frames could be" in caplog.text
    assert sorted(os.listdir(tmp_path / "out")) == ["1.jpg", "a.mp4", "b.mp4", "crops", "detections.jsonl"]
    assert any(path.name.startswith("a-000002-") for path in (tmp_path / "out" / "crops").rglob("*.jpg"))
    drawn = list(Video(tmp_path / "out" / "a.mp4"))
    assert [frame.seconds for frame in drawn] == pytest.approx([frame.seconds for frame in whole], abs=1e-3)
    shown = detector(whole[1].image)
    expected = draw(whole[1].image, shown.boxes, shown.names, shown.scores)
    differences = [np.abs(drawn[1].image.astype(int) - one).mean() for one in (expected, whole[1].image)]
    assert differences[0] < differences[1] / 2


def test_a_drawn_video_is_replaced_when_asked(untrained, media, tmp_path):
    for force in (False, True):
        predict(untrained, media / "a.mp4", tmp_path / "out", frame_stride=4, force=force)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "detections.jsonl"]
    (tmp_path / "out" / "holiday.mp4").touch()
    with pytest.raises(ResightError, match=r"is not replaced: holiday\.mp4"):
        predict(untrained, media / "a.mp4", tmp_path / "out", force=True)


def test_videos_that_hold_none_are_counted(untrained, media, tmp_path, caplog):
    sound = write_sound(tmp_path / "sound.mp4")
    report = predict(untrained, [media / "1.png", sound], tmp_path / "out")
    assert report.unread == (str(sound),) and "sound.mp4: holds no video" in caplog.text
    assert f"1 file could not be read: {sound}" in report.text()
    with pytest.raises(ResightError, match="could not be read, and there is no other image"):
        predict(untrained, sound, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_command_exits_1_where_a_video_broke_off(untrained, media, tmp_path):
    from typer.testing import CliRunner

    words = ["predict", str(untrained), str(media / "b.mp4"), "-o", str(tmp_path / "out"), "--no-pictures", "--json"]
    said = CliRunner().invoke(app, [*words, "--frame-stride", "5"])
    assert said.exit_code == 1 and json.loads(said.stdout)["frames"] == 1
    assert os.listdir(tmp_path / "out") == ["detections.jsonl"]


def test_ctrl_c_in_a_video_leaves_nothing(untrained, media, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("resight.commands.predictions.VideoWriter.add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(untrained, media / "a.mp4", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_frames_are_no_files_of_a_data_set(untrained, media, tmp_path):
    with pytest.raises(ResightError, match="--save") as caught:
        predict(untrained, media / "a.mp4", tmp_path / "out", save="coco")
    assert "ffmpeg" in caught.value.fix
    with pytest.raises(ResightError, match="--frame-stride: is 0"):
        predict(untrained, media / "a.mp4", tmp_path / "out", frame_stride=0)


def test_a_store_is_read_and_written(untrained, media, tmp_path, s3):
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(media / "1.png", there / "1.png")
    (there / "2.png").write_bytes(b"no picture")
    shutil.copy(media / "a.mp4", there / "a.mp4")
    address = s3.put(there, "photos")
    out = f"s3://{s3.bucket}/found"
    report = predict(untrained, [address, f"{address}/a.mp4"], out, frame_stride=4)
    assert report.path == f"{out}/detections.jsonl" and report.unread == (f"{address}/2.png",)
    local = predict(untrained, [address, f"{address}/a.mp4"], tmp_path / "found", frame_stride=4)
    assert sorted(os.listdir(tmp_path / "found")) == ["1.jpg", "a.mp4", "detections.jsonl"]
    from resight.io import object_store as storage

    assert storage.read(report.path) == (tmp_path / "found" / "detections.jsonl").read_bytes()
    here = predict(untrained, [there / "1.png", there / "a.mp4"], tmp_path / "here", frame_stride=4).result["images"]
    for one, other in zip(local.result["images"], here, strict=True):
        assert one["file"] == f"{address}/{os.path.basename(other['file'])}"
        assert {**one, "file": ""} == {**other, "file": ""}
    with pytest.raises(ResightError, match=r"detections\.jsonl: exists already"):
        predict(untrained, address, out)
    predict(untrained, address, out, force=True)
    for option in ({"save": "coco"}, {"crops": True}):
        with pytest.raises(ResightError, match="only the list is written"):
            predict(untrained, address, out, force=True, **option)


def test_a_limit_that_was_reached_is_told_of_a_head_that_was_read():
    from resight.commands.predictions import Head

    head = Head("m", ("a",), 0.5, MostDetections(3, 2, ("x", "y")))
    assert Head.read(json.loads(json.dumps(head._asdict() if hasattr(head, "_asdict") else head.__dict__))) == head
