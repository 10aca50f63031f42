"""Folded weights are kept while nothing changes. That folding changes no number is in the tests of the models."""

import copy

import pytest
import torch
from torch import nn

from resight.detection import folding
from resight.detection.folding import FoldedConv2d, as_convolutions, fold_batchnorm, folded
from resight.tfod.resnet_v1 import Norm

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def keeping(monkeypatch):
    """A CPU keeps them as a GPU does."""
    monkeypatch.setattr(folding, "KEEPING", "cpu")


class WithNorm(nn.Module):
    """A convolution and its norm in TFOD's dialect."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), Norm(4)

    def forward(self, x):
        return self.norm.after(self.conv, x)


def folded_module():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    fold_batchnorm(module, IMAGE)
    return module


@pytest.fixture(params=[folded_module, WithNorm])
def module(request):
    torch.manual_seed(0)
    return request.param().eval()


@pytest.fixture
def times(monkeypatch):
    """How often weights were folded."""
    made = []
    fold_weights = folding._fold_weights
    monkeypatch.setattr(folding, "_fold_weights", lambda *given: made.append(given) or fold_weights(*given))
    return made


def test_on_a_cpu_nothing_is_kept(module, times):
    with torch.inference_mode():
        assert torch.equal(module(IMAGE), module(IMAGE)) and len(times) == 2


def test_a_gpu_keeps_them(pretended_cuda, module, times):
    with pretended_cuda(), torch.no_grad():
        module.to("cuda")
        there = IMAGE.to("cuda")
        assert torch.equal(module(there).cpu(), module(there).cpu()) and len(times) == 1
        module.to("cpu")


def test_weights_are_folded_once_for_many_images(keeping, module, times):
    expected = module(IMAGE).detach()
    times.clear()
    for mode in (torch.inference_mode, torch.no_grad):
        for _ in range(3):
            with mode():
                assert torch.equal(module(IMAGE), expected)
    assert len(times) == 1
    assert torch.equal(module(IMAGE), expected) and module(IMAGE).requires_grad and len(times) == 3
    assert torch.equal(copy.deepcopy(module)(IMAGE), expected)


def fused_step(module):
    optimizer = torch.optim.SGD(module.parameters(), 0.1, fused=True)
    module.train()(IMAGE).sum().backward()
    module.eval()
    optimizer.step()
    module.eval()


def other_weights(module):
    module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})


def other_statistics(module):
    next(value for name, value in module.named_buffers() if name.endswith("running_mean")).add_(1)


@pytest.mark.parametrize(
    "change", [fused_step, other_weights, other_statistics, lambda module: module.to(torch.float64)]
)
def test_they_are_folded_anew_when_something_has_changed(keeping, module, change):
    with torch.no_grad():
        before = module(IMAGE)
    change(module)
    image = IMAGE.to(next(module.parameters()).dtype)
    with torch.no_grad():
        after = module(image)
    assert torch.equal(after, module(image).detach())
    assert before.dtype != after.dtype or not torch.equal(before, after)


def test_nothing_is_kept_beside_gradients_or_after_an_evaluation(keeping):
    conv, norm = nn.Conv2d(3, 4, 3), Norm(4).eval()
    for end in (lambda: folded(conv, norm, IMAGE), norm.train):
        with torch.no_grad():
            folded(conv, norm.eval(), IMAGE)
        assert norm.kept is not None
        end()
        assert norm.kept is None


def test_ordinary_convolutions_compute_the_same_and_the_model_stays():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 2, 1),
    )
    model = nn.Sequential(*layers).eval()
    fold_batchnorm(model, IMAGE)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    before = copy.deepcopy(model.state_dict())
    found = as_convolutions(model)
    kinds = [type(module) for module in found if type(module) is not folding.FoldedNorm]
    assert kinds == [nn.Conv2d] * 3 and isinstance(model[0], FoldedConv2d)
    with torch.no_grad():
        assert torch.equal(found(IMAGE), model(IMAGE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
