"""ResNet V1 of the TFOD dialect: its layers, where its stride lies, and its norms beside PyTorch's."""

import pytest
import torch
from torch import nn

from resight.tfod.resnet_v1 import Bottleneck, BoxHead, Norm, Trunk
from resight.tfod.specs import BLOCKS


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_it_has_the_layers_of_its_depth(depth):
    with torch.device("meta"):
        trunk, head = Trunk(BLOCKS[depth]), BoxHead(BLOCKS[depth][3])
    names = [*trunk.state_dict(), *head.state_dict()]
    # Weighted layers on the deepest way, the fully connected one apart, and one projection a stage.
    assert sum("conv" in name.split(".")[-2] for name in names) == depth - 1 + 4
    assert sum(name.endswith("running_var") for name in names) == depth - 1 + 4
    assert "conv4.0.conv0.weight" in names and "conv4.1.conv0.weight" not in names
    assert f"conv4.{BLOCKS[depth][2] - 1}.norm3.running_mean" in names
    trained = len(list(trunk.parameters())) + len(list(head.parameters()))
    assert trained == {50: 53, 101: 104, 152: 155}[depth] * 3
    assert not any("num_batches_tracked" in name for name in names)


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (49, 47), (64, 31)])
def test_every_step_rounds_up(size):
    with torch.device("meta"):
        features = Trunk(BLOCKS[50])(torch.zeros(1, 3, *size))
        head = BoxHead(BLOCKS[50][3]).conv5(torch.zeros(5, 1024, 7, 7))
    assert features.shape == (1, 1024, -(-size[0] // 16), -(-size[1] // 16))
    assert head.shape == (5, 2048, 4, 4)


def test_the_stride_lies_in_the_first_convolution():
    block = Bottleneck(8, 4, 2, True).eval()
    x = torch.randn(1, 8, 9, 8)
    changed = x.clone()
    changed[:, :, 1::2], changed[:, :, :, 1::2] = 100, 100
    assert torch.equal(block(x), block(changed))


@pytest.mark.parametrize("training", [False, True])
def test_the_norm_is_batch_norm(training):
    generator = torch.Generator().manual_seed(1)
    conv = nn.Conv2d(5, 6, 3, padding=1, bias=False).double()
    ours = Norm(6).double()
    theirs = nn.BatchNorm2d(6, eps=1e-5, momentum=0.003).double()
    for tensor in (ours.weight, ours.running_var):
        tensor.data.copy_(torch.rand(6, generator=generator) + 0.5)
    for tensor in (ours.bias, ours.running_mean):
        tensor.data.copy_(torch.randn(6, generator=generator))
    theirs.load_state_dict({**ours.state_dict(), "num_batches_tracked": torch.tensor(0)})
    ours.train(training)
    theirs.train(training)
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(2, 6, 7, 6, dtype=torch.float64, generator=generator)
    found, expected = ours.after(conv, x), theirs(conv(x))
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad((y * weight).sum(), [x, conv.weight, norm.weight, norm.bias])
        for y, norm in ((found, ours), (expected, theirs))
    ]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
