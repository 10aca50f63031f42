"""On a real GPU; collected only where there is one. What can be shown without one is shown on the pretended device."""

import copy

import pytest
import torch

from fixtures.runs import OFTEN, state_of
from resight.dialect import dialect_of
from resight.errors import ResightError
from resight.fpn.config import FpnModelConfig
from resight.input.target import Target
from resight.models.build import autocast, build_model, float32_products
from resight.models.checkpoints import BEST, load_checkpoint
from resight.tfod.config import TfodModelConfig
from resight.training import distributed as module
from resight.training.distributed import Distributed, join
from resight.training.train import train

pytestmark = pytest.mark.cuda

DEVICE = torch.device("cuda")
TFOD = {"model__name": "faster_rcnn_resnet50_v1", "model__tfod": {"pad": True}, "model__start": "none"}
CONFIGS = {
    "fpn": FpnModelConfig(min_size=128, max_size=192, freeze=0),
    "tfod": TfodModelConfig(name="faster_rcnn_resnet50_v1", min_size=128, max_size=192),
}


@pytest.fixture(autouse=True)
def exact():
    """Products and convolutions of float32 are of float32."""
    with float32_products("ieee"):
        yield


@pytest.fixture(params=CONFIGS)
def models(request):
    """The same model on the CPU and on the GPU, and the numbers its images have."""
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    model = build_model(config, 3).train()
    for part in model.modules():  # random weights of a deep body let the features grow
        if hasattr(part, "running_var"):
            part.weight.data.fill_(0.6)
    return model, copy.deepcopy(model).to(DEVICE), dialect_of(config).input_dtype


def scenes(dtype):
    """Three images and their objects: several, one, none."""
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(256, (3, 128, 160), generator=draw, dtype=torch.uint8).to(dtype) for _ in range(3)]
    boxes = torch.tensor([[10.0, 10, 60, 70], [80, 30, 150, 90], [20, 40, 44, 60]])
    objects = [boxes, boxes[:1], boxes[:0]]
    return images, [
        Target(own, torch.arange(len(own)), torch.zeros(len(own), dtype=torch.bool), seed)
        for seed, own in enumerate(objects)
    ]


def losses_and_gradients(model, dtype, device, precision="float32"):
    images, targets = scenes(dtype)
    with autocast(precision, device):
        losses = model([image.to(device) for image in images], targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def test_losses_and_gradients_are_those_of_the_cpu(models):
    model, on_gpu, dtype = models
    losses, gradients = losses_and_gradients(model, dtype, torch.device("cpu"))
    found, found_gradients = losses_and_gradients(on_gpu, dtype, DEVICE)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        difference = (found_gradients[name] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-7, name


def test_detections_are_those_of_the_cpu(models):
    model, on_gpu, _ = models
    images, _ = scenes(torch.uint8)
    with torch.inference_mode():
        wanted = model.eval()(images)
        found = on_gpu.eval()([image.to(DEVICE) for image in images])
    for one, other in zip(wanted, found, strict=True):
        assert len(one.scores) and other.labels.tolist() == one.labels.tolist()
        assert torch.allclose(other.scores.cpu(), one.scores, atol=1e-3)
        assert torch.allclose(other.boxes.cpu(), one.boxes, atol=0.16)  # a thousandth of the image


def test_bfloat16_has_the_losses_of_float32(models):
    _, on_gpu, dtype = models
    optimizer = torch.optim.AdamW(on_gpu.parameters(), 1e-3)
    for _ in range(40):  # of random weights the proposals are near-ties, and other ones in each arithmetic
        losses_and_gradients(on_gpu, dtype, DEVICE)
        optimizer.step()
        optimizer.zero_grad()
    exact, _ = losses_and_gradients(on_gpu, dtype, DEVICE)
    rough, _ = losses_and_gradients(on_gpu, dtype, DEVICE, "bfloat16")
    assert sum(rough.values()) == pytest.approx(sum(exact.values()), rel=0.02)


@pytest.mark.parametrize("dialect", [{}, TFOD], ids=["fpn", "tfod"])
def test_interrupted_and_resumed_is_never_interrupted(dialect, shapes, tiny, tmp_path, interrupt_after):
    data = shapes(train=5, val=1)
    config = tiny(data, train__steps=8, train__device=str(DEVICE), train__deterministic=True, **OFTEN, **dialect)
    assert train(config, tmp_path / "whole").exit_code == 0
    interrupt_after(4)
    assert train(config, tmp_path / "cut").exit_code == 75
    assert train(config, tmp_path / "cut", resume=True).exit_code == 0
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")
    assert load_checkpoint(tmp_path / "cut" / BEST).state == load_checkpoint(tmp_path / "whole" / BEST).state


def test_too_little_memory_is_told_with_what_to_try(shapes, tiny, tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(30e6 / torch.cuda.get_device_properties(DEVICE).total_memory)
    try:
        with pytest.raises(ResightError, match=r"do not fit into the memory of cuda(.|\n)*smaller train.batch_size"):
            train(tiny(shapes(train=5, val=1), train__steps=1, train__device=str(DEVICE)), tmp_path)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_nccl_with_one_process(models, monkeypatch, free_port):
    _, on_gpu, dtype = models
    alone, _ = losses_and_gradients(on_gpu, dtype, DEVICE)
    environment = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    for name, value in (environment | {"MASTER_PORT": str(free_port)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "processes", lambda: 2)  # the group is made, of one
    with join(DEVICE):
        several = Distributed(0, 2)  # does not answer by itself
        assert several.all_reduce([1.5, 2.0]) == [1.5, 2.0]
        assert several.broadcast({"a": 1}) == {"a": 1}
        together, _ = losses_and_gradients(several.parallel(on_gpu), dtype, DEVICE)
    assert together == pytest.approx(alone, rel=1e-6)
