import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from resight.cli.app import app
from resight.commands import predictions
from resight.commands.predict import predict
from resight.datasets.formats import read_source
from resight.drawing import draw
from resight.errors import ResightError
from resight.inference.detector import load
from resight.inference.inputs import Inputs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders with a picture of the same name in each, and something else."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name, size in (("a/1.png", (40, 60)), ("b/1.JPG", (50, 30)), ("b/deep/2.png", (33, 47))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "b" / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def done(untrained, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "found"
    return predict(untrained, [photos], out)


def test_the_list_has_exactly_the_form_that_is_promised(done, untrained, photos):
    result = json.loads((photos.parent / done.out / "detections.json").read_text())
    assert result == done.result == done.json()
    assert list(result) == ["model", "classes", "score", "images"]
    assert (result["model"], result["classes"], result["score"]) == (str(untrained), ["red", "blue"], 0.3)
    sizes = {image["file"]: (image["width"], image["height"]) for image in result["images"]}
    assert sizes == {
        str(photos / "a/1.png"): (60, 40), str(photos / "b/1.JPG"): (30, 50), str(photos / "b/deep/2.png"): (47, 33),
    }  # fmt: skip
    for image in result["images"]:
        assert list(image) == ["file", "width", "height", "detections"] and image["detections"]
        for found in image["detections"]:
            assert list(found) == ["label", "score", "box"]
            assert found["label"] in ("red", "blue") and 0.05 <= found["score"] <= 1
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 < x2 <= image["width"] and 0 <= y1 < y2 <= image["height"]
    documented = (Path(resight.__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert all(f'"{key}"' in documented for key in (*result, *result["images"][0], *found))


def test_the_list_is_what_the_detector_finds(done, untrained):
    detector = load(untrained)
    for image in done.result["images"]:
        found = detector(image["file"], score=0.05)
        assert [row["label"] for row in image["detections"]] == found.names
        np.testing.assert_allclose([row["box"] for row in image["detections"]], found.boxes, atol=0.0051)
        np.testing.assert_allclose([row["score"] for row in image["detections"]], found.scores, atol=0.0000051)


def test_each_image_has_a_picture_of_its_own(done, photos, tmp_path):
    assert sorted(os.listdir(done.out)) == ["1-2.jpg", "1.jpg", "2.jpg", "detections.json"]
    sizes = [Image.open(os.path.join(done.out, name)).size for name in ("1.jpg", "1-2.jpg", "2.jpg")]
    assert sizes == [(60, 40), (30, 50), (47, 33)]


def test_pictures_show_what_is_at_the_threshold_or_more(untrained, photos, tmp_path):
    path = photos / "a" / "1.png"
    found = load(untrained)(path, score=0)
    level = float(found.scores[4])
    predict(untrained, [path], tmp_path / "out", score=level)
    shown = found.above(level)
    assert len(shown) == 5
    expected = draw(np.asarray(Image.open(path)), shown.boxes, shown.names, shown.scores)
    Image.fromarray(expected).save(tmp_path / "expected.jpg", quality=92)
    assert (tmp_path / "out" / "1.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def test_a_threshold_below_that_of_the_list_is_that_of_the_list(untrained, photos, tmp_path):
    report = predict(untrained, [photos / "a"], tmp_path / "out", score=0.01)
    assert report.result["score"] == 0.01
    report = predict(untrained, [photos / "a"], tmp_path / "none", score=1)
    assert "at score 1.00 or more: nothing" in report.text()
    assert all(row["score"] >= 0.05 for row in report.result["images"][0]["detections"])


def test_an_image_that_cannot_be_read_is_counted_and_named(untrained, photos, tmp_path, caplog):
    shutil.copytree(photos, tmp_path / "photos")
    broken = tmp_path / "photos" / "a" / "0.png"
    broken.write_bytes((photos / "a" / "1.png").read_bytes()[:300])
    report = predict(untrained, [tmp_path / "photos"], tmp_path / "out")
    assert report.unread == (str(broken),) and len(report.result["images"]) == 3
    assert report.text().startswith("3 images; ")
    assert f"1 image could not be read: {broken}" in report.text()
    assert str(broken) in caplog.text
    assert not (tmp_path / "out" / "0.jpg").exists()
    with pytest.raises(ResightError, match="could not be read, and there is no other image"):
        predict(untrained, [broken], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_the_command_exits_1_where_an_image_could_not_be_read(untrained, photos, tmp_path):
    from typer.testing import CliRunner

    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    words = ["predict", str(untrained), str(photos / "a"), "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code == 0
    said = CliRunner().invoke(app, [*words, str(tmp_path / "broken.jpg"), "--force"])
    assert said.exit_code == 1 and "1 image could not be read" in said.stdout


def test_names_of_files_need_not_be_text(untrained, photos, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(photos / "a" / "1.png", tmp_path / name)
    predict(untrained, [tmp_path / name], tmp_path / "out")
    result = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert result["images"][0]["file"] == str(tmp_path / name)
    predict(untrained, [photos / "a"], tmp_path / "out", force=True)  # its picture is ours, too
    assert sorted(os.listdir(tmp_path / "out")) == ["1.jpg", "detections.json"]


# Detections as data


def test_detections_are_also_saved_as_a_data_set_and_cut_out(untrained, photos, tmp_path, done):
    out = tmp_path / "out"
    report = predict(untrained, [photos], out, save="coco", crops=True, no_pictures=True)
    assert report.result == done.result
    assert sorted(os.listdir(out)) == ["crops", "dataset", "detections.json"]
    read = {annotation.filename: annotation for annotation in read_source(out / "dataset").annotations}
    assert list(read) == ["1.png", "1-2.JPG", "2.png"]
    crops = {path.name for path in (out / "crops").rglob("*.jpg")}
    for name, image in zip(read, report.result["images"], strict=True):
        shown = [row for row in image["detections"] if row["score"] >= report.result["score"]]
        assert shown and [box.label for box in read[name].boxes] == [row["label"] for row in shown]
        for box, row in zip(read[name].boxes, shown, strict=True):
            assert box.xyxy == pytest.approx(row["box"], abs=0.0051)
        assert {f"{Path(name).stem}-{number}.jpg" for number in range(1, len(shown) + 1)} <= crops
        assert (out / "dataset" / "images" / name).read_bytes() == Path(image["file"]).read_bytes()


@pytest.mark.parametrize("folder", ["dataset", "crops"])
def test_a_data_set_is_replaced_only_as_it_was_written(untrained, photos, tmp_path, folder):
    out = tmp_path / "out"
    options = {"save": "yolo", "crops": True, "score": 0.2}
    predict(untrained, [photos / "a"], out, **options)
    predict(untrained, [photos / "a"], out, **options, force=True)
    (file, *_) = (path for path in (out / folder).rglob("1*") if path.is_file())
    time.sleep(0.02)  # the clock of a file system is coarse
    file.write_bytes(file.read_bytes())  # corrected, for all we know
    with pytest.raises(ResightError, match=f"is not replaced: {folder}"):
        predict(untrained, [photos / "a"], out, **options, force=True)
    assert file.exists()
    shutil.rmtree(out / folder)
    predict(untrained, [photos / "a"], out, force=True)
    assert sorted(os.listdir(out)) == ["1.jpg", "detections.json"]


def test_the_command_saves_and_names_the_next(untrained, photos, tmp_path):
    from typer.testing import CliRunner

    out = tmp_path / "out"
    words = ["predict", str(untrained), str(photos / "a"), "-o", str(out), "--save", "voc", "--no-pictures"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0 and f"resight data check {out / 'dataset'}" in said.stderr
    assert sorted(os.listdir(out)) == ["dataset", "detections.json"]


def test_what_cannot_be_saved_is_refused_before_the_work(untrained, photos, tmp_path):
    (tmp_path / "map.pbtxt").write_text("item { id: 1 name: 'a' } item { id: 2 name: ' b' }")
    with pytest.raises(ResightError, match="the class ' b'"):
        predict(untrained, [photos], tmp_path / "out", save="csv", labels=tmp_path / "map.pbtxt")
    with pytest.raises(ResightError, match="unknown value 'yoloo'") as caught:
        predict(untrained, [photos], tmp_path / "out", save="yoloo")
    assert "yolo" in caught.value.fix and caught.value.where == "--save"
    assert not (tmp_path / "out").exists()


# What is there already


def test_an_earlier_prediction_is_replaced_only_when_asked(untrained, photos, tmp_path):
    out = tmp_path / "out"
    predict(untrained, [photos], out)
    before = sorted(os.listdir(out))
    with pytest.raises(ResightError, match="already holds something"):
        predict(untrained, [photos / "a"], out)
    assert sorted(os.listdir(out)) == before
    predict(untrained, [photos / "a"], out, force=True)
    assert sorted(os.listdir(out)) == ["1.jpg", "detections.json"]


@pytest.mark.parametrize("foreign", ["holiday.jpg", "1.png", "notes.txt", "more"])
def test_files_of_others_are_never_replaced(untrained, photos, tmp_path, foreign):
    out = tmp_path / "out"
    predict(untrained, [photos / "a"], out)
    if foreign == "more":
        (out / foreign).mkdir()
    else:
        (out / foreign).write_text("mine")
    with pytest.raises(ResightError, match=f"is not replaced: {foreign}"):
        predict(untrained, [photos / "a"], out, force=True)
    assert (out / foreign).exists() and (out / "detections.json").exists()


def test_a_list_of_others_is_no_leave_to_replace(untrained, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for text in ("no JSON", "[]", '{"images": [3]}', "[" * 100_000):
        (out / "detections.json").write_text(text)
        with pytest.raises(ResightError, match=r"is not replaced: detections\.json"):
            predict(untrained, [photos / "a"], out, force=True)


def test_ctrl_c_leaves_nothing(untrained, photos, tmp_path, monkeypatch):
    pictures = []

    def interrupted(*arguments, **options):
        pictures.append(arguments)
        if len(pictures) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(predictions, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(untrained, [photos], tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_the_output_is_refused_before_the_work(photos, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ResightError, match="already holds something"):
        predict("no such model", [photos], tmp_path)
    with pytest.raises(ResightError, match="is the name of an image"):
        predict("no such model", [photos], tmp_path / "found.PNG")


# What is given


def test_what_was_drawn_before_is_no_input(untrained, tmp_path, caplog, monkeypatch):
    (tmp_path / "photos" / ".found.partial-0a").mkdir(parents=True)
    for name in ("1.png", ".found.partial-0a/1.jpg"):  # the second is of a prediction that was killed
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / name)
    first = predict(untrained, tmp_path / "photos", tmp_path / "photos" / "found")
    assert "output folder" not in caplog.text
    monkeypatch.chdir(tmp_path)
    second = predict(untrained, "photos", "photos/found", force=True)
    assert "photos: left out found, the output folder" in caplog.text
    assert len(first.result["images"]) == len(second.result["images"]) == 1
    assert [source.file for source in Inputs(["photos/found"], "elsewhere")] == ["photos/found/1.jpg"]


def test_one_input_needs_no_list(untrained, photos, tmp_path):
    report = predict(untrained, str(photos / "a"), tmp_path / "out")
    assert [image["file"] for image in report.result["images"]] == [str(photos / "a" / "1.png")]
    assert report.text().startswith("1 image; ")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": 3}, "predict: model is 3"),
        ({"inputs": None}, "predict: inputs is None"),
        ({"inputs": [3]}, "INPUT: number 1 is 3"),
        ({"inputs": ["a.jpg", ""]}, "INPUT: number 2 is empty"),
        ({"inputs": []}, "INPUT: there is none"),
        ({"out": ""}, "predict: out is empty"),
        ({"out": None}, "predict: out is None"),
        ({"score": "high"}, "predict: score is 'high'"),
        ({"score": 7}, "score: must be a number from 0 to 1"),
        ({"nms_iou": -1}, "nms_iou: must be a number from 0 to 1"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(untrained, photos, tmp_path, wrong, words):
    with pytest.raises(ResightError) as caught:
        predict(**{"model": untrained, "inputs": [photos], "out": tmp_path / "out", **wrong})
    assert str(caught.value).startswith(words)
    assert not (tmp_path / "out").exists()


def test_a_link_to_nowhere_is_told_of_and_a_pipe_in_a_folder_left_out(untrained, photos, tmp_path, caplog):
    shutil.copytree(photos / "a", tmp_path / "photos")
    (tmp_path / "photos" / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "photos" / "pipe.jpg")
    report = predict(untrained, [tmp_path / "photos"], tmp_path / "out")
    assert report.unread == (str(tmp_path / "photos" / "link.jpg"),) and len(report.result["images"]) == 1
    assert f"skipped non-regular files: {tmp_path / 'photos' / 'pipe.jpg'}" in caplog.text


def test_images_with_as_many_detections_as_they_can_have_are_counted(untrained, photos, tmp_path, done):
    most = {image["file"]: len(image["detections"]) for image in done.result["images"]}
    limit = max(most.values()) - 1
    full = sum(number >= limit for number in most.values())
    report = predict(untrained, photos, tmp_path / "few", detections=limit)
    assert max(len(image["detections"]) for image in report.result["images"]) == limit
    assert f"{full} image" in report.text() and f"({limit}: model.detections)" in report.text()
    high = predict(untrained, photos, tmp_path / "all", detections=1000)
    assert "reached the limit" not in high.text()


def test_more_than_100_detections(untrained, photos):
    image = photos / "a/1.png"
    assert len(load(untrained)(image, score=0)) == 100
    found = load(untrained, detections=250)(image, score=0)
    assert 100 < len(found) <= 250


def test_on_a_gpu_the_same_is_found(pretended_cuda, untrained, photos, done, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "b" / "0.png").write_bytes(b"no picture")
    with pretended_cuda():
        report = predict(untrained, [tmp_path / "photos"], tmp_path / "out", save="csv")
    assert report.unread == (str(tmp_path / "photos" / "b" / "0.png"),)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(["dataset", *os.listdir(done.out)])
    names = [annotation.filename for annotation in read_source(tmp_path / "out" / "dataset").annotations]
    assert names == ["1.png", "1-2.JPG", "2.png"]
    for image, expected in zip(report.result["images"], done.result["images"], strict=True):
        assert Path(image["file"]).relative_to(tmp_path / "photos") == Path(expected["file"]).relative_to(photos)
        assert [row["score"] for row in image["detections"]] == pytest.approx(
            [row["score"] for row in expected["detections"]], abs=1e-4
        )


def test_the_arithmetic_is_chosen(untrained, photos, done, tmp_path):
    half = predict(untrained, [photos], tmp_path / "out", precision="bfloat16")
    assert half.result["images"] != done.result["images"]
    with pytest.raises(ResightError, match="--precision: unknown value 'float16'"):
        predict(untrained, [photos], tmp_path / "other", precision="float16")
