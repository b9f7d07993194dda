"""Which few windows of the training split keep their labels; torch-free.

Not here: the sweep over numbers of labels (`few_shot.py`).
"""

import logging

import numpy as np
from numpy.typing import NDArray

from tenfold import keyed

logger = logging.getLogger(__name__)


def wanted_count(labels: float, available: int) -> int:
    """Return how many windows a share in (0, 1) or a whole number of them is.

    Raises:
        ValueError: It is neither.
    """
    if 0 < labels < 1:
        return max(round(labels * available), 1)
    if labels < 1 or labels != int(labels):
        raise ValueError(
            f"data.labels must be a share in (0, 1) or a whole number of windows, got {labels:g}"
        )
    return int(labels)


def choose_by_class(
    labels: NDArray[np.int64], amount: float, *, seed: int, classes: int
) -> NDArray[np.int64]:
    """Return in order the windows that keep their label: each class in its proportion.

    Every class has at least one. More labels of the same seed add windows to those of fewer, but
    for rounding.

    Args:
        labels: Of the training windows, int64 `[n]`, -1 where unknown.
        amount: A share of the labelled windows or their number.
        seed: Key of the choice.
        classes: Number of classes.

    Raises:
        ValueError: There are fewer windows than asked for, fewer asked for than classes, or a class
            has none.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    if missing := np.flatnonzero(counts == 0).tolist():
        raise ValueError(
            f"data.labels {amount:g} needs a labelled training window of every class; there is "
            f"none of {', '.join(map(str, missing))} (classes count from 0)"
        )
    total = wanted_count(amount, int(counts.sum()))
    _check_enough(total, int(counts.sum()))
    if total < len(counts):
        if amount >= 1:
            raise ValueError(
                f"data.labels is {total}, fewer than the {len(counts)} classes: each needs one"
            )
        logger.warning("data.labels %g is one label for each of %d classes", amount, len(counts))
        total = len(counts)
    chosen = [
        keyed.generator("few labels", seed, label).permutation(np.flatnonzero(labels == label))[:n]
        for label, n in enumerate(shares_of(total, counts))
    ]
    return np.sort(np.concatenate(chosen))


def choose_any(available: int, amount: float, *, seed: int) -> NDArray[np.int64]:
    """Return in order the windows that keep their targets, where there are no classes.

    Raises:
        ValueError: There are fewer windows than asked for.
    """
    total = wanted_count(amount, available)
    _check_enough(total, available)
    return np.sort(keyed.generator("few targets", seed).permutation(available)[:total])


def shares_of(total: int, counts: NDArray[np.int64]) -> list[int]:
    """Deal `total` out in proportion to `counts`, by largest remainder, at least one each."""
    exact = total * counts / counts.sum()
    dealt = np.maximum(np.floor(exact).astype(np.int64), 1)
    while (rest := total - int(dealt.sum())) != 0:
        gap = exact - dealt
        if rest > 0:
            dealt[np.argmax(np.where(dealt < counts, gap, -np.inf))] += 1
        else:  # the least for each class was more than its share
            dealt[np.argmin(np.where(dealt > 1, gap, np.inf))] -= 1
    return dealt.tolist()


def _check_enough(total: int, available: int) -> None:
    if total > available:
        raise ValueError(
            f"data.labels is {total}, the training split has {available} labelled windows"
        )
