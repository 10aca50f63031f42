"""TensorFlow itself reads what is written here, and what TensorFlow wrote is read."""

import hashlib
import io
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resight.boxes import Annotation, Box
from resight.data.records import open_records, write_records_folder
from resight.data.tfrecord import TFRecordWriter, read_tfrecord
from resight.labels import LabelMap, to_pbtxt

LABELS = LabelMap.from_names(["yield", "stop", "fünfzig"])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def image(seed: int, width=64, height=48, kind="PNG") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def annotations(count: int) -> list[Annotation]:
    rng = np.random.default_rng(3)
    found = []
    for i in range(count):
        boxes = []
        for name in rng.choice(LABELS.names, i % 4):
            (x1, x2), (y1, y2) = np.sort(rng.uniform(0, 64, 2)), np.sort(rng.uniform(0, 48, 2))
            flags = dict(zip(("difficult", "occluded", "crowd"), (rng.random(3) < 0.5).tolist(), strict=True))
            boxes.append(Box(str(name), x1, y1, x2, y2, area=float(i) if i % 2 else None, **flags))
        picture = image(i, kind="JPEG" if i % 2 else "PNG")
        found.append(Annotation(picture, tuple(boxes), filename=f"f{i}.png", source_id=f"id-{i}", group=f"g{i // 2}"))
    return found


def feature(values) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


@pytest.mark.parametrize("layout", ["resight", "tfod"])
def test_tensorflow_reads_what_is_written(tmp_path, layout):
    written = annotations(11)
    write_records_folder({"train": written}, tmp_path / "out", LABELS, shards=3, layout=layout)
    pattern = {"resight": "train-?????-of-00003.tfrecord", "tfod": "training.record-?????-of-00003"}[layout]
    files = sorted(tf.io.gfile.glob(str(tmp_path / "out" / pattern)))
    assert len(files) == 3
    one = {"encoded": tf.string, "format": tf.string, "filename": tf.string, "source_id": tf.string}
    one |= {"key/sha256": tf.string, "width": tf.int64, "height": tf.int64, "source_group": tf.string}
    many = {f"bbox/{side}": tf.float32 for side in ("xmin", "ymin", "xmax", "ymax")} | {"class/text": tf.string}
    many |= {key: tf.int64 for key in ("class/label", "difficult", "is_crowd", "occluded")} | {"area": tf.float32}
    spec = {f"image/{key}": tf.io.FixedLenFeature([], kind) for key, kind in one.items()}
    spec |= {f"image/object/{key}": tf.io.VarLenFeature(kind) for key, kind in many.items()}
    batch = next(iter(tf.data.TFRecordDataset(files).batch(100)))
    parsed = {key: value for key, value in tf.io.parse_example(batch, spec).items()}
    by_name = {annotation.filename: annotation for annotation in written}
    names = [name.decode() for name in parsed["image/filename"].numpy()]
    assert sorted(names) == sorted(by_name)
    for row, annotation in enumerate(by_name[name] for name in names):
        fixed = {key: parsed[f"image/{key}"].numpy()[row] for key in one}
        assert fixed["encoded"] == annotation.image
        assert fixed["key/sha256"].decode() == hashlib.sha256(annotation.image).hexdigest()
        assert tf.io.decode_image(fixed["encoded"]).shape == (48, 64, 3)
        assert fixed["format"] == (b"png" if annotation.image.startswith(b"\x89PNG") else b"jpeg")
        assert (fixed["source_id"].decode(), fixed["source_group"].decode()) == (annotation.source_id, annotation.group)
        assert (fixed["width"], fixed["height"]) == (64, 48)
        sparse = {key: tf.sparse.slice(parsed[f"image/object/{key}"], [row, 0], [1, 99]).values.numpy() for key in many}
        boxes = annotation.boxes
        corners = np.stack([sparse[f"bbox/{side}"] for side in ("xmin", "ymin", "xmax", "ymax")], axis=1)
        np.testing.assert_allclose(corners * [64, 48, 64, 48], np.reshape([b.xyxy for b in boxes], (-1, 4)), rtol=1e-6)
        assert [text.decode() for text in sparse["class/text"]] == [box.label for box in boxes]
        assert sparse["class/label"].tolist() == [LABELS.names.index(box.label) + 1 for box in boxes]
        for key, name in (("difficult", "difficult"), ("is_crowd", "crowd"), ("occluded", "occluded")):
            assert sparse[key].tolist() == [getattr(box, name) for box in boxes]
        assert sparse["area"].tolist() == [box.area for box in boxes if box.area is not None]


def test_what_tensorflow_wrote_is_read(tmp_path):
    expected = {}
    rng = np.random.default_rng(0)
    for split, shards in (("train", 2), ("val", 1)):
        for shard in range(shards):
            with tf.io.TFRecordWriter(str(tmp_path / f"signs_{split}.record-{shard:05}-of-{shards:05}")) as writer:
                for i in range(4):
                    name = f"{split}-{shard}-{i}"
                    sides = np.sort(rng.random((2, 2, i)).astype(np.float32), axis=0)
                    texts = rng.choice(LABELS.names, i).tolist()
                    values = {"encoded": [image(i)], "filename": [name.encode()], "width": [64], "height": [48]}
                    values |= {"source_id": [name.encode()], "format": [b"png"]}
                    if i:
                        values |= {f"object/bbox/{side}": sides[k // 2][k % 2].tolist()
                                   for k, side in enumerate(("xmin", "ymin", "xmax", "ymax"))}  # fmt: skip
                        values["object/class/text"] = [text.encode() for text in texts]
                        values["object/class/label"] = [LABELS.names.index(text) + 1 for text in texts]
                        values["object/difficult"] = [k % 2 for k in range(i)]
                    features = {f"image/{key}": feature(value) for key, value in values.items()}
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString())
                    expected[name] = (sides.reshape(4, i).T * np.float32([64, 48, 64, 48]), texts, image(i))
    (tmp_path / "signs.pbtxt").write_text(to_pbtxt(LABELS), encoding="utf-8")
    records = open_records(tmp_path)
    assert records.problems == []
    assert {name: (len(split), len(split.shards)) for name, split in records.splits.items()} == {
        "train": (8, 2),
        "val": (4, 1),
    }
    for split in records.splits.values():
        for i, summary in enumerate(split.summaries):
            record = split[i]
            boxes, texts, encoded = expected.pop(record.filename)
            np.testing.assert_allclose(record.boxes, boxes, rtol=2e-7)
            assert record.label_texts == summary.label_texts == tuple(texts)
            assert split.labels(record).tolist() == [LABELS.names.index(text) for text in texts]
            assert record.encoded == encoded
            assert record.difficult.tolist() == [k % 2 == 1 for k in range(len(texts))]
    assert expected == {}


def test_both_frame_records_alike(tmp_path):
    payloads = [os.urandom(size) for size in (0, 1, 7, 100_000)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in payloads:
            writer.write(payload)
    with TFRecordWriter(tmp_path / "ours") as ours:
        for payload in payloads:
            ours.write(payload)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert [payload for _, payload in read_tfrecord(tmp_path / "theirs")] == payloads
