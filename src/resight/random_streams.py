"""Random draws that depend on what they are for and on nothing else.

Every draw comes from a generator keyed by the seed, a purpose and the numbers of the thing drawn for (epoch, record,
step). No global state takes part, so a run that was interrupted, or that uses other loader workers, draws the same.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, purpose: str, *keys: int) -> int:
    """A 63-bit seed, stable across processes, machines and versions of Python."""
    # numpy's integers are written in another way than Python's.
    digest = hashlib.blake2b(repr((int(seed), purpose, *map(int, keys))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_stream(seed: int, purpose: str, *keys: int) -> torch.Generator:
    import torch  # only here: exported models run without it

    return torch.Generator().manual_seed(stream_seed(seed, purpose, *keys))


def numpy_stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream_seed(seed, purpose, *keys)))
