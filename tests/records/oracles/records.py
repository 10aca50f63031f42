"""TensorFlow reads the records that are written here, writes such records and plain TFRecords, and decodes JPEGs."""

import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

NAMES = ["yield", "stop", "fünfzig"]
SIZE = (16, 12)  # width, height
LAYOUTS = {"resight": "train-?????-of-00003.tfrecord", "tfod": "training.record-?????-of-00003"}
METHODS = {"exact": "INTEGER_ACCURATE", "fast": "INTEGER_FAST", "default": ""}


def given():
    from PIL import Image

    rng = np.random.default_rng(3)
    arrays = {}
    for number in range(11):
        file = io.BytesIO()
        pixels = rng.integers(0, 255, (*SIZE[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(file, "JPEG" if number % 2 else "PNG")
        arrays[f"image/{number}"] = as_array(file.getvalue())
    for number, size in enumerate(((80, 60), (49, 31))):
        file = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        arrays[f"jpeg/{number}"] = as_array(file.getvalue())
    for number, size in enumerate((0, 1, 7, 5000)):
        arrays[f"payload/{number}"] = rng.integers(0, 256, size).astype(np.uint8)
    arrays["annotations"] = np.array(json.dumps([described(rng, number) for number in range(11)]))
    rows = {}
    for split, shard, shards in (("train", 0, 2), ("train", 1, 2), ("val", 0, 1)):
        rows[f"signs_{split}.record-{shard:05}-of-{shards:05}"] = [
            {
                "name": f"{split}-{shard}-{count}",
                "boxes": np.sort(rng.random((2, count, 2)).astype(np.float32), axis=0)
                .transpose(1, 0, 2)
                .reshape(count, 4)
                .tolist(),
                "texts": rng.choice(NAMES, count).tolist(),
            }
            for count in range(4)
        ]
    return arrays | {"rows": np.array(json.dumps(rows))} | written(arrays)


def described(rng, number):
    boxes = []
    for name in rng.choice(NAMES, number % 4):
        (x1, x2), (y1, y2) = np.sort(rng.uniform(0, SIZE[0], 2)), np.sort(rng.uniform(0, SIZE[1], 2))
        flags = dict(zip(("difficult", "occluded", "crowd"), (rng.random(3) < 0.5).tolist(), strict=True))
        box = {"label": str(name), "xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2, **flags}
        boxes.append(box | {"area": float(number) if number % 2 else None})
    group = f"g{number // 2}"
    return {"boxes": boxes, "filename": f"f{number}.png", "source_id": f"id-{number}", "group": group}


def annotations(given):
    from resight.types import Annotation, Box

    return [
        Annotation(given[f"image/{number}"].tobytes(), tuple(Box(**box) for box in row.pop("boxes")), **row)
        for number, row in enumerate(json.loads(str(given["annotations"])))
    ]


def written(given):
    """The shards that are written for the annotations, by their path."""
    from resight.label_map import LabelMap
    from resight.records.writer import write_records_folder

    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout, pattern in LAYOUTS.items():
            out = Path(folder, layout)
            labels = LabelMap.from_names(NAMES)
            write_records_folder({"train": annotations(given)}, out, labels, shards=3, layout=layout)
            arrays |= {f"{layout}/{path.name}": as_array(path.read_bytes()) for path in sorted(out.glob(pattern))}
    return arrays


def as_array(data):
    return np.frombuffer(data, np.uint8)


def answer(given):
    import tensorflow as tf

    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout, pattern in LAYOUTS.items():
            Path(folder, layout).mkdir()
            for key in (key for key in given if key.startswith(f"{layout}/")):
                Path(folder, key).write_bytes(given[key].tobytes())
            answers[f"read/{layout}"] = np.array(json.dumps(read(tf, f"{folder}/{layout}/{pattern}")))
        for name, rows in json.loads(str(given["rows"])).items():
            write(tf, Path(folder, name), [example(tf, row, given) for row in rows])
            answers[f"written/{name}"] = as_array(Path(folder, name).read_bytes())
        write(tf, Path(folder, "payloads"), [given[f"payload/{number}"].tobytes() for number in range(4)])
        answers["payloads"] = as_array(Path(folder, "payloads").read_bytes())
    for number in range(2):
        for name, method in METHODS.items():
            decoded = tf.io.decode_jpeg(given[f"jpeg/{number}"].tobytes(), channels=3, dct_method=method)
            answers[f"{name}/{number}"] = decoded.numpy()
    return answers


def read(tf, pattern):
    """Of each record its fields, of the encoded image the hash and the shape."""
    one = {"encoded": tf.string, "format": tf.string, "filename": tf.string, "source_id": tf.string}
    one |= {"key/sha256": tf.string, "width": tf.int64, "height": tf.int64, "source_group": tf.string}
    many = {f"bbox/{side}": tf.float32 for side in ("xmin", "ymin", "xmax", "ymax")} | {"class/text": tf.string}
    many |= {key: tf.int64 for key in ("class/label", "difficult", "is_crowd", "occluded")} | {"area": tf.float32}
    spec = {f"image/{key}": tf.io.FixedLenFeature([], kind) for key, kind in one.items()}
    spec |= {f"image/object/{key}": tf.io.RaggedFeature(kind) for key, kind in many.items()}
    batch = next(iter(tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern))).batch(100)))
    parsed = tf.io.parse_example(batch, spec)
    rows = []
    for number in range(len(batch)):
        row = {key.removeprefix("image/"): value[number].numpy() for key, value in parsed.items()}
        encoded = row.pop("encoded")
        shape = tf.io.decode_image(encoded).shape.as_list()
        row = {key: plain(value) for key, value in row.items()}
        rows.append(row | {"encoded": hashlib.sha256(encoded).hexdigest(), "shape": shape})
    return rows


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return [plain(item) for item in value] if isinstance(value, np.ndarray) else value.item()


def example(tf, row, given):
    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    name, texts, (width, height) = row["name"].encode(), row["texts"], SIZE
    features = {"image/encoded": [given[f"image/{2 * len(texts)}"].tobytes()], "image/format": [b"png"]}
    features |= {"image/filename": [name], "image/source_id": [name]}
    features |= {"image/width": [width], "image/height": [height]}
    if texts:
        for side, values in zip(("xmin", "ymin", "xmax", "ymax"), zip(*row["boxes"], strict=True), strict=True):
            features[f"image/object/bbox/{side}"] = list(values)
        features["image/object/class/text"] = [text.encode() for text in texts]
        features["image/object/class/label"] = [NAMES.index(text) + 1 for text in texts]
        features["image/object/difficult"] = [number % 2 for number in range(len(texts))]
    features = {key: feature(values) for key, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def write(tf, path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(row)
