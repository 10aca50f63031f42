"""TensorFlow itself reads what is written here, and what TensorFlow wrote is read.

TensorFlow runs in a process of its own: loaded before PyTorch, it makes PyTorch's import crash.
"""

import hashlib
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resight.boxes import Annotation, Box
from resight.data.images import decode
from resight.data.records import open_records
from resight.data.records_folder import write_records_folder
from resight.data.tfrecord import TFRecordWriter, read_tfrecord
from resight.labels import LabelMap, to_pbtxt

LABELS = LabelMap.from_names(["yield", "stop", "fünfzig"])
SIDES = ("xmin", "ymin", "xmax", "ymax")

READ = """
one = {"encoded": tf.string, "format": tf.string, "filename": tf.string, "source_id": tf.string}
one |= {"key/sha256": tf.string, "width": tf.int64, "height": tf.int64, "source_group": tf.string}
many = {f"bbox/{side}": tf.float32 for side in ("xmin", "ymin", "xmax", "ymax")} | {"class/text": tf.string}
many |= {key: tf.int64 for key in ("class/label", "difficult", "is_crowd", "occluded")} | {"area": tf.float32}
spec = {f"image/{key}": tf.io.FixedLenFeature([], kind) for key, kind in one.items()}
spec |= {f"image/object/{key}": tf.io.RaggedFeature(kind) for key, kind in many.items()}
for pattern in given:
    files = tf.io.gfile.glob(pattern)
    batch = next(iter(tf.data.TFRecordDataset(sorted(files)).batch(100)))
    parsed = tf.io.parse_example(batch, spec)
    shapes = [tf.io.decode_image(encoded).shape.as_list() for encoded in parsed["image/encoded"]]
    rows = [{key: value[row].numpy() for key, value in parsed.items()} for row in range(len(batch))]
    answer.append((len(files), shapes, rows))
"""

WRITE = """
def feature(values):
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

for path, rows in given.items():
    with tf.io.TFRecordWriter(path) as writer:
        for row in rows:
            if isinstance(row, dict):
                features = {key: feature(values) for key, values in row.items()}
                row = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
            writer.write(row)
"""


def with_tensorflow(code: str, given):
    frame = f"import pickle, sys\nimport tensorflow as tf\ngiven, answer = pickle.load(sys.stdin.buffer), []\n{code}\n"
    frame += "sys.stdout.buffer.write(pickle.dumps(answer))"
    done = subprocess.run([sys.executable, "-c", frame], input=pickle.dumps(given), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def image(seed: int, kind="PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)).save(out, kind)
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
        picture = image(i, "JPEG" if i % 2 else "PNG")
        found.append(Annotation(picture, tuple(boxes), filename=f"f{i}.png", source_id=f"id-{i}", group=f"g{i // 2}"))
    return found


def test_tensorflow_reads_what_is_written(tmp_path):
    written = annotations(11)
    for layout in ("resight", "tfod"):
        write_records_folder({"train": written}, tmp_path / layout, LABELS, shards=3, layout=layout)
    patterns = ["resight/train-?????-of-00003.tfrecord", "tfod/training.record-?????-of-00003"]
    for files, shapes, rows in with_tensorflow(READ, [str(tmp_path / pattern) for pattern in patterns]):
        assert files == 3
        assert shapes == [[48, 64, 3]] * 11
        by_name = {annotation.filename: annotation for annotation in written}
        for row in rows:
            found = {key.removeprefix("image/").removeprefix("object/"): value for key, value in row.items()}
            annotation = by_name.pop(found["filename"].decode())
            assert found["encoded"] == annotation.image
            assert found["key/sha256"].decode() == hashlib.sha256(annotation.image).hexdigest()
            assert found["format"] == (b"png" if annotation.image.startswith(b"\x89PNG") else b"jpeg")
            assert found["source_id"].decode() == annotation.source_id
            assert found["source_group"].decode() == annotation.group
            assert (found["width"], found["height"]) == (64, 48)
            boxes = annotation.boxes
            corners = np.stack([found[f"bbox/{side}"] for side in SIDES], axis=1) * [64, 48, 64, 48]
            np.testing.assert_allclose(corners, np.reshape([box.xyxy for box in boxes], (-1, 4)), rtol=1e-6)
            assert [text.decode() for text in found["class/text"]] == [box.label for box in boxes]
            assert found["class/label"].tolist() == [LABELS.names.index(box.label) + 1 for box in boxes]
            for key, name in (("difficult", "difficult"), ("is_crowd", "crowd"), ("occluded", "occluded")):
                assert found[key].tolist() == [getattr(box, name) for box in boxes]
            assert found["area"].tolist() == [box.area for box in boxes if box.area is not None]
        assert by_name == {}


def test_what_tensorflow_wrote_is_read(tmp_path):
    rng = np.random.default_rng(0)
    expected = {}
    files = {}
    for split, shard, shards in (("train", 0, 2), ("train", 1, 2), ("val", 0, 1)):
        rows = files.setdefault(str(tmp_path / f"signs_{split}.record-{shard:05}-of-{shards:05}"), [])
        for i in range(4):
            name = f"{split}-{shard}-{i}"
            boxes = np.sort(rng.random((2, i, 2)).astype(np.float32), axis=0).transpose(1, 0, 2).reshape(i, 4)
            texts = rng.choice(LABELS.names, i).tolist()
            row = {"image/encoded": [image(i)], "image/format": [b"png"], "image/width": [64], "image/height": [48]}
            row |= {"image/filename": [name.encode()], "image/source_id": [name.encode()]}
            if i:
                row |= {f"image/object/bbox/{side}": boxes[:, k].tolist() for k, side in enumerate(SIDES)}
                row["image/object/class/text"] = [text.encode() for text in texts]
                row["image/object/class/label"] = [LABELS.names.index(text) + 1 for text in texts]
                row["image/object/difficult"] = [k % 2 for k in range(i)]
            rows.append(row)
            expected[name] = (boxes * np.float32([64, 48, 64, 48]), texts, image(i))
    payloads = [os.urandom(size) for size in (0, 1, 7, 100_000)]
    with_tensorflow(WRITE, files | {str(tmp_path / "theirs"): payloads})

    (tmp_path / "signs.pbtxt").write_text(to_pbtxt(LABELS), encoding="utf-8")
    records = open_records(tmp_path)
    assert records.problems == []
    sizes = {name: (len(split), len(split.shards)) for name, split in records.splits.items()}
    assert sizes == {"train": (8, 2), "val": (4, 1)}
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

    assert [payload for _, payload in read_tfrecord(tmp_path / "theirs")] == payloads
    with TFRecordWriter(tmp_path / "ours") as ours:
        for payload in payloads:
            ours.write(payload)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


JPEG = """
for encoded in given:
    kinds = ("INTEGER_ACCURATE", "INTEGER_FAST", "")
    answer.append([tf.io.decode_jpeg(encoded, channels=3, dct_method=kind).numpy() for kind in kinds])
"""


def test_jpeg_pixels_are_tensorflows_exact_ones_and_near_those_it_takes_by_default():
    draw = np.random.default_rng(0)
    files = []
    for size in ((160, 120), (97, 61)):
        coarse = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    for encoded, (exact, fast, default) in zip(files, with_tensorflow(JPEG, files), strict=True):
        ours = decode(encoded)
        assert np.array_equal(ours, exact) and np.array_equal(fast, default)
        assert 0 < np.abs(ours.astype(int) - default).mean() < 2
