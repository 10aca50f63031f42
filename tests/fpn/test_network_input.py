"""The input of an exported network is what the model makes of an image."""

import numpy as np
import pytest
import torch

from resight.dialect import dialect_of, stored_input
from resight.fpn.config import FpnModelConfig
from resight.models.build import build_model


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_it_is_the_models_own(name):
    config = FpnModelConfig(name=name, min_size=96, max_size=160)
    model = build_model(config, 1)
    prepare = dialect_of(config).exported_input(model)
    assert stored_input(prepare.model_dump(mode="json"), tfod=None) == prepare
    for size in [(60, 97), (97, 60), (300, 900), (11, 401), (47, 47), (188, 301)]:
        image = np.random.default_rng(size[1]).integers(0, 256, (*size, 3), np.uint8)
        small = model.resize(torch.from_numpy(image).permute(2, 0, 1))
        given = prepare(image)
        assert given["size"].tolist() == list(small.shape[1:])
        assert np.allclose(given["scale"] * given["size"][[1, 0, 1, 0]], [size[1], size[0]] * 2)
        assert given["batch"].shape[2:] == model.network_size(*size)
        assert np.abs(given["batch"] - model.batch([small]).numpy()).max() <= 1e-4
