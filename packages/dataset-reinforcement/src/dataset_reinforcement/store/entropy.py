"""Difficulty of a view: the entropy of the teacher's densified label (section 2.6). Torch-free."""

import numpy as np
from numpy.typing import NDArray


def densified_entropy(
    probabilities: NDArray[np.floating], *, num_classes: int
) -> NDArray[np.float64]:
    """Return `-sum_c q_c log q_c` in nats of labels whose rest is spread evenly.

    Args:
        probabilities: `[..., K]`; rows that sum to more than 1 are divided by their sum.
        num_classes: C, at least K.

    Returns:
        `[...]`.

    Raises:
        ValueError: K exceeds C.
    """
    top_k = probabilities.shape[-1]
    if top_k > num_classes:
        raise ValueError(f"{top_k} probabilities of {num_classes} classes; give at most as many")
    stored = probabilities.astype(np.float64)
    total = stored.sum(-1, keepdims=True)
    stored = stored / np.maximum(total, 1)
    others = num_classes - top_k
    if not others:
        return _plogp(stored).sum(-1)
    rest = np.clip(1 - total[..., 0], 0, 1)
    return _plogp(stored).sum(-1) + others * _plogp(rest / others)


def _plogp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return -values * np.log(np.where(values > 0, values, 1))
