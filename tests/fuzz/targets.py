"""The parsers: seeds of each, made here, and how one is given damaged bytes."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load, save

from resight.commands.predictions import written_before
from resight.commands.runs import read_runs, runs_table
from resight.config.loading import parse_set
from resight.config.toml_text import to_toml
from resight.config.tree import Config
from resight.datasets.formats import read_source
from resight.datasets.near_duplicates import perceptual_hash
from resight.datasets.split_file import follow_split_file
from resight.datasets.summary import findings
from resight.detection.anchors import AnchorSettings
from resight.dialect import load_config
from resight.evaluation.evaluate import _is_ours
from resight.fpn.config import FpnModelConfig
from resight.inference.detector import Detector
from resight.inference.exported import read_card
from resight.io.images import decode, probe, upright
from resight.io.object_store import fetch
from resight.io.parts import all_parts
from resight.label_map import LabelMap, read_label_map, to_pbtxt
from resight.models.checkpoints import Checkpoint, ModelMetadata, load_checkpoint, save_checkpoint
from resight.records.example import decode_example
from resight.records.index import INDEX, Shard, load_index
from resight.records.reader import INFO, open_records
from resight.records.tfrecord import TFRecordWriter, read_tfrecord
from resight.records.writer import write_records_folder
from resight.serving.answer import answer
from resight.serving.request import Request, Route
from resight.serving.servable import Servable
from resight.tfod.checkpoint.folder import find_tfod
from resight.tfod.checkpoint.reader import parse_index, read_checkpoint
from resight.tfod.pipeline.config import examine_pipeline
from resight.training.run_folder import forget_metrics
from resight.training.run_record import parse_run_record
from resight.types import Annotation, Box, Detections

Run = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """A parser that ``run(data, folder)`` gives the bytes to; ``folder`` is its own and holds what ``prepare`` made."""

    name: str
    seeds: list[bytes]
    run: Run
    prepare: Callable[[Path], object] = field(default=lambda folder: None)


def picture(kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def pictures() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    found = [picture(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")]
    found += [picture("GIF", "P"), picture("PNG", "L"), picture("JPEG", "CMYK")]
    found += [picture("JPEG", exif=exif, progressive=True), picture("PNG", exif=exif), picture("PNG", "RGBA")]
    found += [picture("TIFF", compression="tiff_lzw"), picture("WEBP", save_all=True, append_images=frames)]
    grey = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80).save(grey, "PNG")
    return [*found, grey.getvalue()]


def look_at_picture(data: bytes, _: Path) -> None:
    from resight.errors import ResightError

    for look in (probe, decode, upright):
        with suppress(ResightError):
            look(data, "a.png")
    from resight.io.images import open_image

    image = open_image(data, "a.png")
    with suppress(Exception):  # what Pillow raises is expected of it, and told by who calls it
        perceptual_hash(image)


def photographs(folder: Path) -> None:
    (folder / "images").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "images" / name).write_bytes(picture())


def source(name: str, format: str, seeds: list[bytes], files: dict[str, bytes] | None = None) -> Target:
    """The annotations of a format, given as the file ``name`` beside two images."""

    def prepare(folder: Path) -> None:
        photographs(folder)
        for other, data in (files or {}).items():
            path = folder / other
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

    def run(data: bytes, folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        found = read_source(folder, format)
        findings(found.problems)

    return Target(f"{format} {Path(name).suffix[1:]}", seeds, run, prepare)


COCO = {
    "info": {"contributor": "a"},
    "images": [{"id": i, "file_name": name, "width": 32, "height": 24} for i, name in enumerate(("a.png", "images/b.png"))],
    "annotations": [
        {"id": i, "image_id": i % 2, "category_id": 1, "bbox": [1, 2, 20.5, 20], "area": 9.5, "iscrowd": 0,
         "segmentation": [[1, 2, 9, 2, 9, 9]]} for i in range(3)
    ],
    "categories": [{"id": 1, "name": "stop", "supercategory": "sign"}],
}  # fmt: skip
VOC = b"""<?xml version="1.0"?><annotation><folder>images</folder><filename>a.png</filename><size><width>32</width>
<height>24</height><depth>3</depth></size><object><name>stop</name><difficult>1</difficult><occluded>0</occluded><bndbox>
<xmin>1</xmin><ymin>2</ymin><xmax>20.5</xmax><ymax>20</ymax></bndbox></object></annotation>"""
CSV = b"""filename,width,height,class,xmin,ymin,xmax,ymax\na.png,32,24,stop,1,2,20,20\nimages/b.png,32,24,"go, on",1,2,9,9
b.png,32,24,,,,,\n"""
LISA = b"""Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;\
Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number
images/a.png;stop;1;2;20;20;0,0;v.avi;7;stop_1.avi;1\nimages/b.png;stop;1;2;20;20;0,1;v.avi;;stop_1.avi;2\n"""
YAML = b"""path: .\ntrain: images\nval: [images]\nnc: 2\nnames: {0: stop, 1: "go"}\nx: &a [1, 2]\ny: *a\nd: 2020-01-01
kpt_shape: [17, 3]\nz: {<<: {a: 1}}\n"""
CVAT = b"""<?xml version="1.0"?><annotations><version>1.1</version><meta><task><labels><label><name>stop</name></label>
</labels></task></meta><image id="0" name="a.png" width="32" height="24"><box label="stop" occluded="0" xtl="1" ytl="2"
xbr="20" ybr="20" z_order="0"/><polygon label="stop" points="1,2;9,2;9,9"/></image></annotations>"""
LABELME = {"version": "5.0", "imagePath": "images/a.png", "imageData": None, "imageHeight": 24, "imageWidth": 32,
           "flags": {}, "shapes": [{"label": "stop", "points": [[1, 2], [20, 20]], "shape_type": "rectangle", "flags": {}},
                                   {"label": "go", "points": [[1, 2], [9, 2], [9, 9]], "shape_type": "polygon"}]}  # fmt: skip
RESULT = {
    "type": "rectanglelabels",
    "original_width": 32,
    "original_height": 24,
    "image_rotation": 0,
    "from_name": "l",
    "to_name": "i",
    "value": {"x": 3.1, "y": 8.3, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["stop"]},
}
LABEL_STUDIO = [{"id": 1, "data": {"image": "/data/upload/1/1a2b3c4d-a.png"}, "annotations": [{"id": 1, "result": [RESULT]}]},
                {"id": 2, "image": "a.png", "label": [{"x": 1, "y": 2, "width": 50, "height": 50, "rotation": 0,
                 "rectanglelabels": ["stop"], "original_width": 32, "original_height": 24}]}]  # fmt: skip
PIPELINE = b"""model { faster_rcnn { num_classes: 3 image_resizer { keep_aspect_ratio_resizer { min_dimension: 60
max_dimension: 102 pad_to_max_dimension: true } } feature_extractor { type: 'faster_rcnn_resnet50_keras' }
first_stage_anchor_generator { grid_anchor_generator { scales: [0.25, 0.5] aspect_ratios: 1.0 height_stride: 16 } } } }
train_config: { batch_size: 1 num_steps: 10 optimizer { momentum_optimizer: { learning_rate: { cosine_decay_learning_rate {
learning_rate_base: .04 total_steps: 10 warmup_learning_rate: .01 warmup_steps: 2 } } momentum_optimizer_value: 0.9 } }
fine_tune_checkpoint: "a/ckpt-0" data_augmentation_options { random_horizontal_flip { } } }
train_input_reader: { label_map_path: "m.pbtxt" tf_record_input_reader { input_path: "a.record" } }
eval_input_reader { label_map_path: "m.pbtxt" tf_record_input_reader { input_path: 'b.record' } }"""
METRICS = b"".join(
    json.dumps({"step": step, "split": split, "mAP": 0.5, "AP50": 0.5, "seconds": 3.5, "memory_gb": 1.0}).encode()
    + b"\n"
    for step, split in ((1, "train"), (2, "val"))
)
CARD = ModelMetadata(
    FpnModelConfig(name="resnet18", min_size=64, max_size=96),
    LabelMap.from_names(["a"]),
    AnchorSettings(((9.0,),)),
    0.0,
    0.5,
)


def records_folder(folder: Path) -> None:
    images = [
        Annotation(picture(), (Box("a", 1, 1, 9, 9),) * (i % 3), filename=f"{i}.png", source_id=f"{i}")
        for i in range(3)
    ]
    write_records_folder({"train": images[:2], "test": images[2:]}, folder / "records", LabelMap.from_names(["a"]))


def in_records(name: str, seeds: list[bytes]) -> Target:
    def run(data: bytes, folder: Path) -> None:
        (folder / "records" / name).write_bytes(data)
        (folder / "records" / INDEX).unlink(missing_ok=True)
        records = open_records(folder / "records", on_bad_record="skip")
        for split in records.splits.values():
            split.box_labels, [split[i] for i in range(len(split))]

    return Target(name.replace("-00000-of-00001", ""), seeds, run, records_folder)


def write_index(data: bytes, folder: Path) -> None:
    """The bytes as the one record of an index whose checksums are right."""
    path = folder / "records" / INDEX
    with TFRecordWriter(path) as file:
        file.write(data)
    shards = [path.with_name(f"{name}-00000-of-00001.tfrecord").stat() for name in ("train", "test")]
    names = [f"{name}-00000-of-00001.tfrecord" for name in ("train", "test")]
    stamps = [Shard(name, found.st_size, found.st_mtime_ns) for name, found in zip(names, shards, strict=True)]
    stored = [Shard(name, size, 0) for name, size in ((one.name, one.size) for one in stamps)]
    for wanted in (stamps, stored):
        if index := load_index(str(path), wanted):
            index.classes(), index.digest, index.take(np.arange(len(index)))
            [index.record(i) for i in range(len(index))]


def change_columns(data: bytes, folder: Path) -> None:
    """A JSON of changes: columns of a good index become what it says."""
    seed = load(INDEX_SEED)
    try:
        changes = json.loads(data)
    except (ValueError, RecursionError):
        changes = {"head": data.decode("latin-1")}
    for name, change in changes.items() if isinstance(changes, dict) else ():
        with suppress(Exception):  # what numpy cannot hold is no column, and what is no text is no name
            name.encode()
            if name == "head":
                text = change if isinstance(change, str) else json.dumps(change)
                seed["head"] = np.frombuffer(text.encode(), np.uint8)
            else:
                column = np.array(change)
                seed[name] = column if column.dtype.kind in "biuf" else column.astype(seed[name].dtype)
    write_index(save({name: np.ascontiguousarray(column) for name, column in seed.items()}), folder)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def table(block: bytes) -> bytes:
    """An index of a TensorFlow checkpoint with this one block of entries, checksums right."""
    out = bytearray()

    def put(contents: bytes) -> bytes:
        handle = varint(len(out)) + varint(len(contents))
        crc = google_crc32c.value(contents + b"\0")
        out.extend(contents + b"\0" + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF))
        return handle

    handle = put(block)
    index = put(varint(0) + varint(1) + varint(len(handle)) + b"z" + handle + struct.pack("<II", 0, 1))
    metadata = put(struct.pack("<II", 0, 1))
    return bytes(out) + (metadata + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def block() -> bytes:
    entries = [
        (b"", b"\x08\x01"),
        (b"a/.ATTRIBUTES/VARIABLE_VALUE", b"\x08\x01\x12\x04\x12\x02\x08\x02\x28\x08\x35\x00\x00\x00\x00"),
        (b"b", b"\x08\x07\x20\x04\x28\x04"),
    ]
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    return body + struct.pack("<II", 0, 1)


def open_table(data: bytes, folder: Path) -> None:
    (folder / "ckpt-1.index").write_bytes(data)
    with suppress(OSError):
        find_tfod(folder)
    variables = read_checkpoint(folder / "ckpt-1")
    variables.full_names  # noqa: B018
    for key in list(variables)[:20]:
        from resight.errors import ResightError

        with suppress(ResightError):
            variables[key]


def graph(data: bytes, _: Path) -> None:
    from resight.tfod.checkpoint.reader import TrackableObjectGraph, _decode

    _decode(TrackableObjectGraph, data, "graph")


def written(name: str, run: Run) -> Run:
    """``run`` after the bytes were written to the file ``name``."""

    def both(data: bytes, folder: Path) -> object:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return run(data, folder)

    return both


def show_runs(_: bytes, folder: Path) -> None:
    runs_table(read_runs(folder))
    forget_metrics(folder, 1)


def set_keys(data: bytes, _: Path) -> Config:
    return load_config(None, parse_set([line for line in data.decode("utf-8", "replace").splitlines() if "=" in line]))


PART = {"part": "part-00001-of-00001", "settings": {"job": "predict", "parts": 1, "inputs": ["photos"]}, "bytes": 1,
        "sha256": "0"}  # fmt: skip
RUN = json.dumps({
    "format": 1, "run": "s3://b/run", "command": ["resight", "train"], "hours": 1.5, "usd": 1.5,
    "launch": {"stack": "s", "region": "r", "data": "s3://b/set", "config": "config.toml", "instance": "g5.xlarge",
               "limits": {"hours": 2, "usd": None}, "prices": {"g5.xlarge": 1.006},
               "jobs": [{"name": "a", "time": "2026-11-28T20:00:00Z"}]},
    "attempts": [{"number": 1, "started": "2026-11-28T20:00:00Z", "seconds": 5400.5, "step": 3, "ended": "interrupted"}],
}).encode()  # fmt: skip


def follow(_: bytes, folder: Path) -> None:
    follow_split_file(str(folder / "split.csv"), [Annotation(b"", filename=f"{i}.png") for i in range(3)])


def examples(folder: Path) -> list[bytes]:
    records_folder(folder)
    return [payload for path in sorted(folder.rglob("*.tfrecord")) for _, payload in read_tfrecord(path)]


def checkpoint_bytes(folder: Path) -> bytes:
    tensors = {"model.a": torch.zeros(2, 3), "ema.a": torch.ones(2, 3), "model.n": torch.tensor(3)}
    save_checkpoint(folder / "a.safetensors", Checkpoint(CARD, tensors, {"step": 3, "best": None}), load_config())
    return (folder / "a.safetensors").read_bytes()


def described(data: bytes, folder: Path) -> None:
    """The bytes as what a checkpoint says of itself."""
    header = {"__metadata__": {"resight": data.decode("utf-8", "replace")}}
    text = json.dumps(header | {"model.a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    load_checkpoint(folder / "a.safetensors")


class Nothing(Detector):
    """Finds nothing, at once."""

    def detect(self, image: np.ndarray) -> Detections:
        none = np.zeros((0, 4), np.float32)
        return Detections(none, none[:, 0], none[:, 0].astype(np.int64), self.classes, image.shape[1], image.shape[0])


def request_bodies() -> dict[str, list[bytes]]:
    jpeg = picture("JPEG")
    text = base64.b64encode(jpeg).decode()
    tensor = {"name": "input_tensor", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
    encoded = {**tensor, "shape": [1], "datatype": "BYTES", "data": [text]}
    predict = [{"instances": [{"b64": text}]}, {"signature_name": "", "inputs": {"input_tensor": [[[[1, 2.5, 3]]]]}}]
    infer = [{"id": "1", "inputs": [tensor], "outputs": [{"name": "num_detections"}]}, {"inputs": [encoded]}]
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + jpeg
    return {
        "predict": [json.dumps(each).encode() for each in predict],
        "infer": [json.dumps(each).encode() for each in infer],
        "images": [part + b"\r\n--x--\r\n", part + b"\r\n" + part + b"\r\n--x--\r\n"],
    }


def asked(kind: str) -> Run:
    model = Servable(Nothing(("a", "b"), 0.5), "m", max_pixels=1_000_000)

    def run(data: bytes, _: Path) -> None:
        found = answer(model, Request(Route(kind, "m"), data, {"content-type": "multipart/form-data; boundary=x"}))
        if found.status >= 500:
            raise AssertionError(found.body)

    return run


INDEX_SEED = b""


def all_targets(folder: Path) -> list[Target]:
    """Every target; ``folder`` is where their seeds are made."""
    global INDEX_SEED
    made = folder / "seeds"
    made.mkdir(parents=True)
    payloads = examples(made)
    files = {path.name: path.read_bytes() for path in (made / "records").iterdir()}
    _, INDEX_SEED = next(read_tfrecord(made / "records" / INDEX))
    columns = {name: column.tolist() for name, column in load(INDEX_SEED).items() if name != "head"}
    head = json.loads(load(INDEX_SEED)["head"].tobytes()) | {"version": 1}
    for shard in head["shards"]:
        shard[2] = 0
    changes = [json.dumps({name: column, "head": head}).encode() for name, column in columns.items()]
    record = "train-00000-of-00001.tfrecord"
    saved = checkpoint_bytes(made)
    card = {"format": 1, "card": CARD.to_json(), "state": {"step": 3, "best": None}}
    exported = {"classes": ["a"], "score": 0.5, "tile": 0, "input_type": "image_tensor", "digest": "0"}
    found = {"images": [{"file": "a.png", "width": 3, "height": 3, "detections": []}], "model": "m", "classes": ["a"]}
    config = to_toml(load_config()).encode()
    lists = [json.dumps(LABEL_STUDIO[:1]).encode(), json.dumps(LABEL_STUDIO[1:]).encode()]
    return [
        source("annotations.json", "coco", [json.dumps(COCO).encode()]),
        source("images/a.xml", "voc", [VOC]),
        source("data.yaml", "yolo", [YAML, b"names: [a, b]\n"], {"images/a.txt": b""}),
        source("images/a.txt", "yolo", [b"0 .5 .5 .2 .2\n1 .1 .1 .2 .1 .2 .2\n"], {"classes.txt": b"a\nb\n"}),
        source("boxes.csv", "csv", [CSV]),
        source("allAnnotations.csv", "lisa", [LISA]),
        source("annotations.xml", "cvat", [CVAT]),
        source("images/a.json", "labelme", [json.dumps(LABELME).encode()]),
        source("project.json", "labelstudio", lists),
        Target("label map", [to_pbtxt(LabelMap.from_names(["a", 'b "c"'])).encode()],
               written("m.pbtxt", lambda _, folder: read_label_map(folder / "m.pbtxt"))),
        Target("pipeline.config", [PIPELINE], written("p.config", lambda _, f: examine_pipeline(f / "p.config").text())),
        Target("config.toml", [config, b"[train]\nsteps = 3\n[augment.flip_pairs]\na = 'b'\n"],
               written("c.toml", lambda _, folder: load_config(folder / "c.toml"))),
        Target("--set", [b"train.steps=3\nmodel.name=resnet18\ndata.train=['a']\naugment.flip_pairs={a='b'}\n"], set_keys),
        in_records(record, [files[record]]),
        in_records(INFO, [files[INFO]]),
        Target("Example", payloads, lambda data, _: decode_example(data, "a, byte 0")),
        Target("records.index", [INDEX_SEED], write_index, records_folder),
        Target("records.index columns", changes, change_columns, records_folder),
        Target("checkpoint", [saved], written("a.safetensors", lambda _, f: load_checkpoint(f / "a.safetensors"))),
        Target("checkpoint's card", [json.dumps(card).encode()], described),
        Target("TFOD's index", [table(block())], open_table,
               lambda folder: (folder / "ckpt-1.data-00000-of-00001").write_bytes(bytes(100))),
        Target("TFOD's entries", [block()], lambda data, _: parse_index(table(data), "a.index")),
        Target("TFOD's object graph", [b"\x0a\x14\x12\x12\x12\x04conv\x1a\x0amodel/conv"], graph),
        Target("an export's card", [json.dumps(exported).encode()],
               lambda data, _: read_card(data.decode("utf-8", "replace"), "a.onnx")),
        Target("images", pictures(), look_at_picture),
        Target("metrics.jsonl", [METRICS], written("metrics.jsonl", show_runs)),
        Target("a run's config.toml", [config], written("config.toml", show_runs)),
        Target("metrics.json", [b'{"mAP": 0.5, "operating_point": {}}'], written("m.json", lambda _, f: _is_ours(f / "m.json"))),
        Target("detections.json", [json.dumps(found).encode()],
               written("detections.json", lambda _, folder: written_before(folder))),
        Target("head of a part", [json.dumps(PART).encode()],
               written("part-00001-of-00001.json", lambda _, folder: all_parts(str(folder), "predict"))),
        Target("etags", [b'{"a": "1", "b": "2"}'], written(".etags.json", lambda _, folder: fetch({}, folder))),
        Target("run.json", [RUN], lambda data, _: parse_run_record(parse_run_record(data, "run.json").text(), "run.json")),
        *(Target(f"request to {kind}", bodies, asked(kind)) for kind, bodies in request_bodies().items()),
        Target("split file", [b"filename,split\n0.png,train\n1.png test\n"], written("split.csv", follow)),
    ]  # fmt: skip
