import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resight.dialect import load_config
from resight.training.optim import BACKBONE_RATE, ModelEMA, base_lr, build_optimizer, lr_at, set_lr


def settings(**train):
    return load_config(None, {f"train.{key}": value for key, value in train.items()}).train


def test_the_rate_follows_the_images_of_a_step():
    assert base_lr(settings(optimizer="sgd", batch_size=2)) == pytest.approx(0.005)
    assert base_lr(settings(optimizer="sgd", batch_size=4, accumulate=3)) == pytest.approx(0.03)
    assert base_lr(settings()) == pytest.approx(0.0005)
    assert base_lr(settings(batch_size=8, accumulate=4)) == pytest.approx(0.001)
    assert base_lr(settings(learning_rate=0.3, batch_size=64)) == 0.3


def test_a_linear_warm_up_then_half_a_cosine():
    config = settings(learning_rate=1, warmup_steps=10)
    assert [lr_at(config, step, 0) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert [lr_at(config, 100, share) for share in (0, 0.5, 1, 1.5)] == pytest.approx([1, 0.5, 0, 0])
    assert lr_at(config, 0, 0.05) == pytest.approx(0.5, rel=0.01)  # a tenth of the training at most
    steady = settings(learning_rate=1, warmup_steps=0, schedule="constant")
    assert {lr_at(steady, step, share) for step in (0, 50) for share in (0, 0.9)} == {1}


def test_tfod_warm_up_hold_and_cosine():
    config = settings(learning_rate=0.01, warmup_rate=0.0, warmup_steps=4, hold_steps=2, schedule_steps=16)
    found = [lr_at(config, step, 0.9) for step in (0, 1, 3, 4, 5, 6, 11, 16, 17)]
    assert found == pytest.approx([0, 0.0025, 0.0075, 0.01, 0.01, 0.01, 0.005, 0, 0])


@pytest.mark.parametrize(
    ("length", "hold", "rates"),
    [
        (4, 0, {3: 0.0075}),
        (4, 2, {3: 0.0075, 4: 0.01, 5: 0}),
        (5, 2, {4: 0.01, 5: 0.01, 6: 0, 7: 0}),
        (6, 2, {5: 0.01, 6: 0.01, 7: 0}),
        (7, 2, {6: 0.01, 7: 0, 8: 0}),
    ],
)
def test_a_cosine_that_ends_with_the_warm_up_or_the_steps_after_it_is_tfods(length, hold, rates):
    config = settings(
        learning_rate=0.01, warmup_rate=0.0, warmup_steps=4, hold_steps=hold, schedule_steps=length, steps=4
    )
    assert {step: lr_at(config, step, 0.9) for step in rates} == pytest.approx(rates)


def test_steps_and_exponential_decay():
    config = settings(
        learning_rate=0.3, schedule="steps", warmup_steps=2, warmup_rate=0.1, milestones=[[5, 0.03], [8, 0.003]]
    )
    found = [lr_at(config, step, 0) for step in (0, 1, 2, 4, 5, 7, 8, 99)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.03, 0.03, 0.003, 0.003])
    options = {"learning_rate": 1, "schedule": "exponential", "schedule_steps": 10, "decay": 0.5, "warmup_rate": 0.2}
    stairs = settings(**options, warmup_steps=3, warmup="constant", least_rate=0.2)
    assert [lr_at(stairs, step, 0) for step in (0, 2, 3, 12, 13, 23, 43)] == [0.2, 0.2, 1, 1, 0.5, 0.25, 0.2]
    smooth = settings(**options, warmup_steps=0, staircase=False)
    assert [lr_at(smooth, step, 0) for step in (0, 5, 10)] == pytest.approx([1, math.sqrt(0.5), 0.5])


def test_the_rate_is_inside_the_velocity():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = build_optimizer(nn.ParameterList([weight]), settings(optimizer="momentum", learning_rate=1))
    value, velocity = 1.0, 0.0
    for rate, gradient in [(0.0, 3.0), (0.1, 2.0), (0.5, -1.0), (0.25, 0.5)]:
        set_lr(optimizer, rate)
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        velocity = 0.9 * velocity - rate * gradient
        value += velocity
        assert weight.item() == pytest.approx(value)


@given(st.integers(0, 300), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_never_rises_after_the_warm_up(step, one, other):
    config = settings(learning_rate=1)
    early, late = sorted((one, other))
    assert lr_at(config, 100 + step, early) >= lr_at(config, 100 + step, late) >= 0


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))
        self.backbone.body[0].requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_every_trained_weight_is_optimised_once_and_only_matrices_decay(kind):
    model = Small()
    optimizer = build_optimizer(model, settings(optimizer=kind, weight_decay=0.1))
    set_lr(optimizer, 0.5)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        id(parameter): (0.5 * (BACKBONE_RATE if "body" in name else 1), 0.1 if name.endswith("weight") else 0)
        for name, parameter in model.named_parameters()
        if not name.startswith("backbone.body.0")
    }
    expected[id(model.head[1].weight)] = (0.5, 0)  # of a norm
    assert found == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)


def test_the_average_follows_the_formula_and_leaves_frozen_weights():
    model = Small()
    frozen = model.backbone.body[0].weight.clone()
    average = ModelEMA(model, 0.9)
    expected = model.head[0].weight.detach().double()
    for step in range(1, 30):
        with torch.no_grad():
            model.head[0].weight.add_(math.sin(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.head[0].weight.detach().double()
    torch.testing.assert_close(average.model.head[0].weight.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(average.model.backbone.body[0].weight, frozen)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_on_a_gpu_one_kernel_updates_all_weights(pretended_cuda, kind):
    assert build_optimizer(Small(), settings(optimizer=kind)).defaults["foreach"]
    with pretended_cuda() as counts:
        optimizer = build_optimizer(Small().to("cuda"), settings(optimizer=kind))
        assert optimizer.defaults["fused"]
        for parameter in (weight for group in optimizer.param_groups for weight in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        counts.waits.clear()
        counts.operators.clear()
        optimizer.step()
    assert not counts.waits
    assert counts.operators[f"_fused_{kind}_"] == len(optimizer.param_groups)
