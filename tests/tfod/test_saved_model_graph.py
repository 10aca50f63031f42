"""Parts of the SavedModel's graph beside the model's own, in a process of its own."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from resight.tfod import parts as tfod_parts
from resight.tfod.config import TfodModelConfig

SIZES = [(1, 3000), (3000, 1), (60, 90)]
GRAPH = """
import pickle, sys
import torchvision
import tensorflow as tf
from resight.tfod.config import TfodModelConfig
from resight.tfod.saved_model_graph import Graph
configs, sizes, features, boxes = pickle.load(sys.stdin.buffer)
graphs = [Graph({}, TfodModelConfig(**config), 2) for config in configs]
answer = [
    [graphs[0].preprocess(tf.zeros([*size, 3]))[1].numpy().tolist() for size in sizes],
    *(graph.crop(features, boxes).numpy() for graph in graphs),
]
sys.stdout.buffer.write(pickle.dumps(answer))
"""


def config(matmul: bool) -> dict:
    tfod = {"crop_size": 1, "pool_size": 1, "pool_stride": 1, "proposals": 50, "matmul_crop": matmul}
    return {"name": "faster_rcnn_resnet50_v1", "min_size": 200, "max_size": 333, "tfod": tfod}


@pytest.fixture(scope="module")
def both():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.7, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 0.3, (50, 2))], 1).astype(np.float32)
    features = rng.standard_normal((1, 9, 13, 6)).astype(np.float32)
    given = [config(False), config(True)], SIZES, features, boxes
    done = subprocess.run([sys.executable, "-c", GRAPH], input=pickle.dumps(given), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return features, boxes, pickle.loads(done.stdout)


def test_a_thin_image_keeps_a_pixel_each_way(both):
    sizes = [list(TfodModelConfig(**config(False)).fit_size(*size)) for size in SIZES]
    assert both[2][0] == sizes and sizes[0] == [1, 333]


@pytest.mark.parametrize("matmul", [False, True])
def test_a_crop_of_one_sample(both, matmul):
    features, boxes = (torch.from_numpy(array) for array in both[:2])
    border = tfod_parts.matmul_border if matmul else tfod_parts.native_border
    image = torch.zeros(50, dtype=torch.int64)
    own = tfod_parts.crop_and_resize(features.permute(0, 3, 1, 2), boxes[:, [1, 0, 3, 2]], image, 1, border)
    np.testing.assert_allclose(both[2][1 + matmul], own.permute(0, 2, 3, 1).numpy(), atol=1e-5)
