"""The table of models: what the configuration takes from it."""

import pytest

from resight.config.tree import TFOD_MODELS
from resight.errors import ResightError
from resight.tfod.config import TfodModelConfig
from resight.tfod.dialect import check_name
from resight.tfod.specs import SPECS


@pytest.mark.parametrize("name", SPECS)
def test_a_model_is_as_its_spec_says(name):
    config, spec = TfodModelConfig(name=name), SPECS[name]
    assert (config.min_size, config.max_size) == (spec.min_size, spec.max_size)
    assert f"resnet{spec.depth}_" in name and sum(spec.blocks) * 3 + 2 == spec.depth
    check_name(name)


def test_the_table_is_whole():
    assert tuple(SPECS) == TFOD_MODELS
    with pytest.raises(ResightError, match="unknown model 'resnet50'"):
        check_name("resnet50")
