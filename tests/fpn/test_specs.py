"""The table of models: what the configuration and the built model take from it."""

import pytest

from resight.fpn.config import FpnModelConfig
from resight.fpn.dialect import build, default_anchors, level_strides
from resight.fpn.specs import SPECS, TORCHVISION, spec_of


@pytest.mark.parametrize("name", [*SPECS, "resnet18"])
def test_a_model_is_as_its_spec_says(name):
    config, spec = FpnModelConfig(name=name), spec_of(name)
    assert (config.min_size, config.max_size) == (spec.min_size, spec.max_size)
    assert len(level_strides(config)) == len(default_anchors(config).sizes) == len(spec.strides)


def test_what_is_not_in_the_table_is_a_backbone_of_timms():
    spec = spec_of("resnet18")
    assert (spec.name, spec.source, spec.weights) == ("resnet18", "timm", "ImageNet")
    assert len(TORCHVISION) == 4 and all(spec_of(name).weights == "COCO" for name in TORCHVISION)
    assert build(FpnModelConfig(name="resnet18"), 2).backbone.out_channels == spec.pyramid_channels
