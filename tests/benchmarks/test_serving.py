"""What the benchmark of the server counts; and, as a soak test, a server under twice its load for an hour."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import serving

MINUTES = 60 if "RESIGHT_SOAK" in os.environ else 1


def test_the_slope_of_memory_is_of_its_end():
    load = serving.Load()
    load.memory = [(float(second), 100 * serving.MB + min(second, 20) * serving.MB) for second in range(100)]
    assert load.slope() == pytest.approx(0, abs=1e-6)  # what grows at the start alone
    load.memory = [(float(second), second * serving.MB // 10) for second in range(100)]
    assert load.slope() == pytest.approx(360, rel=1e-3)
    assert serving.slope([]) == 0


def test_answers_are_compared_with_the_models():
    found = [{"label": "stop", "score": 0.9, "box": [1.0, 2.0, 30.0, 40.0]}]
    assert serving.same(found, [found[0] | {"score": 0.90001}])
    assert not serving.same(found, []) and not serving.same(found, [found[0] | {"label": "yield"}])
    assert not serving.same(found, [found[0] | {"box": [1.0, 2.0, 30.0, 41.0]}])


@pytest.mark.soak
def test_a_server_stands_twice_its_load(tfod_onnx):
    from fixtures.serving import encoded, picture

    pictures = [encoded(picture(*size, seed)) for seed, size in enumerate([(64, 96), (96, 64), (200, 120), (48, 48)])]
    load, told = serving.put_under_load(str(tfod_onnx(pad=False)), pictures, MINUTES, 64)
    assert load.wrong == [] and told["restarts"] == told["code"] == 0
    assert set(load.statuses) <= {200, 504, *range(400, 500)} and load.statuses[429] > 0
    assert np.quantile(load.seconds, 0.99) <= told["bound"]
    memory = [size for _, size in load.memory]
    middle = len(memory) // 2
    assert np.median(memory[-middle // 4 :]) <= 1.05 * np.median(memory[middle : middle + middle // 4 + 1])
