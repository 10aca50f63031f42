"""The TFOD dialect beside TensorFlow's own operators, which run in a process of their own."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resight.config import ModelConfig
from resight.data.tfod_resize import tfod_resize, tfod_size
from resight.models import tfod_parts
from resight.models.resnet_v1 import Bottleneck, Norm, Trunk

SIZES = [(48, 64), (64, 48), (50, 50), (37, 211), (333, 120), (801, 7), (600, 601)]

TENSORFLOW = """
import pickle, sys
import tensorflow as tf
given = pickle.load(sys.stdin.buffer)
resize = tf.compat.v1.image.resize_images
answer = {"resized": [resize(x, size).numpy() for x, size in given["resize"]], "sizes": []}
for height, width in given["sizes"]:
    wanted = (100, 166) if height < width else (166, 100)
    blank = tf.zeros([height, width, 1])
    answer["sizes"].append(tuple(resize(blank, wanted, preserve_aspect_ratio=True).shape[:2]))
features, boxes = given["crop"]
crops = tf.image.crop_and_resize(features, boxes, [0] * len(boxes), [14, 14])
answer["crops"] = tf.nn.max_pool2d(crops, 2, 2, "SAME").numpy()
answer["points"] = tf.image.crop_and_resize(features, boxes, [0] * len(boxes), [1, 1]).numpy()
answer["kept"] = [
    tf.image.non_max_suppression_with_scores(boxes, scores, limit, threshold, 0.0)[0].numpy()
    for boxes, scores, limit, threshold in given["nms"]
]

def conv(x, name, stride=1):
    padding = "SAME"
    if name == "conv1":
        x, padding = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]]), "VALID"
    return tf.nn.conv2d(x, given["weights"][name], stride, padding)

def norm(x, name, training=False):
    gamma, beta, mean, variance = given["weights"][name]
    if training:
        return tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, 1e-5, is_training=True, exponential_avg_factor=0.003
        )
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)

answer["stages"] = []
for image in given["images"]:
    x = tf.nn.relu(norm(conv(image, "conv1", 2), "norm1"))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    shortcut = norm(conv(x, "block.conv0", 2), "block.norm0")
    x = tf.nn.relu(norm(conv(x, "block.conv1", 2), "block.norm1"))
    x = tf.nn.relu(norm(conv(x, "block.conv2"), "block.norm2"))
    answer["stages"].append(tf.nn.relu(norm(conv(x, "block.conv3"), "block.norm3") + shortcut).numpy())
y, mean, variance = norm(conv(given["images"][0], "conv1", 2), "norm1", training=True)
answer["trained"] = [y.numpy(), mean.numpy(), variance.numpy()]
sys.stdout.buffer.write(pickle.dumps(answer))
"""


class FirstLayers(torch.nn.Module):
    """The beginning of the trunk and one block with a projection and a stride."""

    def __init__(self) -> None:
        super().__init__()
        trunk = Trunk(50)
        self.conv1, self.norm1, self.block = trunk.conv1, trunk.norm1, Bottleneck(64, 8, 2, True)
        trunk.conv2 = trunk.conv3 = torch.nn.Identity()
        trunk.conv4 = self.block
        self.trunk = [trunk]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk[0](x)


def scattered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes yxyx, many of them alike, and scores, many of them equal."""
    rng = np.random.default_rng(seed)
    center, size = rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(3, 5, (count, 2)))
    boxes = np.concatenate([center - size / 2, center + size / 2], 1).astype(np.float32)
    return boxes, (rng.integers(0, 200, count) / 200).astype(np.float32)


@pytest.fixture(scope="module")
def both():
    """What both were given, and TensorFlow's answer."""
    rng = np.random.default_rng(0)
    layers = FirstLayers()
    for norm in (module for module in layers.modules() if isinstance(module, Norm)):
        for name, low, high in (("weight", 0.5, 1.5), ("bias", -1, 1), ("running_mean", -1, 1), ("running_var", 1, 3)):
            values = rng.uniform(low, high, len(norm.bias)).astype(np.float32)
            getattr(norm, name).data.copy_(torch.from_numpy(values))
    weights: dict[str, object] = {}
    for name, module in layers.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            weights[name] = module.weight.detach().permute(2, 3, 1, 0).numpy()
        elif isinstance(module, Norm):
            tensors = (module.weight, module.bias, module.running_mean, module.running_var)
            weights[name] = [tensor.detach().numpy().copy() for tensor in tensors]
    corner = rng.uniform(0, 0.7, (200, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(0, 0.6, (200, 2)), 1)], 1).astype(np.float32)
    boxes[0] = 0
    given = {
        "sizes": SIZES,
        "resize": [
            (rng.integers(0, 256, (h, w, 3)).astype(np.uint8), tfod_size(h, w, config())) for h, w in SIZES if h < 600
        ],
        "crop": (rng.standard_normal((1, 11, 17, 6)).astype(np.float32), boxes),
        "nms": [
            (*scattered(count, seed), limit, threshold)
            for seed, (count, limit, threshold) in enumerate(
                [(300, 100, 0.6), (5000, 30, 0.7), (5000, 300, 0.3), (20, 50, 0.5), (0, 3, 0.5)]
            )
        ],
        "images": [rng.standard_normal((1, h, w, 3)).astype(np.float32) for h, w in ((32, 48), (33, 46), (35, 37))],
        "weights": weights,
    }
    done = subprocess.run([sys.executable, "-c", TENSORFLOW], input=pickle.dumps(given), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return given, pickle.loads(done.stdout), layers


def config() -> ModelConfig:
    return ModelConfig(name="faster_rcnn_resnet50_v1", min_size=100, max_size=166)


def test_sizes(both):
    assert [tfod_size(height, width, config()) for height, width in SIZES] == both[1]["sizes"]


def test_resizing(both):
    given, answer, _ = both
    for (image, size), expected in zip(given["resize"], answer["resized"], strict=True):
        found = tfod_resize(torch.from_numpy(image).permute(2, 0, 1), size)
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_crops(both):
    given, answer, _ = both
    features, boxes = (torch.from_numpy(array) for array in given["crop"])
    image = torch.zeros(len(boxes), dtype=torch.int64)
    crops = tfod_parts.crop_and_resize(
        features.permute(0, 3, 1, 2), boxes[:, [1, 0, 3, 2]], image, 14, tfod_parts.native_border
    )
    found = F.max_pool2d(crops, 2).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, answer["crops"], atol=2e-6)


@pytest.mark.parametrize("border", [tfod_parts.native_border, tfod_parts.matmul_border])
def test_a_crop_of_one_sample(both, border):
    given, answer, _ = both
    features, boxes = (torch.from_numpy(array) for array in given["crop"])
    image = torch.zeros(len(boxes), dtype=torch.int64)
    found = tfod_parts.crop_and_resize(features.permute(0, 3, 1, 2), boxes[:, [1, 0, 3, 2]], image, 1, border)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), answer["points"], atol=2e-6)


def test_suppression(both):
    given, answer, _ = both
    for (boxes, scores, limit, threshold), expected in zip(given["nms"], answer["kept"], strict=True):
        xyxy = torch.from_numpy(boxes)[:, [1, 0, 3, 2]]
        found = tfod_parts.suppress(xyxy, torch.from_numpy(scores), limit, threshold, 0.0)
        assert found.tolist() == expected.tolist()


def test_layers(both):
    given, answer, layers = both
    for image, expected in zip(given["images"], answer["stages"], strict=True):
        with torch.no_grad():
            found = layers.eval()(torch.from_numpy(image).permute(0, 3, 1, 2))
        np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


def test_norms_in_training(both):
    given, answer, layers = both
    norm = layers.norm1.train()
    with torch.no_grad():
        found = norm.after(layers.conv1, torch.from_numpy(given["images"][0]).permute(0, 3, 1, 2))
    y, mean, variance = answer["trained"]
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), y, atol=1e-4)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-5)
