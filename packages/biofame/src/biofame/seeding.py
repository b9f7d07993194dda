"""Torch's generators, seeded by what they are for."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from tenfold import keyed


@contextmanager
def torch_seed(*key: str | int) -> Generator[None]:
    """Seed torch's generators by `key`; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(int(keyed.generator(*key).integers(2**63)))
        yield
