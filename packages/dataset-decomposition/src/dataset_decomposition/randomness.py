"""Random streams named by what they are for, so that no result depends on the number of workers.

Only raw Philox bits are used: NumPy guarantees those for ever, but may change how `Generator`
methods turn them into numbers, and prepared data must have the same bytes after an upgrade.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_key(seed: int, *purpose: str | int) -> NDArray[np.uint64]:
    """Hash a seed and a purpose into a Philox key.

    Returns:
        uint64 `[2]`.
    """
    text = "\0".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)


def stream(key: NDArray[np.uint64], index: int = 0) -> np.random.Philox:
    """Open the stream of item `index` (a document, say) under `key`."""
    return np.random.Philox(key=key, counter=[0, index, 0, 0])


def integers_below(bits: np.random.Philox, bound: int, count: int) -> NDArray[np.int64]:
    """Draw `count` integers in `[0, bound)` for `bound` up to 2^31."""
    raw = bits.random_raw(count) >> np.uint64(32)
    return ((raw * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permutation(key: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Return the permutation of `range(count)` that belongs to `key`."""
    return np.argsort(stream(key).random_raw(count), kind="stable").astype(np.int64)
