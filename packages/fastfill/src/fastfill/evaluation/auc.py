"""Points of a backfilling curve, the area below it and how soon it is high (spec 2.6, 4)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def cut_offs(size: int, steps: int) -> NDArray[np.int64]:
    """Return how many items hold the new embedding at each point, `floor(i * N / (B + 1))`.

    Args:
        size: Items N of the gallery.
        steps: Intermediate points B; with both ends there are B + 2.

    Raises:
        ValueError: No item, or a negative number of steps.
    """
    if size < 1 or steps < 0:
        raise ValueError(f"a curve needs size >= 1 and steps >= 0, got {size} and {steps}")
    return np.arange(steps + 2) * size // (steps + 1)


def auc_mean(values: ArrayLike) -> float:
    """Return the mean of the points, which is the published area."""
    return float(np.mean(np.asarray(values, dtype=np.float64)))


def auc_trapezoid(betas: ArrayLike, values: ArrayLike) -> float:
    """Return the area by trapezoids over the backfilled share, 0 to 1."""
    heights = np.asarray(values, np.float64)
    return float(np.diff(np.asarray(betas, np.float64)) @ (heights[1:] + heights[:-1]) / 2)


def beta_star(betas: ArrayLike, values: ArrayLike, *, share: float = 0.95) -> float:
    """Return the least backfilled share that brings `share` of what the update has to give.

    That is of the way from the first value to the last. Between points the curve is a line. 0 where
    the update gives nothing.

    Raises:
        ValueError: `share` is not in (0, 1], or the curve has fewer than two points.
    """
    shares, heights = np.asarray(betas, np.float64), np.asarray(values, np.float64)
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    if heights.size < 2 or heights.shape != shares.shape:
        raise ValueError(f"a curve needs two points or more, got {heights.size} of {shares.size}")
    goal = min(heights[0] + share * (heights[-1] - heights[0]), heights[-1])
    first = int(np.argmax(heights >= goal))
    if first == 0 or heights[-1] <= heights[0]:
        return float(shares[0])
    part = (goal - heights[first - 1]) / (heights[first] - heights[first - 1])
    return float(shares[first - 1] + part * (shares[first] - shares[first - 1]))


def negative_flips(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> int:
    """Return how many queries the old system answered rightly and the present one does not.

    Args:
        before: Hits of the old model on the old gallery `[Q]`.
        after: Hits now `[Q]`.

    Raises:
        ValueError: They are not of the same queries.
    """
    if before.shape != after.shape:
        raise ValueError(f"hits of {before.size} and of {after.size} queries: give the same ones")
    return int((before & ~after).sum())
