"""The input of an exported network is what the model makes of an image."""

import numpy as np
import pytest
import torch

from resight.dialect import dialect_of, stored_input
from resight.models.build import build_model
from resight.tfod.config import TfodModelConfig


@pytest.mark.parametrize(
    ("sides", "options"),
    [
        ((96, 160), {"pad_value": (90.0, 100.0, 110.0)}),
        ((96, 160), {"pad": False}),
        ((80, 128), {"fixed_size": (128, 80)}),
    ],
)
def test_it_is_the_models_own(sides, options):
    config = TfodModelConfig(name="faster_rcnn_resnet50_v1", min_size=sides[0], max_size=sides[1], tfod=options)
    model = build_model(config, 1)
    prepare = dialect_of(config).exported_input(model)
    assert stored_input(prepare.model_dump(mode="json"), tfod={}) == prepare
    for size in [(60, 97), (97, 60), (300, 900), (11, 401), (47, 47), (188, 301)]:
        image = np.random.default_rng(size[1]).integers(0, 256, (*size, 3), np.uint8)
        small = model.resize(torch.from_numpy(image).permute(2, 0, 1))
        given = prepare(image)
        assert given["size"].tolist() == list(small.shape[1:])
        assert np.array_equal(given["batch"], model.batch([small]).numpy())
