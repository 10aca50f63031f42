"""The TFOD dialect beside TensorFlow's own operators: `oracles/operators.py`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resight.detection.boxes import stable_nms
from resight.tfod import parts as tfod_parts
from resight.tfod.config import TfodModelConfig
from resight.tfod.parts import tfod_resize
from resight.tfod.resnet_v1 import Bottleneck, Norm, Trunk
from resight.tfod.specs import BLOCKS


class FirstLayers(torch.nn.Module):
    """The beginning of the trunk and one block with a projection and a stride."""

    def __init__(self) -> None:
        super().__init__()
        trunk = Trunk(BLOCKS[50])
        self.conv1, self.norm1, self.block = trunk.conv1, trunk.norm1, Bottleneck(64, 8, 2, True)
        trunk.conv2 = trunk.conv3 = torch.nn.Identity()
        trunk.conv4 = self.block
        self.trunk = [trunk]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk[0](x)


@pytest.fixture(scope="module")
def both(kept_answers):
    """What both were given, and TensorFlow's answer."""
    return kept_answers("tfod/oracles/operators")


@pytest.fixture
def layers(both):
    made = FirstLayers()
    for name, module in made.named_modules():
        values = torch.from_numpy(both[0][f"weights/{name}"]) if f"weights/{name}" in both[0] else None
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.copy_(values.permute(3, 2, 0, 1))
        elif isinstance(module, Norm):
            tensors = (module.weight, module.bias, module.running_mean, module.running_var)
            for tensor, value in zip(tensors, values, strict=True):
                tensor.data.copy_(value)
    return made


def numbered(arrays, kind):
    """The arrays ``kind/0``, ``kind/1`` and so on."""
    return [arrays[f"{kind}/{number}"] for number in range(sum(key.startswith(f"{kind}/") for key in arrays))]


def config() -> TfodModelConfig:
    return TfodModelConfig(name="faster_rcnn_resnet50_v1", min_size=24, max_size=40)


def test_sizes(both):
    given, answer = both
    found = [config().fit_size(height, width) for height, width in given["sizes"].tolist()]
    assert given["limits"].tolist() == [24, 40] and np.array_equal(found, answer["sizes"])


def test_resizing(both):
    given, answer = both
    for image, expected in zip(numbered(given, "image"), numbered(answer, "resized"), strict=True):
        found = tfod_resize(torch.from_numpy(image).permute(2, 0, 1), config().fit_size(*image.shape[:2]))
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_crops(both):
    given, answer = both
    features, boxes = torch.from_numpy(given["features"]), torch.from_numpy(given["boxes"])
    image = torch.zeros(len(boxes), dtype=torch.int64)
    crops = tfod_parts.crop_and_resize(
        features.permute(0, 3, 1, 2), boxes[:, [1, 0, 3, 2]], image, 14, tfod_parts.native_border
    )
    found = F.max_pool2d(crops, 2).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, answer["crops"], atol=2e-6)


@pytest.mark.parametrize("border", [tfod_parts.native_border, tfod_parts.matmul_border])
def test_a_crop_of_one_sample(both, border):
    given, answer = both
    features, boxes = torch.from_numpy(given["features"]), torch.from_numpy(given["boxes"])
    image = torch.zeros(len(boxes), dtype=torch.int64)
    found = tfod_parts.crop_and_resize(features.permute(0, 3, 1, 2), boxes[:, [1, 0, 3, 2]], image, 1, border)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), answer["points"], atol=2e-6)


def test_suppression(both):
    given, answer = both
    for number, expected in enumerate(numbered(answer, "kept")):
        boxes, scores, limit, threshold = (
            torch.from_numpy(given[f"nms/{number}/{name}"]) for name in ("boxes", "scores", "limit", "threshold")
        )
        found = stable_nms(boxes[:, [1, 0, 3, 2]], scores, int(limit), float(threshold), 0.0)
        assert found.tolist() == expected.tolist()


def test_layers(both, layers):
    given, answer = both
    for image, expected in zip(numbered(given, "input"), numbered(answer, "stages"), strict=True):
        with torch.no_grad():
            found = layers.eval()(torch.from_numpy(image).permute(0, 3, 1, 2))
        np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


def test_norms_in_training(both, layers):
    given, answer = both
    norm = layers.norm1.train()
    with torch.no_grad():
        found = norm.after(layers.conv1, torch.from_numpy(given["input/0"]).permute(0, 3, 1, 2))
    y, mean, variance = (answer[name] for name in ("trained", "trained/mean", "trained/variance"))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), y, atol=1e-4)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-5)
