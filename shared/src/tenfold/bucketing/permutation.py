"""Shuffle n rows without an index of n entries: an alternating Feistel network over Z_a x Z_b.

The domain `a * b` exceeds n by less than sqrt(n) + 1; places that land outside walk on along their
cycle until they are inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA
2002). Good for shuffling, not for secrets.
"""

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from tenfold.bucketing.keys import WORDS

_MULTIPLIER_1 = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_2 = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def permute(places: NDArray[np.int64], size: int, words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Map places to rows by the permutation of `range(size)` that `words` selects.

    Args:
        places: int64[k], each in `[0, size)`.
        size: Number of rows.
        words: uint64[8] key of `keys.key_words`, one word per half-round.

    Returns:
        Rows, int64[k]. Distinct places give distinct rows.
    """
    rows = _encrypt(places.astype(np.uint64), size, words)
    outside = np.flatnonzero(rows >= size)
    while outside.size:
        rows[outside] = _encrypt(rows[outside], size, words)
        outside = outside[rows[outside] >= size]
    return rows.astype(np.int64)


def _encrypt(value: NDArray[np.uint64], size: int, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    height = isqrt(max(size - 1, 0)) + 1
    a, b = np.uint64(height), np.uint64(-(-size // height))
    high, low = np.divmod(value, b)
    for half_round in range(0, WORDS, 2):
        high = (high + _mix(low, words[half_round])) % a
        low = (low + _mix(high, words[half_round + 1])) % b
    return high * b + low


def _mix(value: NDArray[np.uint64], word: np.uint64) -> NDArray[np.uint64]:
    """Hash to 32 bits, so that the sum with a half of the value cannot overflow."""
    mixed = value ^ word
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> _HALF
    mixed *= _MULTIPLIER_2
    mixed >>= _HALF
    return mixed
