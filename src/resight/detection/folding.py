"""BatchNorm with frozen statistics, folded into the convolution before it.

With statistics that never change, ``norm(conv(x))`` is a convolution with scaled weights and a bias. To compute these
few numbers at every step, instead of normalising the whole feature map, saves a pass over it and the memory of a copy;
gradients still reach the norm's weight and bias. Names and tensors of the state dict stay as they are.
"""

import copy
from functools import partial
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

KEEPING = "cuda"  # a CPU's convolutions are no slower with weights that were written just now


class StoredNorm(nn.Module):
    """A BatchNorm that can be folded; ``kept`` is what :func:`folded` made of it last, and of which tensors."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    eps: float
    kept: tuple[object, tuple[Tensor, Tensor]] | None = None

    def train(self, mode: bool = True) -> Self:
        self.kept = None
        return super().train(mode)


class FoldedNorm(StoredNorm):
    """The tensors of a BatchNorm; what is left to do in its place is the activation some of timm's norms carry."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.act = getattr(norm, "act", nn.Identity())

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # its statistics never change

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class FoldedConv2d(nn.Module):
    """A convolution that computes what it and the norm after it computed."""

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        # In tuples, so that neither is registered here a second time.
        self._conv, self._norm = (conv,), (norm,)

    def forward(self, x: Tensor) -> Tensor:
        (conv,), (norm,) = self._conv, self._norm
        return folded(conv, norm, x)


def folded(conv: nn.Conv2d, norm: StoredNorm, x: Tensor) -> Tensor:
    """What ``norm``, with its stored statistics, makes of ``conv(x)``.

    On a GPU, without gradients, the folded weights are kept for the next call, until their tensors change, or
    ``train()`` or ``eval()`` is called: a fused optimizer changes tensors that do not show it.
    """
    if torch.is_grad_enabled() or x.device.type != KEEPING or torch.compiler.is_compiling():
        norm.kept = None
        return conv._conv_forward(x, *_fold_weights(conv, norm))
    parts = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    made_of = [
        (id(part), None if part.is_inference() else part._version, part.data_ptr())
        for part in parts
        if part is not None
    ]
    if norm.kept is None or norm.kept[0] != made_of:
        with torch.inference_mode(False), torch.no_grad():  # they serve outside too
            norm.kept = made_of, _fold_weights(conv, norm)
    return conv._conv_forward(x, *norm.kept[1])


def _fold_weights(conv: nn.Conv2d, norm: StoredNorm) -> tuple[Tensor, Tensor]:
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], shift


def as_convolutions(model: Model) -> Model:
    """A copy of ``model`` in which each folded convolution is an ordinary one, with the weights that it has now: an
    export holds them, and need not compute them."""
    copied = copy.deepcopy(model)
    for name, module in list(copied.named_modules()):
        if isinstance(module, FoldedConv2d):
            (conv,), (norm,) = module._conv, module._norm
            with torch.no_grad():
                conv.weight, conv.bias = map(nn.Parameter, _fold_weights(conv, norm))
            copied.set_submodule(name, conv)
    return copied


def example(shape: tuple[int, ...]) -> Tensor:
    """Noise of ``shape``, always the same."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def fold_batchnorm(model: nn.Module, example: Tensor) -> None:
    """Folds every BatchNorm2d of ``model`` that takes nothing but the output of a convolution; in place.

    Args:
        example: an input of ``model`` (not all zeros), whose way through it shows which norm follows which convolution.
    """
    pairs = _pairs(model, example)
    if pairs and _equal_when_folded(model, pairs, example):
        _fold(model, pairs)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that got their very output."""
    made: list[tuple[Tensor, str]] = []
    pairs: list[tuple[str, str]] = []

    def after_conv(name: str, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made.append((output, name))

    def before_norm(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pairs.extend((conv, name) for output, conv in made if output is inputs[0])

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(partial(after_conv, name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(partial(before_norm, name)))
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return pairs


def _fold(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for conv_name, norm_name in pairs:
        norm = FoldedNorm(cast(nn.BatchNorm2d, model.get_submodule(norm_name)))
        conv = FoldedConv2d(cast(nn.Conv2d, model.get_submodule(conv_name)), norm)
        model.set_submodule(conv_name, conv)
        model.set_submodule(norm_name, norm)


def _equal_when_folded(model: nn.Module, pairs: list[tuple[str, str]], example: Tensor) -> bool:
    """Whether folding changes nothing, tried on a copy whose norms do something."""
    trial = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, norm_name in pairs:
            norm = cast(Any, trial.get_submodule(norm_name))
            for tensor in (norm.weight, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (norm.bias, norm.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        before = trial(example)
        _fold(trial, pairs)
        after = trial(example)
    return all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max())) for a, b in zip(after, before, strict=True)
    )
