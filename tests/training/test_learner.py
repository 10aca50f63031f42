import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fixtures.runs import HALF, OFTEN, lines
from resight.dialect import training_set
from resight.input.sampler import SampleKey
from resight.input.target import Target
from resight.models.checkpoints import LAST, load_checkpoint
from resight.training.learner import Learner, NotFinite
from resight.training.optim import optimizer_tensors
from resight.training.plan import make_plan
from resight.training.start import start_model
from resight.training.train import train
from resight.training.trainer import Diverged


def first_step(shapes, tiny, folder, **switches):
    """The velocity after one step: the gradient."""
    options = {"train__optimizer": "sgd", "train__warmup_steps": 0, "train__ema": 0.0, **OFTEN, **switches}
    train(tiny(shapes(train=5), train__steps=1, train__batch_size=4, **options), folder)
    return load_checkpoint(folder / LAST).part("optimizer")


def test_accumulated_batches_are_one_step(shapes, tiny):
    config = tiny(shapes(train=9), train__ema=0.0, **OFTEN)
    plan = make_plan(config)
    dataset = training_set(plan.train, plan.classes, config)
    examples = [dataset[SampleKey(0, 0, record)] for record in (0, 1, 3, 4)]  # of one shape
    gradients = []
    for parts in ([examples], [examples[:2], examples[2:]], [examples[:1], examples[1:]]):
        model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
        Learner(model.train(), config.train).backward(parts)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    # Equal but for images whose minibatch is not full, which count a little less or more.
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 0.02 * gradients[0].norm()


@pytest.mark.parametrize(
    ("switch", "value", "tolerance"),
    [
        ("train__channels_last", False, 5e-3),
        ("train__precision", "bfloat16", 0.3),
        ("train__precision", "float16", 0.3),
    ],
)
def test_a_switch_changes_the_arithmetic_only(shapes, tiny, tmp_path, switch, value, tolerance):
    plain = first_step(shapes, tiny, tmp_path / "plain")
    switched = first_step(shapes, tiny, tmp_path / "switched", **{switch: value})
    difference = math.sqrt(sum(float((plain[key] - switched[key]).square().sum()) for key in plain))
    assert 0 < difference < tolerance * math.sqrt(sum(float(value.square().sum()) for value in plain.values()))


def test_a_compiled_backbone_has_the_same_losses_and_weights_of_the_same_names(shapes, tiny, monkeypatch):
    compiled, compile_ = [], torch.compile

    def traced(call, **options):  # its graph as it is: to generate code for it takes a minute
        compiled.append(call)
        return compile_(call, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    found = []
    for chosen in (False, True):
        config = tiny(shapes(train=9), train__compile=chosen, **OFTEN)
        plan = make_plan(config)
        dataset = training_set(plan.train, plan.classes, config)
        model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
        step = Learner(model, config.train).step([[dataset[SampleKey(0, 0, 0)]]], 0, 0.0)
        found.append((step.losses, model.state_dict()))
        assert len(compiled) == chosen
    (losses, weights), (other_losses, other) = found
    assert other_losses == pytest.approx(losses, rel=1e-5)
    assert weights.keys() == other.keys()
    assert all(torch.allclose(weights[name], other[name], atol=1e-5) for name in weights)


def test_a_gradient_that_is_not_finite_spoils_no_weight(shapes, tiny, tmp_path, monkeypatch):
    norm, spoiled = Learner.clip_gradients, []
    monkeypatch.setattr(Learner, "clip_gradients", lambda self: torch.tensor(math.nan) if spoiled else norm(self))
    monkeypatch.setattr(Learner, "update", lambda self, step, _: spoiled.append(step))
    with pytest.raises(Diverged, match="the gradient is not finite at step 2"):
        train(tiny(shapes(train=5), train__steps=9), tmp_path)
    assert spoiled == [0]
    assert list((tmp_path / "diverged").glob("record-*.png"))


def test_gradients_that_are_never_finite_end_a_training_in_half_precision(shapes, tiny, tmp_path, monkeypatch):
    norms, norm = iter(torch.tensor([math.inf, math.nan, math.nan])), Learner.clip_gradients
    scales = iter([65536.0, 0.5])
    monkeypatch.setattr(Learner, "clip_gradients", lambda self: 0 * norm(self) + next(norms))
    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda _: next(scales))
    config = tiny(shapes(train=5), train__steps=500, **HALF)
    with pytest.raises(Diverged, match="the gradient is not finite at step 2"):
        train(config, tmp_path)
    assert lines(tmp_path)[0]["gradient_norm"] is None  # JSON knows no infinity


def test_a_forward_pass_that_overflows_skips_the_step_and_shrinks_the_scale(shapes, tiny, monkeypatch):
    config = tiny(shapes(train=5), **HALF)
    plan = make_plan(config)
    dataset = training_set(plan.train, plan.classes, config)
    batch = [dataset[SampleKey(0, 0, record)] for record in (0, 1)]
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    learner = Learner(model.train(), config.train)
    before, scale = [p.detach().clone() for p in model.parameters()], learner.scaler.get_scale()
    losses = Learner._losses
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_losses", lambda self, b: {k: v * math.inf for k, v in losses(self, b).items()})
        step = learner.step([batch], 0, 0.0)
    assert not math.isfinite(sum(step.losses.values())) and learner.scaler.get_scale() == scale / 2
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    step = learner.step([batch], 1, 0.5)
    assert math.isfinite(step.gradient_norm)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_of_accumulated_batches_the_one_whose_loss_is_not_finite_is_named(shapes, tiny, monkeypatch):
    config = tiny(shapes(train=5))
    plan = make_plan(config)
    dataset = training_set(plan.train, plan.classes, config)
    batches = [[dataset[SampleKey(0, 0, record)]] for record in (0, 1)]
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    learner, losses = Learner(model.train(), config.train), Learner._losses
    before = [p.detach().clone() for p in model.parameters()]

    def second_is_bad(self, batch):
        factor = math.nan if batch is batches[1] else 1.0
        return {name: value * factor for name, value in losses(self, batch).items()}

    monkeypatch.setattr(Learner, "_losses", second_is_bad)
    with pytest.raises(NotFinite) as caught:
        learner.step(batches, 0, 0.0)
    assert caught.value.what == "loss" and caught.value.batch is batches[1]
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


TFOD = {"model__name": "faster_rcnn_resnet50_v1", "model__tfod": {"pad": True}}


def test_a_step_that_is_skipped_leaves_no_momentum(shapes, tiny):
    config = tiny(shapes(train=5), train__optimizer="sgd", **HALF)
    plan = make_plan(config)
    batch = [training_set(plan.train, plan.classes, config)[SampleKey(0, 0, 0)]]
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    learner = Learner(model.train(), config.train)
    groups = [{name: group[name] for name in ("params", "scale")} for group in learner.optimizer.param_groups]
    learner.optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)  # as on a GPU
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for number in range(2):
        learner.step([batch], number, 0.0)
        assert not optimizer_tensors(learner.optimizer)


@pytest.mark.parametrize("dialect", [{}, TFOD], ids=["FPN", "TFOD"])
def test_a_batch_without_any_box_gives_finite_gradients(shapes, tiny, dialect):
    config = tiny(shapes(train=3), **dialect)
    plan = make_plan(config)
    dataset = training_set(plan.train, plan.classes, config)
    batch = [replace(dataset[SampleKey(0, 0, record)], target=Target.empty()) for record in (0, 1)]
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    learner = Learner(model.train(), config.train)
    (losses,), norm = learner.read(learner.backward([batch]), learner.clip_gradients())
    assert losses and all(np.isfinite(value) and value >= 0 for value in losses.values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert norm > 0  # the background is learnt


def test_images_that_were_not_resized_are_by_the_model(shapes, tiny):
    config = tiny(shapes(train=3), **TFOD)
    plan = make_plan(config)
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    learner = Learner(model, plan.config.train)
    sets = (training_set(plan.train, plan.classes, plan.config, resized=resized) for resized in (True, False))
    here, there = ([data[SampleKey(0, 0, record)] for record in (0, 1)] for data in sets)
    assert {example.image.dtype for example in there} == {torch.uint8}
    with torch.no_grad():
        assert learner._losses(here) == learner._losses(there)


@pytest.mark.parametrize("dialect", [{}, TFOD], ids=["FPN", "TFOD"])
def test_images_cross_to_a_gpu_as_pinned_bytes_without_a_wait(shapes, tiny, pretended_cuda, dialect):
    plan = make_plan(tiny(shapes(train=3), **dialect))
    dataset = training_set(plan.train, plan.classes, plan.config, resized=False)
    examples = [dataset[SampleKey(0, 0, record)] for record in (0, 1)]
    assert {example.image.dtype for example in examples} == {torch.uint8}
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    with pretended_cuda() as counts, torch.no_grad():
        learner = Learner(model.to("cuda"), plan.config.train)
        pinned = [example.pin_memory() for example in examples]
        counts.waits.clear()
        assert len(learner._losses(pinned)) == 4
        assert counts.pinned >= 2 and not [why for why in counts.waits if "learner.py" in why or "tfod_resize" in why]
