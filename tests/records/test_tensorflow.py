"""TensorFlow reads what is written here, and what TensorFlow wrote is read: `oracles/records.py`."""

import hashlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from resight.io.images import decode
from resight.label_map import LabelMap, to_pbtxt
from resight.records.reader import open_records
from resight.records.tfrecord import TFRecordWriter, read_tfrecord

ORACLE = runpy.run_path(str(Path(__file__).parent / "oracles" / "records.py"))
LABELS = LabelMap.from_names(ORACLE["NAMES"])
SIZE = ORACLE["SIZE"]
SIDES = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def both(kept_answers):
    """What TensorFlow was given, and its answer."""
    return kept_answers("records/oracles/records")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_what_is_written_is_what_tensorflow_was_given(both):
    """Otherwise its answers are about other files, and it has to be asked again."""
    written = ORACLE["written"](both[0])
    assert len(written) == 6
    assert [name for name, data in written.items() if not np.array_equal(data, both[0][name])] == []


@pytest.mark.parametrize("layout", ["resight", "tfod"])
def test_tensorflow_reads_what_is_written(both, layout):
    given, answer = both
    by_name = {annotation.filename: annotation for annotation in ORACLE["annotations"](given)}
    for row in json.loads(str(answer[f"read/{layout}"])):
        found = {key.removeprefix("object/"): value for key, value in row.items()}
        annotation = by_name.pop(found["filename"])
        assert found["encoded"] == found["key/sha256"] == hashlib.sha256(annotation.image).hexdigest()
        assert found["shape"] == [*SIZE[::-1], 3] and (found["width"], found["height"]) == SIZE
        assert found["format"] == ("png" if annotation.image.startswith(b"\x89PNG") else "jpeg")
        assert (found["source_id"], found["source_group"]) == (annotation.source_id, annotation.group)
        boxes = annotation.boxes
        corners = np.stack([found[f"bbox/{side}"] for side in SIDES], axis=1) * [*SIZE, *SIZE]
        np.testing.assert_allclose(corners, np.reshape([box.xyxy for box in boxes], (-1, 4)), rtol=1e-6)
        assert found["class/text"] == [box.label for box in boxes]
        assert found["class/label"] == [LABELS.names.index(box.label) + 1 for box in boxes]
        for key, name in (("difficult", "difficult"), ("is_crowd", "crowd"), ("occluded", "occluded")):
            assert found[key] == [getattr(box, name) for box in boxes]
        assert found["area"] == [box.area for box in boxes if box.area is not None]
    assert by_name == {}


def test_what_tensorflow_wrote_is_read(both, tmp_path):
    given, answer = both
    expected = {row["name"]: row for rows in json.loads(str(given["rows"])).values() for row in rows}
    for key in (key for key in answer if key.startswith("written/")):
        (tmp_path / key.removeprefix("written/")).write_bytes(answer[key].tobytes())
    (tmp_path / "signs.pbtxt").write_text(to_pbtxt(LABELS), encoding="utf-8")
    records = open_records(tmp_path)
    assert records.problems == []
    sizes = {name: (len(split), len(split.shards)) for name, split in records.splits.items()}
    assert sizes == {"train": (8, 2), "val": (4, 1)}
    for split in records.splits.values():
        for i, summary in enumerate(split.summaries):
            record = split[i]
            row = expected.pop(record.filename)
            boxes, texts = np.float32(row["boxes"]).reshape(-1, 4), row["texts"]
            np.testing.assert_allclose(record.boxes, boxes * np.float32([*SIZE, *SIZE]), rtol=2e-7)
            assert record.label_texts == summary.label_texts == tuple(texts)
            assert split.labels(record).tolist() == [LABELS.names.index(text) for text in texts]
            assert record.encoded == given[f"image/{2 * len(texts)}"].tobytes()
            assert record.difficult.tolist() == [k % 2 == 1 for k in range(len(texts))]
    assert expected == {}


def test_plain_tfrecords_are_tensorflows_byte_for_byte(both, tmp_path):
    given, answer = both
    payloads = [given[f"payload/{number}"].tobytes() for number in range(4)]
    (tmp_path / "theirs").write_bytes(answer["payloads"].tobytes())
    assert [payload for _, payload in read_tfrecord(tmp_path / "theirs")] == payloads
    with TFRecordWriter(tmp_path / "ours") as ours:
        for payload in payloads:
            ours.write(payload)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_jpeg_pixels_are_tensorflows_exact_ones_and_near_those_it_takes_by_default(both):
    given, answer = both
    for number in range(2):
        exact, fast, default = (answer[f"{method}/{number}"] for method in ("exact", "fast", "default"))
        ours = decode(given[f"jpeg/{number}"].tobytes())
        assert np.array_equal(ours, exact) and np.array_equal(fast, default)
        assert 0 < np.abs(ours.astype(int) - default).mean() < 2
