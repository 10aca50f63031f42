"""Checkpoints made by TensorFlow itself, and made byte by byte.

TensorFlow runs in a process of its own: loaded before PyTorch, it makes PyTorch's import crash.
"""

import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

# A variable of the tree becomes a tf.Variable, a branch with numbers for names a list, any other a tf.Module.
WRITE = """
import os, pickle, sys
import tensorflow as tf

def branch(tree):
    if all(name.isdigit() for name in tree):
        return [branch(tree.get(str(i), {"none": {}})) for i in range(max(map(int, tree)) + 1)]
    module = tf.Module()
    for name, below in tree.items():
        if isinstance(below, dict):
            if below:
                setattr(module, name, branch(below))
        else:
            setattr(module, name, tf.Variable(below[1], name=below[0] or None))
    return module

for folder, number, tree in pickle.load(sys.stdin.buffer):
    checkpoint = tf.train.Checkpoint(**{name: branch(below) for name, below in tree.items()})
    tf.train.CheckpointManager(checkpoint, folder, max_to_keep=None).save(checkpoint_number=number)
"""


def tensorflow_checkpoints(wanted):
    """Lets TensorFlow write ``[(folder, number, {key: (name of the variable or "", array)})]``, keys without suffix."""
    trees = []
    for folder, number, variables in wanted:
        tree: dict = {}
        for key, variable in variables.items():
            *path, leaf = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").split("/")
            below = tree
            for name in path:
                below = below.setdefault(name, {})
            below[leaf] = variable
        trees.append((str(folder), number, tree))
    done = subprocess.run([sys.executable, "-c", WRITE], input=pickle.dumps(trees), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# What a checkpoint may hold besides float32.
TYPES = {
    "kinds/halves": np.array([[1.5, -2.0]], np.float16),
    "kinds/doubles": np.array([0.1, np.inf]),
    "kinds/flags": np.array([True, False, True]),
    "kinds/text": np.array([[b"one", b""], [b"z\xfc" * 100, b"\x00"]], object),
    "kinds/word": np.array(b"alone", object),
    "kinds/step": np.array(2**40, np.int64),
    "kinds/nothing": np.zeros((0, 3), np.float32),
}


def weights_like(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values that follow from the key, of a size that activations neither vanish nor explode under."""
    draw = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").rsplit("/")[-1]
    values = draw.standard_normal(shape, np.float32)
    raw = 100.0 if "proposal_features/layer_with_weights-1/" in key else 1.0  # norms of raw pixels
    if leaf == "kernel":
        return values * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    if leaf == "gamma":
        return np.float32(0.65) + np.float32(0.05) * values
    if leaf == "moving_variance":
        return (np.float32(1) + np.float32(0.1) * np.tanh(values)) * np.float32(raw**2)
    return np.float32(0.1 * (raw if leaf == "moving_mean" else 1)) * values


@pytest.fixture(scope="session")
def zoo_folder(once):
    """``zoo_folder(depth=50, num_classes=6, share_boxes=False, named=True)``: a folder whose `checkpoint/ckpt-0`
    TensorFlow wrote in the layout of the zoo, made once, not to be changed. Values are those of ``weights_like``."""
    from resight.tfod.variables import checkpoint_keys

    def make(depth=50, num_classes=6, share_boxes=False, named=True) -> Path:
        def write(folder: Path) -> None:
            variables = checkpoint_keys(depth, num_classes, share_boxes)
            arrays = {v.key: (v.full_name * named, weights_like(v.key, v.shape)) for v in variables}
            kinds = {name: ("", array) for name, array in TYPES.items()}
            tensorflow_checkpoints([(folder / "checkpoint", 0, arrays), (folder / "kinds", 12, kinds)])

        return once(f"zoo-resnet{depth}-{num_classes}{'-shared' * share_boxes}{'-nameless' * (not named)}", write)

    return make


@pytest.fixture(scope="session")
def values():
    return weights_like


@pytest.fixture(scope="session")
def kinds():
    return TYPES


@pytest.fixture(scope="session")
def table():
    return table_bytes


@pytest.fixture(scope="session")
def write_checkpoint():
    return write_bundle


# The formats once more, from their description, for files that TensorFlow would not write.


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def field(number: int, value: int | bytes) -> bytes:
    """A field of a message: a varint, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & 0xFFFFFFFFFFFFFFFF)
    return varint(number << 3 | 2) + varint(len(value)) + value


def table_bytes(items, *, per_block=16, kind=0, damage=lambda block: block) -> bytes:
    """A table of ``[(key, value)]`` as given; ``damage`` changes the contents of each block of entries before its
    checksum is taken, ``kind`` is the compression that each claims."""
    out, handles = bytearray(), []

    def put(entries, kind=0, damage=lambda block: block) -> bytes:
        body, last = bytearray(), b""
        for number, (key, value) in enumerate(entries):
            shared = 0
            if number:
                while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                    shared += 1
            body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            last = key
        block = damage(bytes(body) + struct.pack("<II", 0, 1)) + bytes([kind])
        handle = varint(len(out)) + varint(len(block) - 1)
        out.extend(block + masked(block))
        return handle

    for start in range(0, len(items), per_block):
        entries = items[start : start + per_block]
        handles.append((entries[-1][0], put(entries, kind, damage)))
    metadata, index = put([]), put(handles)
    return bytes(out) + (metadata + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(prefix: Path, arrays: dict[str, np.ndarray | bytes], shards: int = 1, **options) -> Path:
    """A checkpoint of float32, int64 and scalar string tensors, dealt to the shards in turn."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [bytearray() for _ in range(shards)]
    items = [(b"", field(1, shards) + field(3, field(1, 1)))]
    for number, (key, array) in enumerate(sorted(arrays.items())):
        shard = number % shards
        if isinstance(array, bytes):
            size = struct.pack("<I", len(array))
            data, shape, dtype = varint(len(array)) + masked(size) + array, (), 7
            crc = masked(size + masked(size) + array)
        else:
            data, shape, dtype = array.tobytes(), array.shape, {"float32": 1, "int64": 9}[array.dtype.name]
            crc = masked(data)
        entry = field(1, dtype) + field(2, b"".join(field(2, field(1, side)) for side in shape))
        entry += field(3, shard) * bool(shard) + field(4, len(files[shard])) + field(5, len(data)) + b"\x35" + crc
        items.append((key.encode(), entry))
        files[shard] += data
    prefix.with_name(prefix.name + ".index").write_bytes(table_bytes(items, **options))
    for shard, data in enumerate(files):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}").write_bytes(data)
    return prefix
