import pytest
import torch

from resight.errors import ResightError
from resight.training import preflight as module
from resight.training.distributed import SINGLE_PROCESS, Distributed
from resight.training.plan import make_plan
from resight.training.preflight import check_shared_memory, default_step, largest_batch, preflight
from resight.training.start import start_model


@pytest.fixture
def plan(shapes, tiny):
    return make_plan(tiny(shapes(train=5)))


def test_a_step_is_taken_at_the_largest_shape_and_changes_nothing(plan, monkeypatch):
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen = []
    forward = model.forward

    def watch(images, targets):
        seen.append([tuple(image.shape) for image in images])
        return forward(images, targets)

    monkeypatch.setattr(model, "forward", watch)
    text = preflight(plan, model)
    assert "time      " in text and " s a step on cpu" in text and "memory" in text and "GB RAM for one step" in text
    images, _ = largest_batch(plan)
    assert seen[0] == [tuple(image.shape) for image in images] and len(images) == plan.config.train.batch_size
    assert max(shape[1] * shape[2] for shape in seen[1]) <= images[0].shape[1] * images[0].shape[2]
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_a_training_that_goes_on_only_what_is_left_is_told(shapes, tiny, monkeypatch):
    plan = make_plan(tiny(shapes(train=5), train__steps=1000))
    monkeypatch.setattr(module, "_step", lambda *_: 6.0)
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    assert "about 1 h 40 min with" in preflight(plan, model)
    assert "about 10 min more with" in preflight(plan, model, taken={"step": 900, "evaluated_at": 0})
    assert "about 0 s more with" in preflight(plan, model, taken={"step": 1001, "evaluated_at": 0})


def test_what_does_not_fit_is_said_with_what_to_try(plan, monkeypatch):
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)

    def full(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(ResightError, match="do not fit into the memory of cpu") as caught:
        preflight(plan, model)
    assert "train.batch_size" in str(caught.value.fix)

    def none_left(*_):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(model, "forward", none_left)
    with pytest.raises(ResightError, match="do not fit into the memory of cpu"):
        preflight(plan, model)


def test_a_step_of_the_default_is_timed_and_draws_nothing(plan, monkeypatch):
    before = torch.get_rng_state()
    assert 0 < default_step(plan.config, SINGLE_PROCESS) < 60
    assert torch.equal(before, torch.get_rng_state())

    asked = []
    monkeypatch.setattr(module, "build_model", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(module, "_step", lambda model, images, *_: asked.append(len(images)) or 4.0)
    assert default_step(plan.config, SINGLE_PROCESS) == 4.0 * 8 / 2 and set(asked) == {2}
    # Of two processes each has its share, at the same time.
    asked.clear()
    monkeypatch.setattr(Distributed, "broadcast", lambda self, value: value)
    assert default_step(plan.config, Distributed(0, 2)) == 4.0 * 8 / 2 and set(asked) == {1}

    def full(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module, "_step", full)
    assert default_step(plan.config, SINGLE_PROCESS) is None


@pytest.mark.parametrize("message", ["shapes", "CUDA error: an illegal memory access was encountered"])
def test_another_error_is_not_taken_for_want_of_memory(plan, monkeypatch, message):
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)

    def broken(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(RuntimeError, match=message):
        preflight(plan, model)


def test_the_clock_is_read_when_a_gpu_has_done_its_work(monkeypatch):
    done = []
    monkeypatch.setattr("torch.cuda.synchronize", done.append)
    monkeypatch.setattr("time.monotonic", lambda: float(len(done)))
    assert module._now(torch.device("cuda", 1)) == 1.0 and done == [torch.device("cuda", 1)]
    assert module._now(torch.device("cpu")) == 1.0


def test_too_little_shared_memory_for_the_workers_is_named(plan, tiny, shapes, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHARED_MEMORY", str(tmp_path))
    full = type("Full", (), {"f_bavail": 16, "f_frsize": 4096})
    monkeypatch.setattr(module.os, "statvfs", lambda _: full)
    check_shared_memory(plan)  # no workers
    with pytest.raises(ResightError, match=r"2 loader workers need .* 0 MB is free") as caught:
        check_shared_memory(make_plan(tiny(shapes(train=5), data__workers=2)))
    assert "--shm-size" in str(caught.value.fix)


def test_a_process_of_several_tries_its_part_of_the_batch(plan):
    class Counting(torch.nn.Linear):
        def forward(self, images, targets):
            seen.append(len(images))
            return {"loss": super().forward(torch.ones(1, 1)).sum()}

    seen: list[int] = []
    preflight(plan, Counting(1, 1), Distributed(1, 2))
    assert seen[0] == plan.config.train.batch_size // 2 and max(seen) == seen[0]


def test_what_a_training_holds_beside_the_step_is_there_while_it_is_tried(plan, monkeypatch):
    model, _ = start_model(plan.config, plan.start, plan.classes, plan.anchors)
    asked, ones = [], torch.ones

    def made(size, **options):
        asked.append(size)
        return ones(size, **options)

    monkeypatch.setattr(module.torch, "ones", made)
    monkeypatch.setattr(module, "_step", lambda *_: 1.0)
    preflight(plan, model)
    preflight(plan, model, Distributed(0, 2))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    averaged = sum(value.nbytes for value in model.state_dict().values())
    assert asked == [2 * weights + averaged, 3 * weights + averaged]


def test_half_precision_is_tried_with_the_scale_of_its_losses(plan):
    class Tiny(torch.nn.Linear):
        def forward(self, images, targets):
            loss = super().forward(torch.ones(1, 1)).float().sum()
            loss.register_hook(lambda gradient: seen.append(float(gradient)))
            return {"loss": loss}

    seen: list[float] = []
    for precision in ("float32", "float16"):
        module._step(Tiny(1, 1), [], [], precision)
    assert seen == [1.0, 65536.0]
