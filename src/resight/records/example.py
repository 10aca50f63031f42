"""One image with its boxes as a `tf.train.Example`, with the keys of the TensorFlow Object Detection API.

The message types (`tensorflow/core/example/example.proto`, `feature.proto`) are described here and built by the
protobuf runtime on import, in a pool of their own: there is no generated code, and TensorFlow may be loaded too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from ..errors import ResightError, listed
from ..io.images import probe


@dataclass(frozen=True, eq=False)
class Record:
    """One image and its objects, as stored.

    Args:
        encoded: the bytes of the image file.
        format: "jpeg", "png", ... as the record says; may be wrong or "" in other people's.
        width, height: pixels.
        boxes: ``[N, 4]`` float32 xyxy, absolute pixels.
        label_texts: N class names, "" where the record has a number only.
        label_ids: ``[N]`` int64 numbers of a label map, 0 where absent.
        difficult, crowd, occluded: ``[N]`` bool.
        area: ``[N]`` float32 square pixels, nan where unknown.
        group: images of one group never part in a split; "" if absent.
    """

    encoded: bytes
    format: str
    filename: str
    source_id: str
    width: int
    height: int
    boxes: np.ndarray
    label_texts: tuple[str, ...]
    label_ids: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    occluded: np.ndarray
    area: np.ndarray
    group: str = ""


_BBOX, _SIDES = "image/object/bbox/", ("xmin", "ymin", "xmax", "ymax")
_TEXT, _LABEL = "image/object/class/text", "image/object/class/label"
FLAGS = {"difficult": "image/object/difficult", "crowd": "image/object/is_crowd", "occluded": "image/object/occluded"}

# tensorflow/core/example/{feature,example}.proto in few words.
_PROTO = """
name: "resight/example.proto" package: "resight" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "FloatList" field { name: "value" number: 1 type: TYPE_FLOAT label: LABEL_REPEATED } }
message_type { name: "Int64List" field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".resight.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".resight.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".resight.Int64List" oneof_index: 0 } }
message_type { name: "Features"
  nested_type { name: "FeatureEntry" options { map_entry: true } field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".resight.Feature" } }
  field { name: "feature" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED
    type_name: ".resight.Features.FeatureEntry" } }
message_type { name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".resight.Features" } }
"""
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
_MESSAGES: dict[str, Any] = message_factory.GetMessageClassesForFiles(["resight/example.proto"], _POOL)
_Example = _MESSAGES["resight.Example"]


def encode_example(record: Record) -> bytes:
    """The serialized Example. Corners are stored as fractions of width and height in float32; `image/object/area` where
    any is known (a box's own area stands for an unknown one). Equal records give equal bytes."""
    example = _Example()
    feature = example.features.feature

    def put(key: str, *values: bytes | str) -> None:
        encoded = (v if isinstance(v, bytes) else v.encode("utf-8", "backslashreplace") for v in values)
        feature[key].bytes_list.value.extend(encoded)

    for name in ("encoded", "format", "filename", "source_id"):
        put(f"image/{name}", getattr(record, name))
    put("image/key/sha256", hashlib.sha256(record.encoded).hexdigest())
    if record.group:
        put("image/source_group", record.group)
    feature["image/width"].int64_list.value.append(record.width)
    feature["image/height"].int64_list.value.append(record.height)
    boxes = np.asarray(record.boxes, np.float64).reshape(-1, 4)
    scale = np.array([record.width, record.height] * 2)
    for side, column in zip(_SIDES, (boxes / scale).T, strict=True):
        feature[_BBOX + side].float_list.value.extend(column.tolist())
    put(_TEXT, *record.label_texts)
    feature[_LABEL].int64_list.value.extend(np.asarray(record.label_ids, np.int64).tolist())
    for name, key in FLAGS.items():
        feature[key].int64_list.value.extend(np.asarray(getattr(record, name), np.int64).tolist())
    area = np.asarray(record.area, np.float64)
    if np.isfinite(area).any():
        own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        feature["image/object/area"].float_list.value.extend(np.where(np.isfinite(area), area, own).tolist())
    return bytes(example.SerializeToString(deterministic=True))


def decode_example(payload: bytes, where: str = "") -> Record:
    """The image and boxes of a serialized Example, as tolerantly as TFOD reads it.

    Boxes may be absent; a missing size is read from the image's header; class texts suffice without numbers and numbers
    without texts; flags and areas that are absent or not one per box are False and nan. Corners within the error of
    float32 of a whole pixel are that pixel.

    Raises:
        ResightError: what cannot be used, with ``where`` and the key.
    """
    read = _Reader(payload, where)
    encoded = read.image()
    width, height = read.size("image/width"), read.size("image/height")
    if not (width and height):
        info = probe(encoded, where)
        width, height = info.width, info.height
    corners = [read.numbers(_BBOX + side) for side in _SIDES]
    count = len(corners[0])
    if any(len(corner) != count for corner in corners):
        counts = "/".join(str(len(corner)) for corner in corners)
        raise ResightError(f"xmin/ymin/xmax/ymax have {counts} values", where=read.at(_BBOX + "*"))
    texts = tuple(text.decode("utf-8", "replace") for text in read.bytes(_TEXT))
    ids = read.whole(_LABEL)
    if texts and len(texts) != count:
        raise ResightError(f"{len(texts)} class texts for {count} boxes", where=read.at(_TEXT))
    if not texts and len(ids) != count:
        raise ResightError(f"{len(ids)} class numbers and no texts for {count} boxes", where=read.at(_LABEL))
    area = read.numbers("image/object/area")
    return Record(
        encoded=encoded,
        format=read.text("image/format"),
        filename=read.text("image/filename"),
        source_id=read.text("image/source_id"),
        width=width,
        height=height,
        boxes=_pixels(corners, width, height),
        label_texts=texts or ("",) * count,
        label_ids=ids if len(ids) == count else np.zeros(count, np.int64),
        area=(area if len(area) == count else np.full(count, np.nan)).astype(np.float32),
        group=read.text("image/source_group"),
        **{name: read.flags(key, count) for name, key in FLAGS.items()},
    )


def on_image(record: Record, height: int, width: int) -> Record:
    """The record with its boxes on its image as decoded, should that have another size than the record states: boxes
    are stored as shares of the image's sides, so they belong to the pixels there are, as TFOD takes them."""
    if (record.height, record.width) == (height, width):
        return record
    scale = np.array([width / record.width, height / record.height] * 2, np.float32)
    area = record.area * (scale[0] * scale[1])
    return replace(record, boxes=record.boxes * scale, area=area, height=height, width=width)


def decode_image_bytes(payload: bytes, where: str = "") -> bytes:
    """The image file in a serialized Example, and nothing else of it. Raises ResightError as ``decode_example``."""
    return _Reader(payload, where).image()


def _pixels(corners: list[np.ndarray], width: int, height: int) -> np.ndarray:
    scale = np.array([width, height] * 2, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = np.stack(corners, axis=1) * scale
        whole = np.rint(boxes)
        near = np.abs(boxes - whole) <= np.abs(boxes) * 2.0**-24 * 1.01  # half a unit in the last place
        return np.where(near, whole, boxes).astype(np.float32)


class _Reader:
    """Values of the features of one Example by key; errors name the key."""

    def __init__(self, payload: bytes, where: str) -> None:
        self.where = where
        try:
            self.feature = _Example.FromString(payload).features.feature
        except DecodeError as error:
            raise ResightError("the record is not a tf.train.Example", where=where) from error

    def image(self) -> bytes:
        encoded = self.bytes("image/encoded")
        if encoded and encoded[0]:
            return encoded[0]
        keys = listed(sorted(self.feature), 6) or "none"
        raise ResightError(f"the record has no image (its keys: {keys})", where=self.at("image/encoded"))

    def at(self, key: str) -> str:
        return f"{self.where}, {key}" if self.where else key

    def _values(self, key: str, *kinds: str) -> Any:
        found = self.feature.get(key)
        kind = found.WhichOneof("kind") if found is not None else None
        if kind is None:
            return ()
        values = getattr(found, kind).value
        if values and kind not in kinds:
            raise ResightError(f"is a {kind} where a {kinds[0]} belongs", where=self.at(key))
        return values

    def bytes(self, key: str) -> list[bytes]:
        return list(self._values(key, "bytes_list"))

    def text(self, key: str) -> str:
        values = self.bytes(key)
        return values[0].decode("utf-8", "replace") if values else ""

    def numbers(self, key: str) -> np.ndarray:
        return np.array(self._values(key, "float_list", "int64_list"), np.float64)

    def whole(self, key: str) -> np.ndarray:
        values = self._values(key, "int64_list", "float_list")
        if any(value != value or abs(value) >= 2**63 for value in values):
            raise ResightError(f"holds {list(values)[:4]}, not whole numbers", where=self.at(key))
        return np.array([int(value) for value in values], np.int64)

    def size(self, key: str) -> int:
        values = self.whole(key)
        return int(values[0]) if len(values) and 0 < values[0] < 2**31 else 0

    def flags(self, key: str, count: int) -> np.ndarray:
        values = self.whole(key)
        return values != 0 if len(values) == count else np.zeros(count, bool)
