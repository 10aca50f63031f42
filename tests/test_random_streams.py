import random

import numpy as np
import pytest
import torch

from resight.random_streams import numpy_stream, stream_seed, torch_stream


def test_a_seed_is_the_same_in_every_process_and_version():
    # Worked out once; another value would make resumed runs draw differently.
    assert stream_seed(42, "order", 3) == 5500105927861195030
    assert stream_seed(42, "order", np.int64(3)) == stream_seed(np.int32(42), "order", 3) == stream_seed(42, "order", 3)


def test_every_key_counts():
    keys = [(42, "order"), (43, "order"), (42, "scale"), (42, "order", 0), (42, "order", 0, 0), (42, "order", 1, 0),
            (42, "order", 0, 1), (42, "order", 10), (4, "2order")]  # fmt: skip
    assert len({stream_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= stream_seed(*key) < 2**63 for key in keys)


@pytest.mark.parametrize("stream", [torch_stream, numpy_stream])
def test_no_global_state_takes_part(stream):
    def draws():
        generator = stream(1, "test", 2)
        if isinstance(generator, torch.Generator):
            return torch.rand(4, generator=generator).tolist()
        return generator.random(4).tolist()

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = draws()
    assert torch.equal(before[0], torch.get_rng_state()) and random.getstate() == before[2]
    assert np.random.get_state()[1].tolist() == before[1]
    torch.rand(3), np.random.rand(3)
    assert draws() == first
