"""A training step of TFOD's Faster R-CNN ResNet-101 on the CPU, beside the rate of plain matrix products.

    python benchmarks/tfod_step.py [--steps 3] [--height 600] [--width 1024] [--profile]

Batch 1, three classes, random image and weights. Prints the operations of a step as torch's flop counter counts them,
the least seconds of several steps, the share of the float32 matrix-product rate measured between the steps, and the
peak memory of the process.
"""

import argparse
import resource
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from resight.input.target import Target
from resight.models.build import build_model
from resight.tfod.config import TfodModelConfig


def matrix_rate(size: int = 2048, times: int = 5) -> float:
    """Floating-point operations a second of a product of two square float32 matrices; the best of several."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--height", type=int, default=600)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--profile", action="store_true", help="also list the operators that take the time")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = TfodModelConfig(
        name="faster_rcnn_resnet101_v1", min_size=options.height, max_size=options.width, tfod={"pad": False}
    )
    model = build_model(config, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    image = torch.rand(3, options.height, options.width) * 255
    boxes = torch.tensor([[100.0, 100, 300, 300], [500, 200, 620, 330]])
    target = Target(boxes, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool))

    def step() -> None:
        sum(model([image], [target]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    rates, seconds = [matrix_rate()], []
    for _ in range(options.steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
        rates.append(matrix_rate())
    work, rate, least = counter.get_total_flops(), max(rates), min(seconds)
    print(f"ResNet-101, {options.height}x{options.width}, batch 1, {torch.get_num_threads()} threads")
    print(f"a step: {work / 1e9:.0f} GFLOP in {least:.2f} s = {work / least / 1e9:.0f} GFLOP/s")
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s, so the step runs at {work / least / rate:.0%} of it")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))


if __name__ == "__main__":
    main()
