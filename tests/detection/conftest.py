import pytest
import torch


@pytest.fixture(scope="session")
def boxes_of():
    """``boxes_of(count, seed, side)``: boxes ``[count, 4]`` of 1 px or more within 1.5 times ``side``."""

    def drawn(count: int, seed: int, side: float = 200) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(count, 2, generator=generator) * side
        size = torch.rand(count, 2, generator=generator) * side / 2 + 1
        return torch.cat([corner, corner + size], 1)

    return drawn
