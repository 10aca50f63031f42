"""What enters a minibatch."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from resight.detection.sampler import balanced_sample


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_minibatch_keeps_to_its_limits(seed: int, positives: int, negatives: int, size: int) -> None:
    matches = torch.cat([torch.zeros(positives), torch.full((negatives,), -1), torch.full((7,), -2)]).long()
    matches = matches[torch.randperm(len(matches), generator=torch.Generator().manual_seed(seed))]
    positive, negative = balanced_sample(matches, size, 0.25, torch.Generator().manual_seed(seed))
    assert len(positive) == min(positives, int(size * 0.25))
    assert len(negative) == min(negatives, size - len(positive))
    assert (matches[positive] >= 0).all() and (matches[negative] == -1).all()
    assert len(set(positive.tolist())) == len(positive) and positive.tolist() == sorted(positive.tolist())


def test_every_negative_has_the_same_chance() -> None:
    matches = torch.full((10,), -1)
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[balanced_sample(matches, 3, 0.5, torch.Generator().manual_seed(seed))[1]] += 1
    assert (counts / 2000 - 0.3).abs().max() < 0.05
