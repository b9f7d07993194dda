"""Keys for counter-based randomness: the same purpose gives the same numbers on every machine."""

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

WORDS = 8


def key_words(seed: int, *purpose: str | int) -> NDArray[np.uint64]:
    """Hash a seed and a purpose to eight 64-bit words, uint64[8]."""
    digest = hashlib.sha512(json.dumps([seed, *purpose]).encode()).digest()
    return np.frombuffer(digest, dtype="<u8")


def uniforms(words: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Draw `count` numbers inside the open interval (0, 1), float64[count].

    Made from Philox's raw words and not by a `Generator` method: numpy promises to keep the former
    from version to version, not the latter.
    """
    raw = np.random.Philox(key=words[:2]).random_raw(count)
    return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
