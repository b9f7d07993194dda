"""Random generators named by what they are for, so that no draw depends on another."""

import hashlib
import json

import numpy as np


def generator(*key: str | int) -> np.random.Generator:
    """Return a counter-based generator that depends on `key` alone, e.g. `("scene", seed, 7)`."""
    digest = _digest(key)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def one_in(n: int, *key: str | int) -> bool:
    """Return whether `key` falls into a fixed share of 1/n of all keys."""
    return int.from_bytes(_digest(key), "little") % n == 0


def _digest(key: tuple[str | int, ...]) -> bytes:
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
